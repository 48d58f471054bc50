"""A listener on every address is where the kernel takes packets for the host's own: also 127.0.0.0/8 and AnyIP."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from skedge.core.desired.listener_addresses import listeners
from skedge.core.model import Listener, Protocol
from skedge.core.objects import ListenerTarget, ServiceKey, ServiceTable
from skedge.dataplane.ebpf.prefix_table import HOST_MAP, PrefixTable
from skedge.dataplane.host import host_addresses
from tests.fakes.networks import site_config

from ..kit import remote
from ..world import CLIENT, EDGE_A, LISTEN, Server, World, eventually

BOTH = pytest.mark.parametrize("v", [4, 6])
KINDS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
ANY_IP = {4: "10.9.0.0/24", 6: "fd09::/64"}
IN_ANY_IP = {4: ("10.9.0.7", "10.9.0.0", "10.9.0.255"), 6: ("fd09::7", "fd09::")}
LOOPBACK = {4: ("127.0.0.1", "127.0.1.1", "127.0.0.2", "127.255.0.3", "0.0.0.0"), 6: ("::1",)}
MINE = 61009


@pytest.fixture
def world(standing_world: World) -> Iterator[World]:
    for prefix in ANY_IP.values():
        standing_world.a.ns.ip("route", "add", "local", prefix, "dev", "lo")
    follow(standing_world)
    yield standing_world
    for prefix in ANY_IP.values():
        standing_world.a.ns.ip("route", "del", "local", prefix, "dev", "lo")
    follow(standing_world)
    standing_world.clean()


def follow(world: World) -> None:
    """Do what the controller does when the host's routes change."""
    table, wanted = PrefixTable(world.a.pin_dir, HOST_MAP), world.a.ns(host_addresses.host_prefixes)
    for prefix in wanted - table.read().keys():
        table.put(prefix)
    for prefix in table.read().keys() - wanted:
        table.delete(prefix)


def serve(world: World, v: int, kind: int = socket.SOCK_STREAM, *explicit: tuple[str, Server]) -> Server:
    """A listener on every address, with a workload at the host's own loopback; and others at one address each."""
    protocol = Protocol.TCP if kind == socket.SOCK_STREAM else Protocol.UDP
    servers = [("*", world.server(world.a.ns, {4: "127.0.0.1", 6: "::1"}[v], kind, port=MINE)), *explicit]
    configured = tuple(
        Listener(f"web{number}", LISTEN, address, protocol) for number, (address, _) in enumerate(servers)
    )
    for one, (_, server) in zip(configured, servers, strict=True):
        target = server.socket.getsockname()[:2]
        table = ServiceTable((remote(one.service, 0, target, own_site=True),))
        world.a.engine.services.put(ServiceKey(one.service, protocol), table)
    config = site_config("A", listeners=configured)
    for key, one in listeners(config, world.a.ns(host_addresses.addresses, world.a.netlink)).items():
        world.a.engine.listeners.put(key, ListenerTarget(ServiceKey(one.service, protocol)))
    eventually(lambda: not world.a.open(), "the connections of the last test are over")
    return servers[0][1]


def ask(world: World, ns, to: str, kind: int = socket.SOCK_STREAM) -> tuple[str, int]:
    """Exchange something, and return who it was with, as the client sees it."""
    made = world.socket(ns, kind, to)
    made.connect((to, LISTEN))
    made.sendall(b"hello")
    assert made.recv(100) == b"hello"
    return made.getpeername()[:2]


@BOTH
@KINDS
def test_clients_on_the_host(world: World, v: int, kind: int) -> None:
    server = serve(world, v, kind)
    addresses = (*LOOPBACK[v], *IN_ANY_IP[v], EDGE_A[v])
    for number, to in enumerate(addresses, 1):
        assert ask(world, world.a.ns, to, kind) == ({"0.0.0.0": "127.0.0.1"}.get(to, to), LISTEN)
        assert len(server.peers) == number
    assert world.a.open("web0") == len(addresses)


def test_datagrams_of_a_socket_that_is_not_connected(world: World) -> None:
    server = serve(world, 4, socket.SOCK_DGRAM)
    for number, to in enumerate(("127.0.1.1", "10.9.0.7"), 1):
        made = world.socket(world.a.ns, socket.SOCK_DGRAM, to)
        made.sendto(b"hello", (to, LISTEN))
        assert made.recvfrom(100) == (b"hello", (to, LISTEN))
        assert len(server.peers) == number


