"""Real sockets through two edge hosts: every kind of flow, both families, TCP and UDP; the rule, and the counts."""

from __future__ import annotations

import hashlib
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skedge.core.model import Protocol
from skedge.core.reasons import Reason
from skedge.core.state import Candidate

from .kit import remote
from .world import CLIENT, EDGE_A, FAR_MACHINE, LISTEN, MACHINE, Server, World, eventually

BOTH = pytest.mark.parametrize("v", [4, 6])
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
KINDS = ("near", "machine", "hairpin", "there", "far_machine")
SIZE = 2_000_000


@pytest.fixture(scope="module")
def standing(bpffs: Path) -> Iterator[World]:
    made = World(bpffs)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def world(standing: World) -> Iterator[World]:
    yield standing
    standing.clean()


def workload(world: World, where: str, v: int, cost: int = 0, kind: int = socket.SOCK_STREAM,
             port: int = 61001, name: str = "") -> tuple[Server, Candidate]:  # fmt: skip
    """A real server at one of the places, and the candidate that site A has for it."""
    protocol = Protocol.TCP if kind == socket.SOCK_STREAM else Protocol.UDP
    name = name or where.replace("_", "-")
    ns, address = {
        "near": (world.a.ns, LOOPBACK[v]),
        "machine": (world.machine, MACHINE[v]),
        "hairpin": (world.client, CLIENT[v]),
        "there": (world.b.ns, LOOPBACK[v]),
        "far_machine": (world.far_machine, FAR_MACHINE[v]),
    }[where]
    server = world.server(ns, address, kind)
    if where in ("there", "far_machine"):
        world.endpoint(port, address, server.port, protocol, elsewhere=where == "far_machine")
        return server, remote(name, cost, (world.b.overlay(v), port))
    return server, remote(name, cost, (address, server.port), local=True, elsewhere=where != "near")


def listeners(v: int) -> tuple[tuple[str, int], ...]:
    return ((EDGE_A[v], LISTEN),)


