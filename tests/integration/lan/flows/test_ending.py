"""Flows of the LAN that are ended on purpose: deleted, given back, and both ends told by resets that they believe."""

from __future__ import annotations

import socket
import struct
import time

import pytest

from skedge.core.ending import Ends, Open, Selection, of_client, of_workload
from skedge.core.objects import Target
from skedge.dataplane.ending.flows import FlowEnder
from skedge.dataplane.ending.sockets import SocketEnder

from ..kit import Site
from ..test_bound import bound
from ..test_sockets import BOTH, workload
from ..world import CLIENT, EDGE_A, LISTEN, Server, World, eventually

TCP_CLOSE = 7
FLOWS = pytest.mark.parametrize("where", ["machine", "hairpin", "there", "far_machine"])


def find(site: Site, *ends: Ends, silent_since: float | None = None) -> list[Open]:
    return list(site.ns(FlowEnder(str(site.pin_dir)).find, Selection(ends, silent_since=silent_since)))


def end(site: Site, found: list[Open]) -> int:
    return int(site.ns(FlowEnder(str(site.pin_dir)).end, found))


def is_closed(made: socket.socket) -> bool:
    return made.fileno() < 0 or made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE


def echoes(made: socket.socket) -> bool:
    made.sendall(b"x")
    return made.recv(9) == b"x"


def three(world: World, where: str, v: int) -> tuple[Server, list[socket.socket], Target]:
    server, candidate = workload(world, where, v)
    world.a.service([candidate], (EDGE_A[v], LISTEN))
    made = [world.connect(world.client, (EDGE_A[v], LISTEN)) for _ in range(3)]
    assert all(echoes(one) for one in made)
    target = candidate.target4 if v == 4 else candidate.target6
    assert target is not None
    return server, made, target


@BOTH
@FLOWS
def test_both_ends_learn_of_it_at_once_and_others_go_on(world: World, where: str, v: int) -> None:
    server, made, target = three(world, where, v)
    port = made[0].getsockname()[1]
    found = find(world.a, *of_client(CLIENT[v], port))
    assert len(found) == 1
    assert end(world.a, found) == 1
    with pytest.raises(ConnectionResetError):
        made[0].recv(1)
    eventually(lambda: sum(map(is_closed, server.accepted)) == 1, "the workload's end is told")
    assert all(echoes(one) for one in made[1:])
    assert world.a.open() == 2
    assert end(world.a, found) == 0, "it is gone"
    found = find(world.a, *of_workload([target]))
    assert end(world.a, found) == len(found) == 2
    for one in made[1:]:
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    eventually(lambda: all(map(is_closed, server.accepted)), "all of the workload's ends are told")
    assert world.a.open() == 0
    assert world.a.engine.reconcile_counts() == 0
    again = world.connect(world.client, (EDGE_A[v], LISTEN), source=(CLIENT[v], port))
    assert echoes(again), "the same client's port serves anew"


@BOTH
def test_what_other_sites_have_at_a_machine_of_the_lan_is_ended_at_its_own_site(world: World, v: int) -> None:
    server, made, _ = three(world, "far_machine", v)
    addresses = {one.sides[0][1].address for one in find(world.b, Ends(near_port=61001))}
    assert len(addresses) == 1, "all come from A's NAT address"
    found = find(world.b, Ends(far=addresses.pop()))
    assert end(world.b, found) == 3
    for one in made:
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    eventually(lambda: all(map(is_closed, server.accepted)), "the workload's ends are told")
    eventually(lambda: world.a.open() == 0, "the counts at A")


def test_only_the_far_end_says_that_it_lives(world: World) -> None:
    _, made, target = three(world, "there", 4)
    time.sleep(0.3)
    since = time.monotonic()
    time.sleep(0.05)
    assert echoes(made[0])
    silent = find(world.a, *of_workload([target]), silent_since=since)
    assert {one.sides[0][1].port for one in silent} == {one.getsockname()[1] for one in made[1:]}


def test_a_flow_that_has_the_place_of_another_is_not_meant(world: World) -> None:
    server, made, target = three(world, "there", 4)
    found = find(world.a, *of_workload([target]))
    name = made[0].getsockname()
    made[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it closes by a reset
    made[0].close()
    eventually(lambda: world.a.open() == 2, "ended by itself")
    again = world.connect(world.client, (EDGE_A[4], LISTEN), source=name)
    assert echoes(again)
    assert end(world.a, found) == 2
    assert echoes(again)
    assert len(server.accepted) == 4


@BOTH
@pytest.mark.parametrize("where", ["machine", "there"])
def test_a_socket_of_this_host_that_has_a_flow_is_told_by_itself(world: World, where: str, v: int) -> None:
    server, candidate = workload(world, where, v)
    world.a.service([candidate], (EDGE_A[v], LISTEN))
    made = bound(world, socket.SOCK_STREAM, EDGE_A[v])
    made.connect((EDGE_A[v], LISTEN))
    assert echoes(made)
    found = find(world.a, *of_client(EDGE_A[v], made.getsockname()[1]))
    assert len(found) == 1
    assert end(world.a, found) == 1
    with pytest.raises(ConnectionAbortedError):
        made.recv(1)
    eventually(lambda: all(map(is_closed, server.accepted)), "the workload's end is told")
    eventually(lambda: world.a.open() == 0, "the count")


def test_a_client_of_the_lan_at_a_socket_of_this_host_is_ended_by_that_socket(world: World) -> None:
    server, made, _ = three(world, "near", 4)
    assert find(world.a, *of_client(CLIENT[4])) == []
    ender = SocketEnder()
    found = world.a.ns(ender.find, Selection(of_client(CLIENT[4], made[0].getsockname()[1])))
    assert world.a.ns(ender.end, found) == 1
    with pytest.raises(ConnectionResetError):
        made[0].recv(1)
    assert sum(map(is_closed, server.accepted)) == 1
    assert all(echoes(one) for one in made[1:])
    eventually(lambda: world.a.open() == 2, "the count")
