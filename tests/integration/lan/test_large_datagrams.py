"""Datagrams of LAN clients that are larger than the MTU of some device, to every kind of workload and back."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from skedge.core.model import Protocol
from skedge.core.reasons import Reason
from tests.integration.links.packets import checksum, udp
from tests.integration.links.test_large_datagrams import IP_MTU_DISCOVER, LARGEST, content, send_often

from .test_sockets import KINDS, workload
from .world import EDGE_A, LISTEN, Server, World, eventually

SO_RCVBUFFORCE = 33
HOSTILE = "10.60.1.77"
BOTH = pytest.mark.parametrize("v", [4, 6])
FITS = {4: 1450 - 28, 6: 1450 - 48}
SIZES = {v: (1, 1200, FITS[v], FITS[v] + 1, 1500 - 28, 1500 - 27, 8192, LARGEST) for v in (4, 6)}


@pytest.fixture(scope="module")
def standing_world(bpffs) -> Iterator[World]:
    made = World(bpffs)
    # Over veth a piece that was cut from a large datagram counts for all of it, where it is put together.
    made.client.sh("sysctl -qw net.ipv4.ipfrag_high_thresh=16777216 net.ipv6.ip6frag_high_thresh=16777216")
    try:
        yield made
    finally:
        made.close()


def served(world: World, where: str, v: int) -> tuple[Server, socket.socket]:
    """Let A's listener lead to a workload there; return that, and a client's socket."""
    server, candidate = workload(world, where, v, kind=socket.SOCK_DGRAM)
    world.a.service([candidate], (EDGE_A[v], LISTEN), protocol=Protocol.UDP)
    made = world.socket(world.client, socket.SOCK_DGRAM, EDGE_A[v])
    made.settimeout(1)
    for one in (made, server.socket):
        one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 20)  # a piece takes the room of what it was cut from
    return server, made


def told(world: World, v: int) -> bool:
    """Whether the client has learnt that less fits."""
    return "mtu 14" in world.client.sh(f"ip -{v} route get {EDGE_A[v]}")


def forget(world: World) -> None:
    """Let the client forget what it learnt of paths."""
    world.client.sh("ip route flush cache; ip -6 route del default; ip -6 route add default via fd60:1::1"
                    "; ip -6 route del fd60:1::/64; ip -6 route add fd60:1::/64 dev eth0")  # fmt: skip


def echo(made: socket.socket, to: tuple[str, int], size: int, lost: bool = False) -> None:
    """Send a datagram there and back; ``lost``: one may be, at each end, while its sender learns what fits."""
    for patience_s in (0.2, 0.2, 1) if lost else (1,):
        made.settimeout(patience_s)
        made.sendto(content(size), to)
        with contextlib.suppress(TimeoutError):
            data, source = made.recvfrom(1 << 16)
            assert (data, source[:2]) == (content(size), to)
            return
    raise AssertionError(f"{size} bytes: no answer")


@BOTH
@pytest.mark.parametrize("where", KINDS)
def test_datagrams_of_all_sizes_go_there_and_back(world: World, where: str, v: int) -> None:
    server, made = served(world, where, v)
    to = EDGE_A[v], LISTEN
    echo(made, to, 1)
    if v == 4:
        for one in (made, server.socket):
            one.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, 0)
    for size in SIZES[v]:
        echo(made, to, size, lost=v == 6)
    assert world.a.open() == 1
    assert world.a.engine.reconcile_counts() == 0
    forget(world)


@BOTH
@pytest.mark.parametrize("where", KINDS)
def test_a_flow_may_begin_with_a_large_one(world: World, where: str, v: int) -> None:
    _, made = served(world, where, v)
    if v == 6 and where in ("there", "far_machine"):  # nobody but the sender cuts IPv6: it is told
        made.sendto(content(4000), (EDGE_A[v], LISTEN))
        eventually(lambda: told(world, v), "the client is told")
    echo(made, (EDGE_A[v], LISTEN), 4000, lost=v == 6)
    forget(world)


def test_checksums_hold_when_a_whole_one_is_cut(world: World) -> None:
    """Without DF, larger than the link and not than the LAN: what is cut is whole, its checksum left to the device."""
    _, made = served(world, "there", 4)
    made.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, 0)
    for offload in ("on", "off"):
        world.client.sh(f"ethtool -K eth0 tx {offload}")
        for size in (FITS[4] + 1, FITS[4] + 2, FITS[4] + 3, 1472):
            echo(made, (EDGE_A[4], LISTEN), size)
    world.client.sh("ethtool -K eth0 tx on")


def test_a_sender_that_forbids_cutting_is_told(world: World) -> None:
    _, made = served(world, "there", 4)
    made.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, 2)
    made.connect((EDGE_A[4], LISTEN))
    with pytest.raises(OSError, match="too long"):
        send_often(made, 1460)
    forget(world)


@BOTH
def test_a_narrow_lan_behind_a_wide_link(world: World, v: int) -> None:
    """Answers that are too big for the client's LAN: cut up here over IPv4; over IPv6 the workload is told."""
    narrow = "ip link set {} mtu 1300"
    world.a.ns.sh(narrow.format("lan0"))
    world.client.sh(narrow.format("eth0"))
    try:
        _, made = served(world, "there", v)
        to = EDGE_A[v], LISTEN
        for size in (1, 4000, LARGEST):
            echo(made, to, size, lost=v == 6)
    finally:
        wide = "ip link set {} mtu 1500"
        world.a.ns.sh(wide.format("lan0"))
        world.client.sh(wide.format("eth0"))


@BOTH
def test_the_hosts_own_large_datagrams_are_left_alone(world: World, v: int) -> None:
    """A socket of the host that no listener of ours has to do with, and one with a listener beside it."""
    served(world, "there", v)
    server = world.server(world.a.ns, EDGE_A[v], socket.SOCK_DGRAM)
    made = world.socket(world.client, socket.SOCK_DGRAM, EDGE_A[v])
    for size in (100, 1473, 8192, 65000):
        echo(made, (EDGE_A[v], server.port), size)


def test_many_beginnings_hinder_nobody_else(world: World) -> None:
    """A client that never completes what it begins is held to its room; others go on."""
    _, made = served(world, "there", 4)
    other = world.socket(world.machine, socket.SOCK_DGRAM, EDGE_A[4])
    other.settimeout(1)
    echo(other, (EDGE_A[4], LISTEN), 4000)
    raw = world.client(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    raw.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
    before = world.a.drops().get(Reason.FRAGMENT, 0)
    data = udp(40000, LISTEN, bytes(1016)).data
    world.client.ip("addr", "add", f"{HOSTILE}/24", "dev", "eth0")
    ends = socket.inet_aton(HOSTILE) + socket.inet_aton(EDGE_A[4])
    for ident in range(1, 10_001):
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), ident, 0x2000, 64, 17, 0) + ends
        raw.sendto(head[:10] + struct.pack(">H", checksum(head)) + head[12:] + data, (EDGE_A[4], 0))
    raw.close()
    world.client.ip("addr", "del", f"{HOSTILE}/24", "dev", "eth0")
    assert world.a.drops()[Reason.FRAGMENT] > before + 9000
    for size in (100, 4000, 20_000):
        echo(other, (EDGE_A[4], LISTEN), size)
    echo(made, (EDGE_A[4], LISTEN), 1000)
