"""Real sockets through two edge hosts: every kind of flow, both families, TCP and UDP; the rule, and the counts."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Candidate, Endpoint, EndpointKey, ListenerKey, ListenerTarget, ServiceKey
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.lan.layout_flow import NatAddresses, NatConfig
from tests.integration.links.kit import Namespace
from tests.integration.links.packets import ACK, L4, RST, SYN, TCP, ip, sums_right, tcp
from tests.kit.rows import configure_nat

from .kit import remote
from .world import CLIENT, EDGE_A, FAR_MACHINE, LISTEN, MACHINE, Server, World, eventually, nat_addresses

BOTH = pytest.mark.parametrize("v", [4, 6])
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
KINDS = ("near", "machine", "hairpin", "there", "far_machine")
SIZE = 2_000_000
TCP_CLOSE = 7


def workload(world: World, where: str, v: int, cost: int = 0, kind: int = socket.SOCK_STREAM,
             port: int = 61001, name: str = "", protocol: int = 0) -> tuple[Server, Candidate]:  # fmt: skip
    """A real server at one of the places, and the candidate that site A has for it."""
    word = Protocol.TCP if kind == socket.SOCK_STREAM else Protocol.UDP
    name = name or where.replace("_", "-")
    ns, address = {
        "near": (world.a.ns, LOOPBACK[v]),
        "machine": (world.machine, MACHINE[v]),
        "hairpin": (world.client, CLIENT[v]),
        "there": (world.b.ns, LOOPBACK[v]),
        "far_machine": (world.far_machine, FAR_MACHINE[v]),
    }[where]
    server = world.server(ns, address, kind, protocol=protocol)
    if where in ("there", "far_machine"):
        world.endpoint(port, address, server.port, word, off_host=where == "far_machine")
        return server, remote(name, cost, (world.b.overlay(v), port))
    return server, remote(name, cost, (address, server.port), own_site=True, off_host=where != "near")


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
                "there": nat_addresses(world.a)[v == 6],
                "far_machine": {4: "10.60.2.1", 6: "fd60:2::1"}[v]}  # fmt: skip
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
        for i, (place, cost) in enumerate(zip(places, costs, strict=False))
    ]
    world.a.service(table, *listeners(4))
    held = [world.connect((world.client, world.a.ns)[n % 2], (EDGE_A[4], LISTEN)) for n in range(number)]
    assert [world.a.open(one.workload.site) for one in table] == split
    for one in held:
        one.close()
    eventually(lambda: world.a.open() == 0, "all counts end")


@BOTH
def test_a_client_of_the_lan_keeps_its_workload(world: World, v: int) -> None:
    """The rule would go 5 / 5; the client stays where it was, and another client goes by the rule."""
    table = [workload(world, "near", v)[1], workload(world, "there", v)[1]]
    world.a.service(table, *listeners(v), affinity_s=60)
    held = [world.connect(world.client, (EDGE_A[v], LISTEN)) for _ in range(5)]
    assert [world.a.open(name) for name in ("near", "there")] == [5, 0]
    reasons = [receipt.reason for receipt in world.a.engine.connections()]
    assert sorted(reason.word for reason in reasons) == ["affinity"] * 4 + ["none"]
    held += [world.connect(world.machine, (EDGE_A[v], LISTEN)) for _ in range(3)]
    assert [world.a.open(name) for name in ("near", "there")] == [5, 3]
    for one in held:
        one.close()
    eventually(lambda: world.a.open() == 0, "all counts end")
    assert world.a.engine.reconcile_counts() == 0


def test_a_listener_shares_lan_clients_out_by_weight(world: World) -> None:
    near, there = workload(world, "near", 4)[1], workload(world, "there", 4)[1]
    world.a.service([there], name="other")
    world.a.service([near], *listeners(4))
    first, second = ServiceKey("web"), ServiceKey("other")
    schedule = (second, first, second, second, first)
    world.a.engine.listeners.put(ListenerKey(EDGE_A[4], LISTEN, Protocol.TCP), ListenerTarget(first, schedule))
    held = [world.connect(world.client, (EDGE_A[4], LISTEN)) for _ in range(20)]
    assert [world.a.open(name) for name in ("near", "there")] == [8, 12]
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


@BOTH
def test_a_workload_that_shares_its_port(world: World, v: int) -> None:
    """SO_REUSEPORT sockets: assigned since Linux 6.6, reached over lo before."""
    servers = [world.server(world.a.ns, LOOPBACK[v], reuseport=True)]
    servers.append(world.server(world.a.ns, LOOPBACK[v], reuseport=True, port=servers[0].port))
    world.a.service([remote("near", 0, (LOOPBACK[v], servers[0].port), own_site=True)], *listeners(v))
    held = [world.connect(world.client, (EDGE_A[v], LISTEN)) for _ in range(8)]
    eventually(lambda: sum(len(one.accepted) for one in servers) == 8, "all are accepted")
    assert world.a.open() == 8
    for one in held:
        exchange(one, 1000)
    eventually(lambda: world.a.open() == 0, "the count ends")


@BOTH
def test_syn_cookies(world: World, v: int) -> None:
    world.a.ns.sh("sysctl -qw net.ipv4.tcp_syncookies=2")
    try:
        server, candidate = workload(world, "near", v)
        world.a.service([candidate], *listeners(v))
        held = [world.connect(world.client, (EDGE_A[v], LISTEN)) for _ in range(5)]
        assert world.a.open() == 5
        for one in held:
            exchange(one, 1000)
        eventually(lambda: world.a.open() == 0, "the count ends")
        assert len(server.peers) == 5
    finally:
        world.a.ns.sh("sysctl -qw net.ipv4.tcp_syncookies=1")


@pytest.mark.parametrize("where", KINDS)
def test_a_port_is_used_again_while_the_workload_remembers_it(world: World, where: str) -> None:
    """The workload closes first and keeps the connection in TIME_WAIT; the client comes back from the same port."""
    server, candidate = workload(world, where, 4)
    world.a.service([candidate], *listeners(4))
    for turn in range(3):
        began = time.monotonic()
        made = world.connect(world.client, (EDGE_A[4], LISTEN), source=(CLIENT[4], 20002))
        assert time.monotonic() - began < 0.9, "no SYN had to be sent again"
        eventually(lambda n=turn: len(server.accepted) == n + 1, "accepted")
        server.accepted[turn].shutdown(socket.SHUT_WR)
        assert made.recv(1) == b""
        made.close()
        eventually(lambda: world.a.open() == 0, "the count ends")
        time.sleep(0.05)


def syns_sent_again(made: socket.socket) -> int:
    """tcpi_total_retrans of struct tcp_info."""
    return int(struct.unpack_from("=I", made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0])


@BOTH
def test_many_clients_where_the_workload_closes_first(world: World, v: int) -> None:
    """Every NAT port is in TIME_WAIT at the other site, and comes again with the numbers and time stamps of others."""
    server, candidate = workload(world, "there", v)
    world.a.service([candidate], *listeners(v))
    addresses = NatAddresses(*nat_addresses(world.a), True, ports=(63000, 63015))
    configure_nat(world.a, NatConfig(addresses=addresses))
    try:
        for number in range(200):
            made = world.connect(world.client, (EDGE_A[v], LISTEN))
            assert syns_sent_again(made) == 0
            eventually(lambda n=number: len(server.accepted) == n + 1, "accepted")
            server.accepted[number].shutdown(socket.SHUT_WR)
            assert made.recv(1) == b""
            made.close()
            eventually(lambda: world.a.open() == 0, "the count ends")
    finally:
        world.configure_nat(world.a)


@BOTH
@pytest.mark.parametrize("where", ["there", "far_machine"])
def test_more_connections_to_one_workload_than_the_overlay_address_has_ports_for(
    world: World, where: str, v: int
) -> None:
    _, candidate = workload(world, where, v)
    world.a.service([candidate], *listeners(v))
    few = 16
    world.configure_nat(world.a, ports=(63000, 63000 + few - 1))
    made = [world.connect(world.client, (EDGE_A[v], LISTEN)) for _ in range(10 * few)]
    assert world.a.open() == len(made)
    assert world.a.drops().get(Reason.NO_PORT, 0) == 0
    for one in made:
        one.sendall(b"x")
        assert one.recv(1) == b"x"
        one.close()
    eventually(lambda: world.a.open() == 0, "the counts end")


@BOTH
def test_while_a_site_of_an_older_version_is_in_the_network_the_overlay_address_serves(world: World, v: int) -> None:
    server, candidate = workload(world, "there", v)
    world.a.service([candidate], *listeners(v))
    before = world.connect(world.client, (EDGE_A[v], LISTEN))
    world.configure_nat(world.a, towards_sites=False)
    during = world.connect(world.client, (EDGE_A[v], LISTEN))
    world.configure_nat(world.a)
    after = world.connect(world.client, (EDGE_A[v], LISTEN))
    for made in (before, during, after):  # each goes on as it began
        made.sendall(b"on")
        assert made.recv(2) == b"on"
    seen = [peer for peer, _ in server.peers]
    assert seen == [nat_addresses(world.a)[v == 6], world.a.overlay(v), nat_addresses(world.a)[v == 6]]


@BOTH
def test_what_nobody_has_a_flow_for_is_refused_at_the_nat_address(world: World, v: int) -> None:
    """Neither a listening socket of the host nor an endpoint is reached under it; a lost flow is told."""
    target = nat_addresses(world.a)[v == 6]
    everywhere = world.server(world.a.ns, {4: "0.0.0.0", 6: "::"}[v])
    world.a.ns(world.a.endpoints.put, EndpointKey(61009, Protocol.TCP), Endpoint(WorkloadId("a", "w"), LOOPBACK[v], 9))
    try:
        for port in (everywhere.port, 61009):
            made = world.socket(world.b.ns, socket.SOCK_STREAM, target)
            made.settimeout(0.5)
            with pytest.raises(OSError, match=r"timed out|refused"):
                made.connect((target, port))
    finally:
        world.a.ns(world.a.endpoints.delete, EndpointKey(61009, Protocol.TCP))
    assert everywhere.accepted == []


@BOTH
def test_a_workload_whose_clients_flow_is_lost_is_told(world: World, v: int) -> None:
    server, candidate = workload(world, "there", v)
    world.a.service([candidate], *listeners(v))
    world.connect(world.client, (EDGE_A[v], LISTEN))
    eventually(lambda: server.accepted, "accepted")
    configure_nat(world.a, NatConfig(1, (63000, 65535), *[0.0] * 5))
    time.sleep(0.01)
    world.a.flows.sweep()
    world.configure_nat(world.a)
    assert list(world.a.flows.records()) == []
    told = server.accepted[0]
    told.sendall(b"still there?")
    eventually(lambda: told.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == bytes([TCP_CLOSE]), "reset")


@BOTH
def test_a_socket_of_the_host_may_have_bound_a_port_of_nat(world: World, v: int) -> None:
    server, _ = workload(world, "there", v)
    far = (world.b.overlay(v), 61001)
    made = world.connect(world.a.ns, far, (world.a.overlay(v), 63007))
    made.sendall(b"x")
    assert made.recv(1) == b"x"
    _, _ = workload(world, "there", v, kind=socket.SOCK_DGRAM, port=61002)
    asker = world.socket(world.a.ns, socket.SOCK_DGRAM, far[0])
    asker.bind((world.a.overlay(v), 63008))
    asker.connect((far[0], 61002))
    asker.send(b"x")
    assert asker.recv(1) == b"x"
    assert server.peers[0][1] == 63007


@BOTH
@pytest.mark.parametrize("connected", [False, True])
def test_answers_to_the_hosts_own_sockets_are_theirs(world: World, v: int, connected: bool) -> None:
    """The host asks a machine of the LAN from the port that a UDP listener has."""
    _, candidate = workload(world, "there", v, kind=socket.SOCK_DGRAM)
    world.a.service([candidate], *listeners(v), protocol=Protocol.UDP)
    machine = world.server(world.client, CLIENT[v], socket.SOCK_DGRAM)
    asker = world.socket(world.a.ns, socket.SOCK_DGRAM, CLIENT[v])
    asker.bind((EDGE_A[v], LISTEN))
    if connected:
        asker.connect((CLIENT[v], machine.port))
    for question in (b"one", b"two"):
        asker.sendto(question, (CLIENT[v], machine.port)) if not connected else asker.send(question)
        assert asker.recv(9) == question
    assert world.a.open() == 0
    client = world.socket(world.client, socket.SOCK_DGRAM, EDGE_A[v])
    client.connect((EDGE_A[v], LISTEN))  # clients of the listener are served as ever
    client.send(b"x")
    assert client.recv(9) == b"x"
    assert world.a.open() == 1


def test_udp_has_two_ages(world: World) -> None:
    """One exchange ends soon; what went on for some seconds is a stream."""
    _, datagrams = workload(world, "there", 4, kind=socket.SOCK_DGRAM)
    world.a.service([datagrams], *listeners(4), name="dns", protocol=Protocol.UDP)
    once, often = (world.socket(world.client, socket.SOCK_DGRAM, EDGE_A[4]) for _ in range(2))

    def ask(one: socket.socket) -> None:
        one.sendto(b"q", (EDGE_A[4], LISTEN))
        assert one.recv(9) == b"q"

    ask(once)
    ask(often)
    time.sleep(2.2)
    ask(often)
    time.sleep(0.5)
    world.configure_nat(world.a, udp_s=0.4)
    world.a.flows.sweep()
    assert [record.key.source_port for record in world.a.flows.records()] == [often.getsockname()[1]]


@pytest.mark.parametrize("where", KINDS)
def test_receipts(world: World, where: str) -> None:
    server, candidate = workload(world, where, 4, cost=7)
    world.a.service([candidate], *listeners(4))
    made = world.connect(world.client, (EDGE_A[4], LISTEN))
    eventually(lambda: server.accepted, "accepted")
    (receipt,) = world.a.engine.connections()
    host, port = made.getsockname()[:2]
    assert receipt.client == f"{host}:{port}"
    assert (receipt.listener.address, receipt.listener.port) == (EDGE_A[4], LISTEN)
    assert (receipt.workload, receipt.path_cost, receipt.perceived) == (candidate.workload, 7, (7, 1))
    assert server.accepted[0].getpeername() == server.peers[0]


def test_parallel_clients_of_host_and_lan(world: World) -> None:
    """The rule holds within one connection, and no pick is made on a stale count."""
    table = [workload(world, "near", 4, 0)[1], workload(world, "there", 4, 10, port=61001)[1],
             workload(world, "far_machine", 4, 30, port=61002)[1]]  # fmt: skip
    world.a.service(table, *listeners(4))
    sockets = [world.socket((world.client, world.a.ns)[n % 2], socket.SOCK_STREAM, EDGE_A[4]) for n in range(100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda one: one.connect((EDGE_A[4], LISTEN)), sockets))
    got = [world.a.open(name) for name in ("near", "there", "far-machine")]
    assert sum(got) == 100
    assert all(abs(is_ - should) <= 1 for is_, should in zip(got, (47, 37, 16), strict=True)), got
    assert world.a.engine.stale_picks() == 0
    assert world.a.engine.reconcile_counts() == 0


@BOTH
@pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="this kernel has no TUN device")
def test_a_device_without_ethernet(world: World, v: int) -> None:
    """A client behind a TUN device, as behind WireGuard: packets have no link-layer header on the one side."""
    server, candidate = workload(world, "there", v)
    edge, client = {4: ("10.60.9.1", "10.60.9.9"), 6: ("fd60:9::1", "fd60:9::9")}[v]
    world.a.service([candidate], (edge, LISTEN))
    with tun(world.a.ns, "tun0") as device:
        world.a.ns.ip("addr", "add", f"{edge}/{24 if v == 4 else 64}", "dev", "tun0", *(["nodad"] if v == 6 else []))
        world.a.ns.ip("link", "set", "tun0", "up")
        devices = world.a.ns(world.a.lan.devices, ["tun0"])
        assert devices["tun0"].l3
        world.a.ns(world.a.lan.put, "tun0", devices["tun0"])
        os.write(device, ip(client, edge, tcp(20000, LISTEN, SYN)))
        answer = receive(device, v)
        at = 20 if v == 4 else 40
        assert sums_right(answer)
        assert answer[at : at + 4] == struct.pack(">HH", LISTEN, 20000)
        assert answer[at + 13] == SYN | ACK
        sequence = int.from_bytes(answer[at + 4 : at + 8]) + 1
        header = struct.pack(">HHIIBBHHH", 20000, LISTEN, 1001, sequence, 0x50, ACK, 64000, 0, 0)
        os.write(device, ip(client, edge, L4(TCP, header + b"over tun", 16)))
        eventually(lambda: server.accepted, "accepted")
        while not (answer := receive(device, v)).endswith(b"over tun"):
            pass
        assert sums_right(answer)
        assert world.a.open() == 1
        os.write(
            device,
            ip(client, edge, L4(TCP, header[:4] + struct.pack(">I", 1009) + header[8:13] + b"\4" + header[14:], 16)),
        )
        eventually(lambda: world.a.open() == 0, "the reset ends the count")


@pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="this kernel has no TUN device")
def test_a_reset_that_the_listener_does_not_believe_leaves_the_connection_counted(world: World) -> None:
    """On its way to a socket of this host: far off it ends nothing; near enough, and the socket takes it back."""
    server, candidate = workload(world, "near", 4)
    edge, client, isn = "10.60.9.1", "10.60.9.9", 5000
    world.a.service([candidate], (edge, LISTEN))
    with tun(world.a.ns, "tun0") as device:
        world.a.ns.ip("addr", "add", f"{edge}/24", "dev", "tun0")
        world.a.ns.ip("link", "set", "tun0", "up")
        world.a.ns(world.a.lan.put, "tun0", world.a.ns(world.a.lan.devices, ["tun0"])["tun0"])

        def send(flags: int, sequence: int, acknowledged: int = 0) -> None:
            os.write(device, ip(client, edge, tcp(20000, LISTEN, flags, b"", sequence, acknowledged)))

        send(SYN, isn)
        answer = receive(device, 4)
        acknowledged = int.from_bytes(answer[24:28]) + 1
        send(RST, isn + (1 << 30))
        time.sleep(0.05)
        assert world.a.open() == 1
        send(RST, isn + 1_000_000)
        eventually(lambda: world.a.open() == 0, "near enough")
        send(ACK, isn + 1, acknowledged)
        eventually(lambda: server.accepted, "accepted")
        eventually(lambda: world.a.open() == 1, "counted again")
        assert [workload.site for _, workload in world.a.engine.suspended()] == []
        assert world.a.engine.reconcile_counts() == 0
        send(RST, isn + 1)
        eventually(lambda: world.a.open() == 0, "the reset ends the count")


@contextlib.contextmanager
def tun(ns: Namespace, name: str) -> Iterator[int]:
    """A TUN device of the namespace; the descriptor is its far side."""

    def make() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0001 | 0x1000))  # TUNSETIFF: TUN, NO_PI
        return fd

    fd = ns(make)
    try:
        yield fd
    finally:
        os.close(fd)


def receive(device: int, v: int) -> bytes:
    """Return the next TCP packet of a family that leaves by the device."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            packet = os.read(device, 4096)
        except BlockingIOError:
            time.sleep(0.01)
            continue
        if packet[0] >> 4 == v and packet[9 if v == 4 else 6] == TCP:
            return packet
    raise AssertionError("nothing came")
