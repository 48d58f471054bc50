"""Which programs look into the older storage too, and what stays when it is gone."""

from __future__ import annotations

import re
from pathlib import Path

from skedge.dataplane.bpf.programs import OLD_ITERATORS, PICK_TEST, PROGRAMS
from skedge.dataplane.ebpf.layout_placement import SPARE_WORDS, PlacementRecord
from skedge.loader import old_placements
from skedge.loader.compiling.sources import source_text

ASKS = re.compile(r"\b(placement_lookup|placement_create|socket_release|udp_flows_\w+)\(\w*sk\b")


def test_there_and_back() -> None:
    beside = old_placements.beside(PROGRAMS)
    assert {one.pin for one in beside} == {one.pin for one in (*PROGRAMS, *OLD_ITERATORS)}
    assert old_placements.beside(beside) == beside
    assert old_placements.alone(beside) == old_placements.alone(PROGRAMS) == PROGRAMS


def test_every_program_that_asks_for_placements_of_sockets_knows_both_storages() -> None:
    for one in old_placements.beside((*PROGRAMS, PICK_TEST)):
        text = source_text(one.source).replace("struct bpf_sock *", "")
        asks = bool(ASKS.search(re.sub(r"static __always_inline[^{;]*", "", text)))
        if not one.iterates:
            assert asks == (old_placements.MACRO in one.defines), one


def test_programs_end_before_they_make() -> None:
    """The order of attaching: while versions are mixed, nobody places what nobody ends."""
    order = [one.pin for one in old_placements.beside(PROGRAMS) if one.cgroup]
    makes = [order.index(f"{hook}_v1") for hook in ("connect4", "connect6", "sendmsg4", "sendmsg6")]
    ends = [order.index(f"{hook}_v1") for hook in ("sock_release", "sock_ops", "recvmsg4", "recvmsg6")]
    assert max(ends) < min(makes)


def test_the_old_storage_goes_with_its_iterators(tmp_path: Path) -> None:
    names = {*old_placements.MAPS, *(one.pin for one in OLD_ITERATORS)}
    for name in (*names, "placements_v2"):
        (tmp_path / name).touch()
    assert old_placements.exist(tmp_path)
    old_placements.forget(tmp_path)
    old_placements.forget(tmp_path)
    assert {one.name for one in tmp_path.iterdir()} == {"placements_v2"}
    assert not old_placements.exist(tmp_path)


def test_a_stored_record_is_a_record_with_words_behind_it() -> None:
    one = PlacementRecord.STRUCT.pack(7, bytes(16), 8, 0, 9, *[0] * 2, bytes(16), bytes(16), b"\0\1", 0, b"\0\2", 0,
                                      6, *[0] * 3, *range(1, 9), *[0] * 6)  # fmt: skip
    words = bytes(range(8 * SPARE_WORDS))
    stored = list(PlacementRecord.unpack_all((one + words) * 2, PlacementRecord.STORED))
    assert stored == [*PlacementRecord.unpack_all(one), *PlacementRecord.unpack_all(one)]
