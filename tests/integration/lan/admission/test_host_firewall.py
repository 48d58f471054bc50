"""The host's own input rules hold for new connections of the LAN, wherever the workload is: real rules and sockets."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skedge.core.model import Protocol
from skedge.core.objects import ListenerKey
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.lan import host_rules
from skedge.dataplane.ebpf.lan.devices import LOOPBACK as LO
from skedge.dataplane.ebpf.lan.devices import LanDevice, LanDriver, detach
from skedge.dataplane.ebpf.lan.host_rules import HostRulesDriver
from skedge.dataplane.nftables import accepted, notrack
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver
from tests.kit.rows import make

from ..kit import Site
from ..test_sockets import BOTH, exchange, workload
from ..world import CLIENT, EDGE_A, LISTEN, MACHINE, World, eventually

AFAR = ("machine", "there", "far_machine")
KINDS = ("near", *AFAR)
PROTOCOLS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
FIRST_S = 0.9  # less than the time after which a client sends its SYN again
NO_S = 0.3  # and no answer comes
ETH_P_ALL = 3
FORGED = 0x736B6673
SO_PRIORITY = 12


@pytest.fixture(scope="module")
def standing_world(bpffs: Path) -> Iterator[World]:
    made = World(bpffs)
    try:
        honour(made.a)
        yield made
    finally:
        made.close()


@pytest.fixture
def world(standing_world: World) -> Iterator[World]:
    yield standing_world
    standing_world.a.ns.sh("nft delete table inet operator 2>/dev/null || true")
    standing_world.clean()


def honour(site: Site, *, off: bool = False) -> None:
    """Let the host's rules hold, as the registry's rows do, or by-pass them."""
    if not off:
        site.ns(make, accepted.AcceptedDriver(), accepted.wanted(honoured=True))
    make(HostRulesDriver(site.pin_dir), host_rules.wanted(honoured=not off))
    if off:
        site.ns(make, accepted.AcceptedDriver(), {})


@contextlib.contextmanager
def bypassed(site: Site) -> Iterator[None]:
    honour(site, off=True)
    try:
        yield
    finally:
        honour(site)


def rules(world: World, *accepting: str) -> None:
    """What an operator has at input: everything is dropped but the host's own traffic, the links', and this."""
    always = (
        'iifname "lo" accept',
        'iifname "under0" accept',
        'iifname "sk-*" accept',
        "meta l4proto ipv6-icmp accept",
    )
    lines = ["type filter hook input priority filter; policy drop;", *always, *accepting]
    empty = "table inet operator {}\ndelete table inet operator"
    text = "\n".join([empty, "table inet operator {", "chain input {", *lines, "}", "}"])
    world.a.ns.sh(f"nft -f - <<'END'\n{text}\nEND")


def ask(world: World, v: int, kind: int = socket.SOCK_STREAM, patience: float = FIRST_S) -> socket.socket:
    """Send the first packet of a conversation from the LAN and wait for its answer. Raises TimeoutError without one."""
    made = world.socket(world.client, kind, EDGE_A[v])
    made.settimeout(patience)
    try:
        made.connect((EDGE_A[v], LISTEN))
        made.send(b"hello")
        assert made.recv(9) == b"hello"
    except OSError:
        made.close()  # or its SYN comes again, when it may be let in
        raise
    return made


def ask_in_vain(world: World, v: int, kind: int = socket.SOCK_STREAM) -> None:
    with pytest.raises(TimeoutError):
        ask(world, v, kind, NO_S)


def refused(world: World) -> int:
    return HostRulesDriver(world.a.pin_dir).refused()[Reason.HOST_FIREWALL]


def serve(world: World, where: str, v: int, kind: int = socket.SOCK_STREAM):
    protocol = Protocol.TCP if kind == socket.SOCK_STREAM else Protocol.UDP
    server, candidate = workload(world, where, v, kind=kind)
    world.a.service([candidate], (EDGE_A[v], LISTEN), protocol=protocol)
    return server


@BOTH
@PROTOCOLS
@pytest.mark.parametrize("where", KINDS)
def test_what_the_host_drops_is_not_served(world: World, where: str, kind: int, v: int) -> None:
    server = serve(world, where, v, kind)
    rules(world, "tcp dport 22 accept", f"udp dport {LISTEN + 1} accept")
    before = refused(world)
    ask_in_vain(world, v, kind)
    assert refused(world) == before + 1
    assert server.peers == []
    assert list(world.a.flows.records()) == []
    assert world.a.open() == 0
    rules(world, f"meta l4proto {{ tcp, udp }} th dport {LISTEN} accept")
    made = ask(world, v, kind)
    assert made.getpeername()[:2] == (EDGE_A[v], LISTEN)
    assert world.a.open() == 1
    if where != "near":  # packets to a socket of this host pass the host's input as ever
        rules(world)
        made.send(b"again")
        assert made.recv(9) == b"again"
    made.close()
    assert refused(world) == before + 1
    assert world.a.engine.reconcile_counts() == 0


@BOTH
@pytest.mark.parametrize("where", KINDS)
def test_bytes_go_and_come_back_exactly(world: World, where: str, v: int) -> None:
    serve(world, where, v)
    rules(world, f"tcp dport {LISTEN} accept")
    for size in (1, 1000, 500_000):
        made = world.connect(world.client, (EDGE_A[v], LISTEN))
        assert world.a.open() == 1
        exchange(made, size)
        eventually(lambda: world.a.open() == 0, f"{where}: {size} bytes, the count ends")
    assert world.a.engine.suspended() == frozenset()
    assert world.a.engine.reconcile_counts() == 0


@PROTOCOLS
@pytest.mark.parametrize("where", AFAR)
def test_who_may_is_told_from_who_may_not(world: World, where: str, kind: int) -> None:
    serve(world, where, 4, kind)
    rules(world, f"ip saddr {CLIENT[4]} meta l4proto {{ tcp, udp }} th dport {LISTEN} accept")
    ask(world, 4, kind)
    rules(world, f"ip saddr {MACHINE[4]} meta l4proto {{ tcp, udp }} th dport {LISTEN} accept")
    ask_in_vain(world, 4, kind)


STATES = (
    "ct state established,related accept",
    "ct state invalid drop",
    "tcp flags & (fin | syn | rst | ack) != syn ct state new drop",
    f"ct state new meta l4proto {{ tcp, udp }} th dport {LISTEN} accept",
)


@BOTH
@PROTOCOLS
@pytest.mark.parametrize("where", AFAR)
def test_connection_tracking_sees_a_new_connection(world: World, where: str, kind: int, v: int) -> None:
    serve(world, where, v, kind)
    rules(world, *STATES)
    world.a.ns(_notrack, world.a, v)
    try:
        ask(world, v, kind)
        rules(world, "ct state established,related,untracked,invalid accept")
        ask_in_vain(world, v, kind)
    finally:
        world.a.ns(_notrack, world.a, None)


def _notrack(site: Site, v: int | None) -> None:
    """Write the chains that leave packets of listeners untracked, as the registry does where anything is tracked."""
    made = {} if v is None else {notrack.NAME: notrack.group([ListenerKey(EDGE_A[v], LISTEN)])}
    make(ChainGroupDriver(site.nft, notrack.OWNED), made)


@pytest.mark.parametrize("where", KINDS)
def test_a_limit_counts_each_connection_once(world: World, where: str) -> None:
    serve(world, where, 4)
    rules(world, "ct state established,untracked accept" if where == "near" else "",
          f"tcp dport {LISTEN} tcp flags & (syn | ack) == syn limit rate 1/hour burst 5 packets accept")  # fmt: skip
    if where == "near":
        world.a.ns(_notrack, world.a, 4)
    try:
        held = [ask(world, 4) for _ in range(5)]
        ask_in_vain(world, 4)
    finally:
        world.a.ns(_notrack, world.a, None)
    assert world.a.open() == len(held)


@BOTH
@PROTOCOLS
def test_the_neighbour_need_not_be_known(world: World, kind: int, v: int) -> None:
    """The packet waits for the neighbour's address, and must not be sent the way that it came by then."""
    serve(world, "machine", v, kind)
    world.a.ns.ip("neigh", "flush", "all")
    ask(world, v, kind)


