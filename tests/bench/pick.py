"""What the pick itself costs among few and many workloads: the program's inline under BPF_PROG_TEST_RUN."""

from __future__ import annotations

import contextlib
import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from skedge.core.model import WorkloadId
from skedge.core.objects import Candidate, ServiceKey, ServiceTable, Target
from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf import layout_service as layout
from skedge.dataplane.ebpf.maps import Maps
from tests.integration.connect.kit import Host, Site

FEW, MANY = 2, 256
REPEAT = 20_000
ROOM_FOR_ANSWER = 200


@contextlib.contextmanager
def picks(few: int = FEW, many: int = MANY) -> Iterator[Callable[[], list[float]]]:
    """Load the programs and give what measures one round: µs of a pick among few workloads, among many, and more."""
    with tempfile.TemporaryDirectory() as directory:
        host = Host("bench", Path(directory))
        try:
            host.load()
            with host.inside():
                yield _rounds(Site(host), few, many)
        finally:
            host.close()


def _rounds(site: Site, few: int, many: int) -> Callable[[], list[float]]:
    services, order = site.engine.services, random.Random(1)
    maps = Maps(str(site.host.pins))
    maps.set_config(maps.config().replace(port_limit=0))  # these picks are never released
    program = syscall.obj_get(str(site.host.pins / "pick_test_v1"))
    for number in (few, many):
        services.put(ServiceKey(f"of-{number}"), _table(number))

    def once() -> list[float]:
        times = {}
        for number in order.sample([few, many], 2):
            ident = services.ids[ServiceKey(f"of-{number}")]
            question = struct.pack("=4IQ", ident, layout.IN | layout.T4, 0, 0, 0)
            packet = bytes(12) + b"\x08\x00" + question + bytes(ROOM_FOR_ANSWER)
            done = syscall.prog_test_run(program, packet, repeat=REPEAT)
            if done.retval != 0:
                raise RuntimeError(f"the pick among {number} workloads refused")
            times[number] = done.duration_ns / 1000
        return [times[few], times[many], times[many] - times[few]]

    return once


def _table(number: int) -> ServiceTable:
    made = [
        Candidate(WorkloadId(f"s{i:03}", "w"), i % 7, capacity=1, others=0, target4=Target("10.0.0.1", 1 + i))
        for i in range(number)
    ]
    return ServiceTable(tuple(made))
