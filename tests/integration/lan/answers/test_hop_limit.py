"""The hosts of the way answer what has passed too many of them, so routes can be traced: real sockets and errors."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from skedge.core.model import Protocol
from skedge.core.reasons import Reason

from ..admission.test_host_firewall import honour
from ..test_sockets import BOTH, workload
from ..world import CLIENT, EDGE_A, LISTEN, Server, World, eventually

IP_RECVERR, IPV6_RECVERR = 11, 25
BY_ICMP = {4: 2, 6: 3}  # SO_EE_ORIGIN_*
EXCEEDED = {4: 11, 6: 3}
STREAM = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
EDGE_A_LAN1 = {4: "10.60.3.1", 6: "fd60:3::1"}
EDGE_B = {4: "10.60.2.1", 6: "fd60:2::1"}


@pytest.fixture(params=["bypass", "honour"])
def ruled(world: World, request: pytest.FixtureRequest) -> Iterator[World]:
    """The world where the host's input rules are not asked, or are."""
    if request.param == "honour":
        honour(world.a)
    yield world
    honour(world.a, off=True)


def limit(made: socket.socket, hops: int) -> None:
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
        made.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)


def told(made: socket.socket) -> tuple[str, int, bytes]:
    """Return who has told the socket what (the type of the ICMP message), and the data that was quoted."""
    heard: list[tuple[bytes, list, int, object]] = []

    def hear() -> bool:
        with contextlib.suppress(BlockingIOError):
            heard.append(made.recvmsg(2000, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT))
        return bool(heard)

    eventually(hear, "an error comes")
    quoted, said, _, _ = heard[0]
    ((_, _, raw),) = [one for one in said if one[1] in (IP_RECVERR, IPV6_RECVERR)]
    error, origin, kind, _code = struct.unpack_from("=IBBB", raw)
    v = 6 if made.family == socket.AF_INET6 else 4
    assert (error, origin) == (errno.EHOSTUNREACH, BY_ICMP[v])
    offender = raw[20:24] if v == 4 else raw[24:40]  # in a sockaddr_in or sockaddr_in6 behind the error
    return str(ip_address(offender)), kind, quoted


def probe(world: World, v: int, kind: int, hops: int) -> tuple[str, int] | None:
    """Return who told the client what of a first packet with so many hops; None when the workload answered."""
    made = world.socket(world.client, kind, EDGE_A[v])
    limit(made, hops)
    with contextlib.suppress(OSError):
        made.connect((EDGE_A[v], LISTEN))
        made.send(b"probe")
        assert made.recv(9) == b"probe"
        made.close()
        return None
    try:
        return told(made)[:2]
    finally:
        made.close()


def serve(world: World, v: int, kind: int, where: str = "far_machine") -> Server:
    server, candidate = workload(world, where, v, kind=kind)
    protocol = Protocol.TCP if kind == socket.SOCK_STREAM else Protocol.UDP
    world.a.service([candidate], (EDGE_A[v], LISTEN), protocol=protocol)
    return server


@BOTH
@STREAM
def test_a_client_sees_the_hosts_of_the_way(ruled: World, v: int, kind: int) -> None:
    serve(ruled, v, kind)
    exceeded = EXCEEDED[v]
    hops = [probe(ruled, v, kind, number) for number in (1, 2, 3)]
    assert hops == [(EDGE_A[v], exceeded), (ruled.b.overlay(v), exceeded), None]


@BOTH
@STREAM
def test_what_goes_no_further_than_here_is_not_counted(ruled: World, v: int, kind: int) -> None:
    serve(ruled, v, kind)
    before = ruled.a.drops().get(Reason.HOP_LIMIT, 0)
    for _ in range(3):
        assert probe(ruled, v, kind, 1) == (EDGE_A[v], EXCEEDED[v])
    assert (ruled.a.open(), list(ruled.a.flows.records())) == (0, [])
    assert ruled.a.drops()[Reason.HOP_LIMIT] == before + 3
    assert ruled.a.engine.suspended() == frozenset()


@BOTH
@STREAM
@pytest.mark.parametrize("where", ["near", "there"])
def test_the_last_host_of_the_way_is_the_workloads(world: World, where: str, v: int, kind: int) -> None:
    serve(world, v, kind, where)
    answered = {"near": 1, "there": 2}[where]
    for hops in range(1, answered):
        assert probe(world, v, kind, hops) == (EDGE_A[v], EXCEEDED[v])
    assert probe(world, v, kind, answered) is None