@BOTH
@PROTOCOLS
def test_a_socket_of_the_host_never_gets_it(world: World, kind: int, v: int) -> None:
    squatter = world.server(world.a.ns, EDGE_A[v], kind, port=LISTEN)
    server = serve(world, "there", v, kind)
    for _ in range(3):
        ask(world, v, kind)
    assert squatter.peers == []
    assert server.peers
    rules(world)
    ask_in_vain(world, v, kind)
    assert squatter.peers == []


@pytest.mark.parametrize("where", KINDS)
def test_a_strict_reverse_path_filter_is_passed_once(world: World, where: str) -> None:
    """By the device that the packet came in by; what was let through comes by lo, where the way back never leads."""
    serve(world, where, 4)
    world.a.ns.sh("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.lan0.rp_filter=1")
    try:
        ask(world, 4)
    finally:
        world.a.ns.sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lan0.rp_filter=0")


@BOTH
def test_what_was_let_through_is_refused_where_nobody_serves(world: World, v: int) -> None:
    world.a.service([], (EDGE_A[v], LISTEN))
    rules(world, f"tcp dport {LISTEN} accept")
    with pytest.raises(ConnectionRefusedError):
        ask(world, v)


@BOTH
def test_reject_is_heard_at_once(world: World, v: int) -> None:
    serve(world, "there", v)
    rules(world, f"tcp dport {LISTEN} reject with tcp reset")
    with pytest.raises(ConnectionRefusedError):
        ask(world, v)


