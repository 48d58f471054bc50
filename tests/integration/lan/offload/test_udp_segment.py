"""Datagrams that a sender hands over many at once (UDP_SEGMENT), or a device joins (rx-udp-gro-forwarding).

Each arrives as it was, through listeners of the LAN and of the host.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from skedge.core.model import Protocol
from skedge.core.reasons import Reason
from tests.integration.lan.test_large_datagrams import IP_MTU_DISCOVER, content, served
from tests.integration.lan.test_sockets import BOTH, KINDS, workload
from tests.integration.lan.world import EDGE_A, LISTEN, World
from tests.integration.links.test_large_datagrams import send_often

from .devices import Sizes

UDP_SEGMENT = 103
SEGMENT, NUMBER = 1200, 40


@pytest.fixture(params=["plain", "joined"], scope="module")
def standing_world(bpffs, request: pytest.FixtureRequest) -> Iterator[World]:
    """``joined``: the LAN's devices make super-packets of what arrives, from whomever."""
    made = World(bpffs)
    if request.param == "joined":
        for ns, device in ((made.a.ns, "lan0"), (made.a.ns, "lan1"), (made.b.ns, "lan0")):
            ns.sh(f"ethtool -K {device} gro on rx-udp-gro-forwarding on")
    try:
        yield made
    finally:
        made.close()


def burst(made: socket.socket, to: tuple[str, int], segment: int = SEGMENT) -> list[bytes]:
    """Send many datagrams in one call, the last one shorter; return them."""
    data = content(segment * NUMBER - 7)
    made.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
    made.sendto(data, to)
    made.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
    return [data[at : at + segment] for at in range(0, len(data), segment)]


def received(made: socket.socket, number: int = NUMBER) -> list[bytes]:
    return [made.recv(1 << 16) for _ in range(number)]


@BOTH
@pytest.mark.parametrize("where", KINDS)
@pytest.mark.parametrize("summed", ["on", "off"])
def test_many_at_once_arrive_one_by_one_and_so_do_the_answers(world: World, where: str, v: int, summed: str) -> None:
    _, made = served(world, where, v)
    to = EDGE_A[v], LISTEN
    made.sendto(b"first", to)
    assert received(made, 1) == [b"first"]
    before = world.a.drops(), world.b.drops()
    world.client.sh(f"ethtool -K eth0 tx {summed}")  # off: the sender's own device cuts them up
    try:
        with Sizes(world.a.ns, "lan0") as seen:
            for _ in range(3):
                sent = burst(made, to)
                assert received(made) == sent
    finally:
        world.client.sh("ethtool -K eth0 tx on")
    assert seen.largest > (SEGMENT * NUMBER if summed == "on" else SEGMENT)
    assert (world.a.drops(), world.b.drops()) == before


@BOTH
@pytest.mark.parametrize("where", ["near", "machine", "there", "far_machine"])
def test_a_client_on_the_host_itself(world: World, where: str, v: int) -> None:
    served(world, where, v)
    mine = world.socket(world.a.ns, socket.SOCK_DGRAM, EDGE_A[v])
    mine.connect((EDGE_A[v], LISTEN))
    mine.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SEGMENT)
    data = content(SEGMENT * NUMBER - 7)
    for _ in range(3):
        mine.send(data)
        assert received(mine) == [data[at : at + SEGMENT] for at in range(0, len(data), SEGMENT)]


@BOTH
@pytest.mark.parametrize("where", KINDS)
def test_a_workload_may_answer_with_many_at_once(world: World, where: str, v: int) -> None:
    server, candidate = workload(world, where, v, kind=socket.SOCK_DGRAM)
    world.a.service([candidate], (EDGE_A[v], LISTEN), protocol=Protocol.UDP)
    made = world.socket(world.client, socket.SOCK_DGRAM, EDGE_A[v])
    made.sendto(b"first", (EDGE_A[v], LISTEN))
    assert received(made, 1) == [b"first"]
    before = world.a.drops(), world.b.drops()
    for _ in range(3):
        sent = burst(server.socket, server.peers[0])
        assert received(made) == sent
    assert (world.a.drops(), world.b.drops()) == before


@BOTH
def test_segments_that_are_too_big_for_the_link_are_told_of(world: World, v: int) -> None:
    """With DF, which a sender of UDP_SEGMENT has by default: it learns the size, and may ask again."""
    _, made = served(world, "there", v)
    made.connect((EDGE_A[v], LISTEN))
    made.setsockopt(socket.IPPROTO_IPV6 if v == 6 else socket.IPPROTO_IP, 23 if v == 6 else IP_MTU_DISCOVER, 2)
    before = world.a.drops().get(Reason.TOO_BIG, 0)
    made.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1440)
    made.send(content(1440 * 10))
    with pytest.raises(OSError, match=r"too long|Invalid argument"):
        send_often(made, 1440 * 10)
    assert world.a.drops()[Reason.TOO_BIG] > before