@BOTH
def test_a_datagram_workload_sees_the_hosts_of_its_answers_way(world: World, v: int) -> None:
    server = serve(world, v, socket.SOCK_DGRAM)
    made = world.socket(world.client, socket.SOCK_DGRAM, EDGE_A[v])
    made.connect((EDGE_A[v], LISTEN))
    made.send(b"hello")
    assert made.recv(9) == b"hello"
    for hops, host in ((1, EDGE_B[v]), (2, world.a.overlay(v))):
        limit(server.socket, hops)
        server.socket.sendto(b"answer", server.peers[-1])
        assert told(server.socket)[:2] == (host, EXCEEDED[v])
    limit(server.socket, 3)
    server.socket.sendto(b"answer", server.peers[-1])
    assert made.recv(9) == b"answer"
    assert world.a.open() == 1


@BOTH
@pytest.mark.parametrize(("where", "hops"), [("machine", 1), ("there", 1), ("far_machine", 1), ("far_machine", 2)])
def test_a_connection_outlives_answers_with_too_few_hops(world: World, where: str, hops: int, v: int) -> None:
    """TCP: a machine's kernel finds its socket by what is quoted, and the connection goes on.

    A program of a host is not told: what a site on the way says may be over in a moment.
    """
    server = serve(world, v, socket.SOCK_STREAM, where)
    made = world.connect(world.client, (EDGE_A[v], LISTEN))
    eventually(lambda: server.accepted, "accepted")
    (one,) = server.accepted
    limit(one, hops)
    one.send(b"answer")
    wanted = 0 if where == "there" else errno.EHOSTUNREACH
    time.sleep(0.3 if where == "there" else 0.0)
    eventually(lambda: one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == wanted, "the workload is told")
    limit(one, 64)
    made.settimeout(9)
    assert made.recv(9) == b"answer"
    assert world.a.open() == 1


@BOTH
@STREAM
def test_between_the_machines_of_one_lan_host(world: World, v: int, kind: int) -> None:
    serve(world, v, kind, "machine")
    assert probe(world, v, kind, 1) == (EDGE_A[v], EXCEEDED[v])
    assert probe(world, v, kind, 2) is None


@BOTH
def test_the_quote_is_what_the_client_sent(world: World, v: int) -> None:
    serve(world, v, socket.SOCK_DGRAM)
    family = socket.AF_INET6 if v == 6 else socket.AF_INET
    heard = world.client(socket.socket, family, socket.SOCK_RAW, 58 if v == 6 else 1)
    heard.settimeout(5)
    made = world.socket(world.client, socket.SOCK_DGRAM, EDGE_A[v])
    made.bind((CLIENT[v], 40123))
    for hops, host in ((1, EDGE_A[v]), (2, world.b.overlay(v))):
        limit(made, hops)
        made.sendto(b"odd", (EDGE_A[v], LISTEN))
        while True:
            data, sender = heard.recvfrom(2000)
            error = data[20:] if v == 4 else data
            if error[0] == EXCEEDED[v]:
                break
        assert sender[0] == host
        quoted = error[8:]
        addresses = quoted[12:20] if v == 4 else quoted[8:40]
        assert addresses == ip_address(CLIENT[v]).packed + ip_address(EDGE_A[v]).packed
        ports = quoted[20:24] if v == 4 else quoted[40:44]
        assert ports == struct.pack(">HH", 40123, LISTEN)
        told(made)
    heard.close()


@BOTH
def test_only_so_many_are_told_a_second(world: World, v: int) -> None:
    serve(world, v, socket.SOCK_DGRAM)
    made = world.socket(world.client, socket.SOCK_DGRAM, EDGE_A[v])
    limit(made, 1)
    before = world.a.drops().get(Reason.HOP_LIMIT, 0)
    sent = 0
    for _ in range(1000):
        with contextlib.suppress(OSError):
            made.sendto(b"x", (EDGE_A[v], LISTEN))
            sent += 1
    eventually(lambda: world.a.drops()[Reason.HOP_LIMIT] - before >= sent, "all are counted")
    heard = int(world.client.sh("nstat -asz " + ("IcmpInTimeExcds" if v == 4 else "Icmp6InTimeExcds") +
                                " | awk 'END {print $2}'"))  # fmt: skip
    assert heard < sent / 2


@BOTH
def test_bound_sockets_of_the_host_are_told_too(world: World, v: int) -> None:
    serve(world, v, socket.SOCK_DGRAM)
    made = world.socket(world.a.ns, socket.SOCK_DGRAM, EDGE_A[v])
    made.bind((EDGE_A[v], 0))
    limit(made, 2)
    made.sendto(b"probe", (EDGE_A[v], LISTEN))
    assert told(made)[:2] == (world.b.overlay(v), EXCEEDED[v])
    limit(made, 3)
    made.sendto(b"probe", (EDGE_A[v], LISTEN))
    made.settimeout(5)
    assert made.recv(9) == b"probe"