@pytest.mark.parametrize("where", AFAR)
def test_without_our_chain_it_is_closed_and_open_connections_go_on(world: World, where: str) -> None:
    serve(world, where, 4)
    held = ask(world, 4)
    world.a.ns(make, accepted.AcceptedDriver(), {})
    try:
        with pytest.raises(ConnectionRefusedError):
            ask(world, 4)
        held.send(b"on")
        assert held.recv(9) == b"on"
        assert world.a.open() == 1
    finally:
        honour(world.a)
    ask(world, 4)


@BOTH
def test_without_our_program_on_lo_it_is_closed(world: World, v: int) -> None:
    """The copy must not go round and round."""
    serve(world, "there", v)
    squatter = world.server(world.a.ns, EDGE_A[v], port=LISTEN)
    world.a.ns(detach, world.a.netlink, LO)
    try:
        ask_in_vain(world, v)
        assert squatter.peers == []
    finally:
        world.a.ns(LanDriver(world.a.pin_dir, world.a.netlink).put, LO, LanDevice(loop=True))
    ask(world, v)


@BOTH
def test_a_forged_priority_gains_nothing(world: World, v: int) -> None:
    """A container can set it on what it sends, and a veth keeps it."""
    serve(world, "there", v)
    rules(world)
    for port in (LISTEN, 22):
        made = world.socket(world.client, socket.SOCK_STREAM, EDGE_A[v])
        made.setsockopt(socket.SOL_SOCKET, SO_PRIORITY, FORGED)
        made.settimeout(NO_S)
        with pytest.raises(TimeoutError):
            made.connect((EDGE_A[v], port))
        made.close()
    assert list(world.a.flows.records()) == []


@pytest.mark.parametrize("where", AFAR)
def test_bypass_is_as_it_was(world: World, where: str) -> None:
    serve(world, where, 4)
    rules(world)
    with bypassed(world.a):
        ask(world, 4)


def test_a_connection_to_a_socket_of_the_host_passes_its_input_rules_anyway(world: World) -> None:
    serve(world, "near", 4)
    rules(world)
    with bypassed(world.a):
        ask_in_vain(world, 4)


@BOTH
@PROTOCOLS
def test_what_arrives_is_what_was_sent(world: World, kind: int, v: int) -> None:
    """The way round changes hops and fragmentation, and the answers' device must fit: the same as without it."""
    serve(world, "machine", v, kind)
    world.a.ns.ip("link", "set", "lan0", "mtu", "1380")
    try:
        with bypassed(world.a):
            without = _first(world, v, kind)
        assert _first(world, v, kind) == without
    finally:
        world.a.ns.ip("link", "set", "lan0", "mtu", "1500")


def _first(world: World, v: int, kind: int) -> tuple[bytes, ...]:
    """Send a first packet; return what of it the machine sees that the kernel does not draw by lot."""
    sniffer = world.machine(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    with contextlib.closing(sniffer):
        sniffer.settimeout(FIRST_S)
        made = world.socket(world.client, kind, EDGE_A[v])
        made.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: may be fragmented
        made.settimeout(FIRST_S)
        made.connect((EDGE_A[v], LISTEN))
        made.send(b"hello")
        until = time.monotonic() + FIRST_S
        while time.monotonic() < until:
            packet, where = sniffer.recvfrom(2000)
            if where[2] == socket.PACKET_HOST and packet[9 if v == 4 else 6] in (6, 17):
                break
    if v == 4:
        return packet[6:9], packet[32:34], packet[40:44] if kind == socket.SOCK_STREAM else b""
    return packet[4:8], packet[52:54], packet[60:64] if kind == socket.SOCK_STREAM else b""
