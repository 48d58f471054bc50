"""BIG TCP: super-packets of more than 64 KiB, which have no length in their IP header and, over IPv6, one more header.

A container's or a virtual machine's device has them where the operator raised gso_max_size; a fast network card's where
gro_max_size was raised. A link device has them not, so the kernel cuts them up on the way there.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from skedge.core.reasons import Reason
from tests.integration.lan.test_sockets import KINDS, listeners, workload
from tests.integration.lan.world import EDGE_A, LISTEN, World, eventually

from .devices import LARGE, USUAL, Sizes, set_super_packets
from .streams import SIZE, pour, windows


@pytest.fixture(scope="module")
def standing_world(bpffs) -> Iterator[World]:
    made = World(bpffs)
    lans = [(made.a.ns, "lan0"), (made.a.ns, "lan1"), (made.b.ns, "lan0")]
    lans += [(ns, "eth0") for ns in (made.client, made.machine, made.far_machine)]
    for ns, device in lans:
        set_super_packets(ns, device, LARGE)
    windows(*(ns for ns, _ in lans))
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("where", KINDS)
def test_what_is_large_arrives_whole_in_both_directions(world: World, where: str, big: int) -> None:
    server, candidate = workload(world, where, big)
    server._echo = lambda made: None  # type: ignore[method-assign]
    world.a.service([candidate], *listeners(big))
    back = {"machine": (world.a.ns, "lan1"), "far_machine": (world.b.ns, "lan0")}.get(where, (world.a.ns, "lan0"))
    before = world.a.drops(), world.b.drops()
    for size in (1000, SIZE):
        made = world.connect(world.client, (EDGE_A[big], LISTEN))
        eventually(lambda n=size: len(server.accepted) == 1 + (n == SIZE), "accepted")
        with Sizes(world.a.ns, "lan0") as there:
            pour(made, server.accepted[-1], size)
        with Sizes(*back) as seen:
            pour(server.accepted[-1], made, size)
        if size == SIZE:
            assert there.largest > USUAL + 100
            assert seen.largest > USUAL + 100 or where in ("near", "there"), "a workload on a host sends over no LAN"
        made.close()
        eventually(lambda: world.a.open() == 0, "the count ends")
    assert (world.a.drops(), world.b.drops()) == before, "what is refused comes again, in smaller pieces"
    assert world.a.engine.reconcile_counts() == 0


def test_a_path_that_narrows_is_told_to_who_sends_large_ones(world: World, big: int) -> None:
    """The link's MTU falls while the connection is open: the error quotes the headers of one segment."""
    server, candidate = workload(world, "there", big)
    server._echo = lambda made: None  # type: ignore[method-assign]
    world.a.service([candidate], *listeners(big))
    made = world.connect(world.client, (EDGE_A[big], LISTEN))
    eventually(lambda: server.accepted, "accepted")
    pour_some, link = 20_000_000, world.a.device(world.b.name)
    before = world.a.drops().get(Reason.TOO_BIG, 0)
    world.a.ns.ip("link", "set", link, "mtu", "1300")
    try:
        pour(made, server.accepted[0], pour_some)
    finally:
        world.a.ns.ip("link", "set", link, "mtu", "1450")
    assert world.a.drops()[Reason.TOO_BIG] > before
