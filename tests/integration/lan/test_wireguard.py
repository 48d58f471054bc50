"""The LAN of one site and workloads of the other over a WireGuard link, whose packets have no link-layer header."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.links.devices.wg import Go, kernel_has_wireguard

from .kit import Site
from .test_large_datagrams import echo, served
from .test_sockets import BOTH, exchange, listeners, workload
from .world import EDGE_A, LISTEN, World, eventually


class WireGuardWorld(World):
    """`World` with a WireGuard link."""

    def put_link(self, one: Site, other: Site, local: str, remote: str) -> None:
        device = one.device(other.name)
        if not kernel_has_wireguard():
            self._undo.callback(Go(one.ns, one.sockets, device).close)
        one.ns(one.links.put, device, one.wg(other, 5000 + int(local[-1]), remote, 5000 + int(remote[-1])))


@pytest.fixture(scope="module")
def standing_world(bpffs: Path) -> Iterator[World]:
    made = WireGuardWorld(bpffs)
    try:
        yield made
    finally:
        made.close()


@BOTH
@pytest.mark.parametrize("where", ["there", "far_machine"])
def test_bytes_go_and_come_back_exactly(world: World, where: str, v: int) -> None:
    _, candidate = workload(world, where, v)
    world.a.service([candidate], *listeners(v))
    for size in (1, 1000, 500_000):
        made = world.connect(world.client, (EDGE_A[v], LISTEN))
        assert world.a.open() == 1
        exchange(made, size)
        eventually(lambda: world.a.open() == 0, f"{where}: {size} bytes, the count ends")


@BOTH
@pytest.mark.parametrize("where", ["there", "far_machine"])
def test_datagrams_come_back(world: World, where: str, v: int) -> None:
    """Large ones, too: cut up and put together without a link-layer header; over IPv6 senders are told what fits."""
    _, made = served(world, where, v)
    for size in (1, 1000, 1480, 4000, 30_000):
        echo(made, (EDGE_A[v], LISTEN), size, lost=True)
