"""What the pick itself costs among few and many workloads: the program's inline under BPF_PROG_TEST_RUN."""

from __future__ import annotations

import random
import statistics
import struct
import tempfile
from pathlib import Path

from skedge.core.model import WorkloadId
from skedge.core.objects import Candidate, ServiceKey, ServiceTable, Target
from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf import layout_placement as layout
from skedge.dataplane.ebpf.maps import Maps
from tests.integration.connect.kit import Host, Site

FEW, MANY = 2, 256
REPEAT, ROUNDS = 20_000, 25
ROOM_FOR_ANSWER = 200


def pick_cost(few: int = FEW, many: int = MANY) -> tuple[float, float]:
    """Return the median time of one pick in ns among few workloads, and among many; measured in turn."""
    with tempfile.TemporaryDirectory() as directory:
        host = Host("bench", Path(directory))
        try:
            host.load()
            with host.inside():
                return _measure(Site(host), few, many)
        finally:
            host.close()


def _measure(site: Site, few: int, many: int) -> tuple[float, float]:
    services = site.engine.services
    times: dict[int, list[int]] = {few: [], many: []}
    maps = Maps(str(site.host.pins))
    maps.set_config(maps.config().replace(port_limit=0))  # these picks are never released
    program = syscall.obj_get(str(site.host.pins / "pick_test_v1"))
    for number in times:
        services.put(ServiceKey(f"of-{number}"), _table(number))
    order = random.Random(1)
    for _ in range(ROUNDS):
        for number in order.sample(sorted(times), 2):
            ident = services.ids[ServiceKey(f"of-{number}")]
            question = struct.pack("=4IQ", ident, layout.IN | layout.T4, 0, 0, 0)
            packet = bytes(12) + b"\x08\x00" + question + bytes(ROOM_FOR_ANSWER)
            done = syscall.prog_test_run(program, packet, repeat=REPEAT)
            if done.retval != 0:
                raise RuntimeError(f"the pick among {number} workloads refused")
            times[number].append(done.duration_ns)
    return statistics.median(times[few]), statistics.median(times[many])


def _table(number: int) -> ServiceTable:
    made = [Candidate(WorkloadId(f"s{i:03}", "w"), i % 7, 1, 0, Target("10.0.0.1", 1 + i)) for i in range(number)]
    return ServiceTable(tuple(made))
