"""What each Debian's compiler makes of the programs is taken by this kernel's verifier, with room to spare."""

from __future__ import annotations

from pathlib import Path

import pytest

from skedge.core.observed import Origin
from skedge.dataplane.bpf.programs import PROGRAMS
from skedge.loader import bytecode, constants, load_image
from skedge.loader.compiling.sources import compilations
from skedge.loader.loading import NAT_FLOWS
from tests.kit import builders, verifier
from tests.lab.image import SUITES


def no_compiler(*_: object) -> tuple[()]:
    raise AssertionError("all of it is there")


@pytest.mark.parametrize("suite", SUITES)
def test_every_program_of_each_compiler_is_taken_with_room_to_spare(suite: str, tmp_path: Path) -> None:
    """Nothing is pinned, so nothing needs a place to stand: the kernel has it for the length of the test."""
    directory = builders.built(suite)
    numbers = {**constants.kernel_defines(), **constants.of_site(NAT_FLOWS)}
    units = compilations(PROGRAMS)
    found = bytecode.obtain(units, directory, None, compiler=no_compiler)
    assert (found.origin, found.trouble) == (Origin.CACHED, "")
    members = [(unit, one.programs) for unit, one in zip(found.units, units, strict=True)]
    with load_image.load(members, tmp_path, constants.map_sizes(1024), numbers) as loaded:
        assert loaded.programs.keys() == {one.pin for one in PROGRAMS}
        # an iterator is a link here, of which the kernel does not tell it
        walked = {pin: verifier.walked_by(fd) for pin, fd in loaded.programs.items()}
    assert {"connect4_v1", "lan_odd_v1", "link_ingress_v1"} <= walked.keys()
    assert {name: count for name, count in walked.items() if count > verifier.ROOM} == {}
    assert sum(walked.values()) <= verifier.ALL_ROOM
