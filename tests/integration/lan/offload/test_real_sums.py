"""A VXLAN link over a network card that checks no sums: what comes out of the tunnel has a sum over all of it.

The kernel has then summed up the outer packet, and makes the rest of that into CHECKSUM_COMPLETE of the inner one. A
machine behind a veth (a container) gets the packet with it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from skedge.core.model import Protocol
from tests.integration.lan.test_sockets import BOTH, workload
from tests.integration.lan.world import EDGE_A, LISTEN, World

from .observer import SumsSeen


@pytest.fixture(scope="module")
def standing_world(bpffs) -> Iterator[World]:
    made = World(bpffs)
    for ns in (made.a.ns, made.b.ns):
        ns.sh("ethtool -K under0 tx off")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def seen(world: World) -> Iterator[SumsSeen]:
    with SumsSeen(world.client, "eth0") as made:
        yield made


@BOTH
def test_answers_to_a_machine_of_the_lan(world: World, seen: SumsSeen, v: int) -> None:
    _, candidate = workload(world, "there", v, kind=socket.SOCK_DGRAM)
    world.a.service([candidate], (EDGE_A[v], LISTEN), protocol=Protocol.UDP)
    made = world.socket(world.client, socket.SOCK_DGRAM, EDGE_A[v])
    made.settimeout(1)
    for size in range(20, 120, 4):
        with contextlib.suppress(TimeoutError) if size == 20 else contextlib.nullcontext():
            made.sendto(bytes(size), (EDGE_A[v], LISTEN))
            assert made.recv(1000) == bytes(size)
    none, right, wrong = seen.counts()
    assert (right >= 20, wrong) == (True, 0), (none, right, wrong)
