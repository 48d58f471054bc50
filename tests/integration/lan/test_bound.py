"""Sockets of the edge host that are bound to an address or device: placed by their packets, as a LAN client's are."""

from __future__ import annotations

import socket

import pytest

from skedge.core.model import Protocol
from skedge.core.objects import ListenerKey
from skedge.core.reasons import Reason

from .test_sockets import BOTH, KINDS, LOOPBACK, exchange, workload
from .world import EDGE_A, LISTEN, World, eventually


def bound(world: World, kind: int, source: str, device: str = "") -> socket.socket:
    made = world.socket(world.a.ns, kind, source)
    if device:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
    else:
        made.bind((source, 0))
    return made


WAYS = [
    *(("there", source, to) for source in ("host", "loopback") for to in ("host", "loopback")),
    *((where, "host", "host") for where in KINDS if where != "there"),
    ("near", "loopback", "loopback"),
]


@BOTH
@pytest.mark.parametrize(("where", "source", "to"), WAYS)
def test_tcp(world: World, where: str, source: str, to: str, v: int) -> None:
    addresses = {"host": EDGE_A[v], "loopback": LOOPBACK[v]}
    _, candidate = workload(world, where, v)
    world.a.service([candidate], *((address, LISTEN) for address in addresses.values()))
    for size in (1, 200_000):
        made = bound(world, socket.SOCK_STREAM, addresses[source])
        made.connect((addresses[to], LISTEN))
        assert made.getpeername()[:2] == (addresses[to], LISTEN)
        assert made.getsockname()[0] == addresses[source]
        assert world.a.open() == 1
        exchange(made, size)
        eventually(lambda: world.a.open() == 0, "the count ends")
    assert world.a.engine.reconcile_counts() == 0
    assert world.a.engine.suspended() == frozenset()


@BOTH
@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("where", KINDS)
def test_udp(world: World, where: str, v: int, connected: bool) -> None:
    _, candidate = workload(world, where, v, kind=socket.SOCK_DGRAM)
    world.a.service([candidate], (EDGE_A[v], LISTEN), protocol=Protocol.UDP)
    made = bound(world, socket.SOCK_DGRAM, EDGE_A[v])
    if connected:
        made.connect((EDGE_A[v], LISTEN))
    for question in (b"one", b"two", b"three"):
        if connected:
            made.send(question)
        else:
            made.sendto(question, (EDGE_A[v], LISTEN))
        answer, sender = made.recvfrom(9)
        assert (answer, sender[:2]) == (question, (EDGE_A[v], LISTEN))
    assert world.a.open() == 1


@BOTH
def test_the_rule_holds_and_bound_and_unbound_sockets_count_together(world: World, v: int) -> None:
    _, there = workload(world, "there", v, cost=2)
    _, near = workload(world, "near", v)
    world.a.service([there, near], (EDGE_A[v], LISTEN))
    made = []
    for number in range(10):
        one = (
            bound(world, socket.SOCK_STREAM, EDGE_A[v])
            if number % 2
            else world.socket(world.a.ns, socket.SOCK_STREAM, EDGE_A[v])
        )
        one.connect((EDGE_A[v], LISTEN))
        made.append(one)
    eventually(lambda: (world.a.open("there"), world.a.open("near")) == (4, 6), "4 and 6")
    receipts = list(world.a.engine.connections())
    assert {receipt.listener for receipt in receipts} == {ListenerKey(EDGE_A[v], LISTEN)}
    assert len(receipts) == len(made)


@BOTH
def test_a_device_other_than_lo_cannot_be(world: World, v: int) -> None:
    _, candidate = workload(world, "there", v)
    world.a.service([candidate], (LOOPBACK[v], LISTEN))
    before = world.a.drops().get(Reason.SOURCE_BOUND, 0)
    with pytest.raises(ConnectionRefusedError):
        bound(world, socket.SOCK_STREAM, EDGE_A[v], "lan0").connect((LOOPBACK[v], LISTEN))
    assert world.a.drops()[Reason.SOURCE_BOUND] == before + 1
    on_lo = bound(world, socket.SOCK_STREAM, EDGE_A[v], "lo")
    on_lo.connect((LOOPBACK[v], LISTEN))
    on_lo.sendall(b"x")
    assert on_lo.recv(1) == b"x"


@BOTH
def test_nobody_there_is_a_refusal_at_once(world: World, v: int) -> None:
    server, candidate = workload(world, "there", v)
    server.close()
    world.a.service([candidate], (EDGE_A[v], LISTEN))
    with pytest.raises(ConnectionRefusedError):
        bound(world, socket.SOCK_STREAM, EDGE_A[v]).connect((EDGE_A[v], LISTEN))
    eventually(lambda: world.a.open() == 0, "the count ends")
