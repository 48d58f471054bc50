"""BIG TCP over a direct link, whose device and underlay take super-packets of more than 64 KiB.

That is what a site sees of its neighbour where gro_max_size of the card beneath was raised.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.lan.kit import Site
from tests.integration.lan.test_sockets import listeners, workload
from tests.integration.lan.world import EDGE_A, LISTEN, World, eventually

from .devices import LARGE, USUAL, Sizes, set_super_packets
from .streams import SIZE, pour, windows


class DirectWorld(World):
    """`World` with a direct link."""

    def put_link(self, one: Site, other: Site, local: str, remote: str) -> None:
        one.ns(one.links.put, one.device(other.name), one.direct(other.name, "under0"))


@pytest.fixture(scope="module")
def standing_world(bpffs) -> Iterator[World]:
    made = DirectWorld(bpffs)
    wide = [(made.client, "eth0"), (made.far_machine, "eth0")]
    for one, other in ((made.a, made.b), (made.b, made.a)):
        wide += [(one.ns, device) for device in ("lan0", "under0", one.device(other.name))]
    for ns, device in wide:
        set_super_packets(ns, device, LARGE)
    windows(*(ns for ns, _ in wide))
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("where", ["there", "far_machine"])
@pytest.mark.parametrize("who", ["client", "host"])
def test_what_is_large_arrives_whole_in_both_directions(world: World, who: str, where: str, big: int) -> None:
    server, candidate = workload(world, where, big)
    server._echo = lambda made: None  # type: ignore[method-assign]
    world.a.service([candidate], *listeners(big))
    made = world.connect({"client": world.client, "host": world.a.ns}[who], (EDGE_A[big], LISTEN))
    eventually(lambda: server.accepted, "accepted")
    before = world.a.drops(), world.b.drops()
    with Sizes(world.b.ns, world.b.device(world.a.name)) as there:
        pour(made, server.accepted[0], SIZE)
    with Sizes(world.a.ns, world.a.device(world.b.name)) as back:
        pour(server.accepted[0], made, SIZE)
    assert min(there.largest, back.largest) > USUAL + 100
    assert (world.a.drops(), world.b.drops()) == before, "what is refused comes again, in smaller pieces"
    made.close()
    eventually(lambda: world.a.open() == 0, "the count ends")
    assert world.a.engine.reconcile_counts() == 0