def exchange(made: socket.socket, size: int) -> None:
    """Send and get back exactly the same bytes, with the client's half closed while answers still come."""
    sent = (hashlib.sha256(str(size).encode()).digest() * (size // 32 + 1))[:size]
    got = bytearray()
    made.setblocking(False)
    at, until = 0, time.monotonic() + 20
    while True:
        assert time.monotonic() < until, f"{at} bytes sent, {len(got)} received"
        try:
            if at < size:
                at += made.send(sent[at : at + (1 << 16)])
                if at == size:
                    made.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        try:
            part = made.recv(1 << 16)
            if not part:
                break
            got += part
        except BlockingIOError:
            time.sleep(0.0002)
    assert bytes(got) == sent
    made.close()


@BOTH
@pytest.mark.parametrize("where", KINDS)
def test_bytes_go_and_come_back_exactly(world: World, where: str, v: int) -> None:
    server, candidate = workload(world, where, v)
    world.a.service([candidate], *listeners(v))
    for size in (1, 100, 1000, 500_000, SIZE):
        made = world.connect(world.client, (EDGE_A[v], LISTEN))
        assert made.getpeername()[:2] == (EDGE_A[v], LISTEN)
        assert world.a.open() == 1
        exchange(made, size)
        eventually(lambda: world.a.open() == 0, f"{where}: {size} bytes, the count ends")
    seen = {peer for peer, _ in server.peers}
    expected = {"near": CLIENT[v], "machine": {4: "10.60.3.1", 6: "fd60:3::1"}[v], "hairpin": EDGE_A[v],
                "there": world.a.overlay(v), "far_machine": {4: "10.60.2.1", 6: "fd60:2::1"}[v]}  # fmt: skip
    assert seen == {expected[where]}
    assert world.a.engine.reconcile_counts() == 0
    assert world.a.engine.suspended() == frozenset()


@BOTH
@pytest.mark.parametrize("where", KINDS)
def test_the_server_may_close_its_half_first(world: World, where: str, v: int) -> None:
    server, candidate = workload(world, where, v)
    world.a.service([candidate], *listeners(v))
    made = world.connect(world.client, (EDGE_A[v], LISTEN))
    eventually(lambda: server.accepted, "accepted")
    server.accepted[0].shutdown(socket.SHUT_WR)
    assert made.recv(9) == b""
    assert world.a.open() == 1
    made.sendall(b"still heard")
    made.close()
    eventually(lambda: world.a.open() == 0, "the count ends")


@BOTH
@pytest.mark.parametrize("where", KINDS)
def test_datagrams(world: World, where: str, v: int) -> None:
    server, candidate = workload(world, where, v, kind=socket.SOCK_DGRAM)
    world.a.service([candidate], *listeners(v), protocol=Protocol.UDP)
    made = world.socket(world.client, socket.SOCK_DGRAM, EDGE_A[v])
    for size in (1, 2, 100, 1400 - 48 - 4):
        made.sendto(bytes(size), (EDGE_A[v], LISTEN))
        data, sender = made.recvfrom(2000)
        assert (data, sender[:2]) == (bytes(size), (EDGE_A[v], LISTEN))
    assert world.a.open() == 1
    assert len(set(server.peers)) == 1
    assert world.a.engine.reconcile_counts() == 0


@BOTH
def test_half_on_the_host_half_on_the_lan(world: World, v: int) -> None:
    """A -10- B -20- C of the design: 47, 37, 16 of 100, whoever asks."""
    table = [workload(world, "near", v, 0)[1], workload(world, "there", v, 10, port=61001)[1],
             workload(world, "far_machine", v, 30, port=61002)[1]]  # fmt: skip
    world.a.service(table, *listeners(v))
    held = [world.connect((world.client, world.a.ns)[n % 2], (EDGE_A[v], LISTEN)) for n in range(100)]
    assert [world.a.open(name) for name in ("near", "there", "far-machine")] == [47, 37, 16]
    assert world.a.engine.reconcile_counts() == 0
    assert world.a.engine.stale_picks() == 0
    for one in held:
        one.close()
    eventually(lambda: world.a.open() == 0, "all counts end")
    assert world.a.engine.reconcile_counts() == 0


@pytest.mark.parametrize(
    ("costs", "number", "split"),
    [((0, 1), 20, [11, 9]), ((0, 9999), 20, [20, 0]), ((0, 10, 30), 50, [30, 20, 0]), ((1, 50), 100, [75, 25])],
)
def test_the_reference_splits(world: World, costs: tuple[int, ...], number: int, split: list[int]) -> None:
    places = ("near", "there", "far_machine") if costs[0] == 0 else ("there", "far_machine")
    table = [
        workload(world, place, 4, cost, port=61001 + i)[1]
        for i, (place, cost) in enumerate(zip(places, costs, strict=True))
    ]
    world.a.service(table, *listeners(4))
    held = [world.connect((world.client, world.a.ns)[n % 2], (EDGE_A[4], LISTEN)) for n in range(number)]
    assert [world.a.open(one.workload.site) for one in table] == split
    for one in held:
        one.close()
    eventually(lambda: world.a.open() == 0, "all counts end")


def reset(made: socket.socket) -> None:
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.close()


@pytest.mark.parametrize("where", KINDS)
def test_a_reset_of_either_side_ends_the_count(world: World, where: str) -> None:
    server, candidate = workload(world, where, 4)
    world.a.service([candidate], *listeners(4))
    made = world.connect(world.client, (EDGE_A[4], LISTEN))
    eventually(lambda: len(server.accepted) == 1, "accepted")
    reset(made)
    eventually(lambda: world.a.open() == 0, "the client's reset")
    made = world.connect(world.client, (EDGE_A[4], LISTEN))
    eventually(lambda: len(server.accepted) == 2, "accepted")
    made.sendall(b"x")
    assert made.recv(1) == b"x"
    server.accepted[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.accepted[1].shutdown(socket.SHUT_RD)
    server.accepted[1].close()
    made.close()
    eventually(lambda: world.a.open() == 0, "the workload's end")
    assert world.a.engine.reconcile_counts() == 0


@pytest.mark.parametrize("where", KINDS)
def test_a_workload_that_refuses_is_suspended(world: World, where: str) -> None:
    server, candidate = workload(world, where, 4)
    server.close()
    world.a.service([candidate], *listeners(4))
    with pytest.raises(ConnectionRefusedError):
        world.connect(world.client, (EDGE_A[4], LISTEN))
    assert world.a.open() == 0
    assert [one.site for _, one in world.a.engine.suspended()] == [candidate.workload.site]
    world.a.engine.resume(candidate.workload)


def test_no_workload_refuses_at_once(world: World) -> None:
    world.a.service([], *listeners(4))
    before = world.a.engine.drops().get(Reason.NO_WORKLOAD, 0)
    with pytest.raises(ConnectionRefusedError):
        world.connect(world.client, (EDGE_A[4], LISTEN))
    assert world.a.engine.drops()[Reason.NO_WORKLOAD] == before + 1


@pytest.mark.parametrize("where", KINDS)
def test_a_client_port_is_used_again(world: World, where: str) -> None:
    server, candidate = workload(world, where, 4)
    world.a.service([candidate], *listeners(4))
    for turn in range(3):
        made = world.connect(world.client, (EDGE_A[4], LISTEN), source=(CLIENT[4], 20001))
        eventually(lambda n=turn: len(server.accepted) == n + 1, "accepted")
        made.sendall(b"x")
        assert made.recv(1) == b"x"
        assert world.a.open() == 1
        reset(made)
        eventually(lambda: world.a.open() == 0, "the count ends")


def test_the_host_is_no_router(world: World) -> None:
    """The client reaches no machine behind the edges but through a listener, and nothing of the overlay."""
    for address, port in ((MACHINE[4], 22), (world.b.overlay4, 22), (FAR_MACHINE[4], 22)):
        made = world.socket(world.client, socket.SOCK_STREAM, address)
        made.settimeout(0.3)
        with pytest.raises(OSError, match=r"timed out|unreachable|No route"):
            made.connect((address, port))


def test_a_large_datagram_teaches_the_client_the_path(world: World) -> None:
    server, candidate = workload(world, "there", 4, kind=socket.SOCK_DGRAM)
    world.a.service([candidate], *listeners(4), protocol=Protocol.UDP)
    made = world.socket(world.client, socket.SOCK_DGRAM, EDGE_A[4])
    made.connect((EDGE_A[4], LISTEN))
    made.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
    made.send(bytes(1472))
    eventually(lambda: made.getsockopt(socket.IPPROTO_IP, 14) == 1450, "IP_MTU")
    time.sleep(0.05)
    made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # takes what another answer has left
    made.send(bytes(1400))
    assert made.recv(2000) == bytes(1400)
    assert server.peers