def test_addresses_of_ipv4_by_a_socket_of_ipv6(world: World) -> None:
    server = serve(world, 4)
    for to in ("::ffff:127.0.1.1", "::ffff:10.9.0.7"):
        assert ask(world, world.a.ns, to) == (to, LISTEN)
    assert len(server.peers) == 2


@BOTH
@KINDS
def test_clients_of_the_lan(world: World, v: int, kind: int) -> None:
    server = serve(world, v, kind)
    world.client.ip("route", "add", ANY_IP[v], "via", EDGE_A[v])
    try:
        for number, to in enumerate((EDGE_A[v], *IN_ANY_IP[v][:1]), 1):
            assert ask(world, world.client, to, kind) == (to, LISTEN)
            assert len(server.peers) == number
        assert server.peers[-1][0] == CLIENT[v] or kind == socket.SOCK_DGRAM
    finally:
        world.client.ip("route", "del", ANY_IP[v])


@BOTH
def test_who_is_not_the_host_is_left_alone(world: World, v: int) -> None:
    serve(world, v)
    for to in {4: ("10.60.1.77", "10.10.0.1"), 6: ("fd60:1::77", "fd0a::1")}[v]:
        made = world.socket(world.a.ns, socket.SOCK_STREAM, to)
        made.settimeout(0.1)
        with pytest.raises(OSError):
            made.connect((to, LISTEN))
    assert world.a.open() == 0


def test_a_route_that_goes_takes_its_addresses_along(world: World) -> None:
    serve(world, 4)
    world.a.ns.ip("route", "del", "local", ANY_IP[4], "dev", "lo")
    try:
        follow(world)
        with pytest.raises(OSError):
            ask(world, world.a.ns, "10.9.0.7")
        assert ask(world, world.a.ns, "127.0.1.1")
    finally:
        world.a.ns.ip("route", "add", "local", ANY_IP[4], "dev", "lo")


@pytest.mark.parametrize("address", ["127.0.1.1", "127.0.0.1", EDGE_A[4], "10.9.0.7"])
def test_a_listener_at_one_address_goes_before(world: World, address: str) -> None:
    mine = world.server(world.a.ns, "127.0.0.1")
    every = serve(world, 4, socket.SOCK_STREAM, (address, mine))
    for to in ("127.0.1.1", "127.0.0.1", EDGE_A[4], "10.9.0.7", "127.0.0.2"):
        before = len(mine.peers), len(every.peers)
        ask(world, world.a.ns, to)
        after = len(mine.peers), len(every.peers)
        assert (after[0] - before[0], after[1] - before[1]) == ((1, 0) if to == address else (0, 1)), to


@KINDS
def test_a_socket_at_one_address_of_loopback_goes_before(world: World, kind: int) -> None:
    """A resolver's stub at 127.0.0.53 keeps its clients beside a listener on every address."""
    every = serve(world, 4, kind)
    stub = world.server(world.a.ns, "127.0.0.53", kind, reuseport=True, port=LISTEN)
    plain = world.server(world.a.ns, "0.0.0.0", kind, reuseport=True, port=LISTEN)
    ask(world, world.a.ns, "127.0.0.53", kind)
    assert (len(stub.peers), len(every.peers)) == (1, 0)
    ask(world, world.a.ns, "127.0.0.54", kind)
    assert (len(stub.peers), len(every.peers), len(plain.peers)) == (1, 1, 0)


def test_what_of_the_local_table_is_told(world: World) -> None:
    ns = world.a.ns
    ns.ip("addr", "add", "10.8.0.1/24", "dev", "lo")  # all of it is the host's, as on lo it is
    ns.ip("route", "add", "local", "10.7.7.7", "dev", "lo")
    ns.ip("route", "add", "local", "192.0.2.0/24", "dev", "lo", "table", "100")  # as for TPROXY
    try:
        assert ns(host_addresses.host_prefixes) == {*ANY_IP.values(), "10.8.0.0/24", "10.7.7.7/32"}
    finally:
        ns.ip("route", "del", "local", "192.0.2.0/24", "dev", "lo", "table", "100")
        ns.ip("route", "del", "local", "10.7.7.7", "dev", "lo")
        ns.ip("addr", "del", "10.8.0.1/24", "dev", "lo")
