"""Datagrams larger than a link's MTU: their fragments reach sockets of the host, and so do the answers'."""

from __future__ import annotations

import hashlib
import itertools
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from skedge.core.model import Protocol
from skedge.dataplane.ebpf.packet_check import link_mac

from .conftest import Line
from .kit import Site, client, listen
from .packets import checksum, frame, ip, udp
from .test_line import PORT, WORKLOAD, forget_path_mtu, overlay, published

MTU = 1450  # of the links: the underlay's 1500 less VXLAN over IPv4
HEADERS = {4: 28, 6: 48}
LARGEST = 65507
IP_MTU_DISCOVER = 10
BOUND = [("127.0.0.1", "127.0.0.1", 4), ("0.0.0.0", "127.0.0.1", 4), ("10.92.2.2", "10.92.2.2", 4)]
BOUND += [("::", "127.0.0.1", 4), ("::", "127.0.0.1", 6), ("::1", "::1", 6)]


def sizes(v: int) -> tuple[int, ...]:
    fits = MTU - HEADERS[v]
    return 1, 1200, fits, fits + 1, fits + 8, 8192, LARGEST


def content(size: int) -> bytes:
    return (hashlib.sha256(str(size).encode()).digest() * (size // 32 + 1))[:size]


def echo(mine: socket.socket, server: socket.socket, to: tuple[str, int], size: int) -> tuple[str, int]:
    """Send a datagram there and back; return whom the server saw."""
    sent = content(size)
    mine.sendto(sent, to)
    data, peer = server.recvfrom(1 << 16)
    assert data == sent
    server.sendto(data[::-1], peer)
    back, source = mine.recvfrom(1 << 16)
    assert (back, source[:2]) == (sent[::-1], to)
    return peer[0].removeprefix("::ffff:"), peer[1]


@contextmanager
def ends(line: Line, host: str, bound: str, v: int, **options: bool) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return a client's socket at A and a workload's at C, behind an endpoint."""
    a, c = line.a, line.c
    with (
        published(c, host, Protocol.UDP),
        c.ns(listen, bound, WORKLOAD, socket.SOCK_DGRAM, **options) as server,
        a.ns(client, overlay(a, v), socket.SOCK_DGRAM) as mine,
    ):
        yield mine, server


@pytest.mark.parametrize(("bound", "host", "v"), BOUND)
def test_datagrams_of_all_sizes_go_there_and_back(line: Line, bound: str, host: str, v: int) -> None:
    with ends(line, host, bound, v) as (mine, server):
        for size in sizes(v):
            assert echo(mine, server, (overlay(line.c, v), PORT), size)[0] == overlay(line.a, v), size


@pytest.mark.parametrize("v", [4, 6])
def test_the_first_datagram_of_a_client_may_be_a_large_one(line: Line, v: int) -> None:
    """It is what lets an unconnected socket have answers, and no smaller one went before."""
    with ends(line, "127.0.0.1", "::", v) as (mine, server):
        echo(mine, server, (overlay(line.c, v), PORT), 8192)


def test_sockets_that_share_a_port_get_large_ones_too(line: Line) -> None:
    with ends(line, "127.0.0.1", "127.0.0.1", 4, reuseport=True) as (mine, server):
        echo(mine, server, (line.c.overlay4, PORT), 8192)


@pytest.mark.parametrize("v", [4, 6])
def test_a_narrower_link_on_the_way(line: Line, v: int) -> None:
    """IPv4 without DF is cut up further there; IPv6, and whoever forbids it, is told."""
    b, device = line.b, {far: line.b.device(far) for far in ("a", "c")}
    for name in device.values():
        b.ns.ip("link", "set", name, "mtu", "1300")
    try:
        with ends(line, "127.0.0.1" if v == 4 else "::1", "127.0.0.1" if v == 4 else "::1", v) as (mine, server):
            to = overlay(line.c, v), PORT
            if v == 6:  # the first of each direction is the one that is told about
                for sender, receiver in ((mine, to), (server, None)):
                    _told(line, sender, receiver, mine, server)
            else:
                for one in (mine, server):
                    one.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, 0)
            for size in (1300, 8192, LARGEST):
                echo(mine, server, to, size)
    finally:
        for name in device.values():
            b.ns.ip("link", "set", name, "mtu", str(MTU))
        for site in (line.a, line.c):
            forget_path_mtu(site)


def _told(line: Line, sender: socket.socket, to: tuple[str, int] | None, mine: socket.socket, server: socket.socket):
    """Let one large datagram be lost, and see that its sender learns what fits."""
    if to is None:
        mine.sendto(b"?", (line.c.overlay6, PORT))
        data, to = server.recvfrom(10)
        assert data == b"?"
    at, far = (line.a, line.c) if sender is mine else (line.c, line.a)
    sender.sendto(content(4000), to)
    until, shown = time.monotonic() + 2, ""
    while "mtu 1300" not in shown:
        assert time.monotonic() < until, shown
        shown = at.ns.sh(f"ip -6 route get {far.overlay6}")


TRACKS = "add table inet tracks; add chain inet tracks in { type filter hook prerouting priority 0; }; "
TRACKS += "add rule inet tracks in ct state new counter"


@pytest.mark.parametrize(("host", "v"), [("127.0.0.1", 4), ("::1", 6)])
def test_hosts_that_track_connections(line: Line, host: str, v: int) -> None:
    """There the kernel puts fragments together before it knows whether they are for the host, and cuts them again."""
    for site in line.sites:
        site.ns.sh(f"nft '{TRACKS}'")
    try:
        with ends(line, host, host, v) as (mine, server):
            for size in (1200, 8192, LARGEST):
                echo(mine, server, (overlay(line.c, v), PORT), size)
    finally:
        for site in line.sites:
            site.ns.sh("nft delete table inet tracks")


def send_often(made: socket.socket, size: int) -> None:
    """Send until the kernel knows better, for a second at most."""
    for _ in range(20):
        made.send(content(size))
        time.sleep(0.05)


def test_a_sender_that_forbids_cutting_is_told(line: Line) -> None:
    b, device = line.b, line.b.device("c")
    b.ns.ip("link", "set", device, "mtu", "1300")
    try:
        with ends(line, "127.0.0.1", "127.0.0.1", 4) as (mine, _):
            mine.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, 2)
            mine.connect((line.c.overlay4, PORT))
            with pytest.raises(OSError, match="too long"):
                send_often(mine, 1400)
    finally:
        b.ns.ip("link", "set", device, "mtu", str(MTU))
        forget_path_mtu(line.a)


# ---- fragments made by hand: from B to a workload of C ----

MORE = 1


class Hand:
    """Fragments as B's link device sends them to C."""

    numbers = itertools.count(0, 20)  # what an earlier test sent may still be known

    def __init__(self, line: Line, v: int) -> None:
        self.site, self.c, self.v = line.b, line.c, v
        self.before = next(self.numbers)
        self.device = line.b.device("c")
        value = line.b.ns(line.b.links.read)[self.device]
        self.macs = link_mac(value, value.peer_link_local), link_mac(value, value.link_local)
        self._raw = line.b.ns(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
        self._raw.bind((self.device, 0))

    def packet(self, ident: int, offset: int, more: bool, data: bytes, source: str = "") -> bytes:
        """Return one fragment of a UDP datagram; ``offset`` in bytes."""
        pack, ident = socket.inet_pton, self.before + ident
        family = socket.AF_INET if self.v == 4 else socket.AF_INET6
        addresses = pack(family, source or overlay(self.site, self.v)) + pack(family, overlay(self.c, self.v))
        if self.v == 6:
            head = struct.pack(">BBHI", 17, 0, offset | more, ident)
            return struct.pack(">IHBB", 6 << 28, 8 + len(data), 44, 64) + addresses + head + data
        word = offset // 8 | (0x2000 if more else 0)
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), ident & 0xFFFF, word, 64, 17, 0) + addresses
        return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + data

    def send(self, *packets: bytes) -> None:
        for one in packets:
            self._raw.send(frame(*self.macs, one))

    def pieces(self, ident: int, size: int, cut: int = 1024, port: int = PORT, sport: int = 40000) -> list[bytes]:
        """Return the fragments of a datagram of ``size`` bytes, without a checksum over IPv4."""
        data = self._datagram(sport, port, content(size))
        ats = range(0, len(data), cut)
        return [self.packet(ident, at, at + cut < len(data), data[at : at + cut]) for at in ats]

    def _datagram(self, sport: int, dport: int, payload: bytes) -> bytes:
        data = udp(sport, dport, payload).data
        if self.v == 4:
            return data
        return ip(overlay(self.site, 6), overlay(self.c, 6), udp(sport, dport, payload))[40:]

    def close(self) -> None:
        self._raw.close()


@pytest.fixture(params=[4, 6])
def hand(line: Line, request: pytest.FixtureRequest) -> Iterator[Hand]:
    made = Hand(line, request.param)
    yield made
    made.close()


def received(server: socket.socket, wait_s: float = 0.3) -> list[int]:
    """Return the sizes of what arrives until nothing does."""
    server.settimeout(wait_s)
    found = []
    try:
        while True:
            data = server.recv(1 << 16)
            assert data == content(len(data))
            found.append(len(data))
    except TimeoutError:
        return found


@contextmanager
def counted(site: Site, **expected: int) -> Iterator[None]:
    """Expect that the site drops so many packets by reason, and no others."""
    before = site.drops()
    yield
    after = site.drops()
    found = {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}
    assert found == expected


@contextmanager
def behind(line: Line) -> Iterator[socket.socket]:
    """Return the socket of a workload of C that both families reach."""
    with (
        published(line.c, "127.0.0.1", Protocol.UDP),
        line.c.ns(listen, "::", WORKLOAD, socket.SOCK_DGRAM) as server,
    ):
        yield server


def test_fragments_behind_the_first_may_come_in_any_order_and_twice(line: Line, hand: Hand) -> None:
    with behind(line) as server, counted(line.c):
        first, *others = hand.pieces(1, 5000)
        hand.send(first, *reversed(others))
        first, *others = hand.pieces(2, 6000)
        hand.send(first, first, *others)
        assert received(server) == [5000, 6000]


def test_those_before_the_first_are_dropped_and_counted(line: Line, hand: Hand) -> None:
    with behind(line) as server, counted(line.c, EARLY_FRAGMENT=2):
        first, *others = hand.pieces(3, 5000)
        hand.send(*others[:2], first, *others[2:])
        assert received(server) == []


def test_tiny_and_overlapping_ones_are_refused(line: Line, hand: Hand) -> None:
    data = hand._datagram(40000, PORT, content(2992))
    make = hand.packet
    with behind(line) as server:
        for number, bad in enumerate((
            lambda ident: make(ident, 8, True, data[8:1024]),  # behind a header that stands alone
            lambda ident: make(ident, 512, True, data[512:1024]),  # what the first one has
            lambda ident: make(ident, 1024, True, data[1024:1500]),  # no multiple of eight
            lambda ident: make(ident, 65528, False, bytes(64)),  # beyond the largest datagram
        ), 10):  # fmt: skip
            with counted(line.c, BAD_FRAGMENT=1):
                hand.send(make(number, 0, True, data[:1024]), bad(number))
                time.sleep(0.05)
        with counted(line.c, BAD_FRAGMENT=1):
            hand.send(make(20, 0, True, b""))
            time.sleep(0.05)
        assert received(server) == []


def test_fragments_to_what_is_not_published_are_refused_all(line: Line, hand: Hand) -> None:
    with line.c.ns(listen, "::", 5353, socket.SOCK_DGRAM) as server, counted(line.c, NOT_PUBLISHED=5):
        hand.send(*hand.pieces(4, 5000, port=5353))
        assert received(server) == []


def test_a_stranger_gets_no_answer_in_fragments_either(line: Line, hand: Hand) -> None:
    """A socket that merely has the port has sent to no endpoint."""
    with line.c.ns(listen, "::", 5353, socket.SOCK_DGRAM) as server, counted(line.c, NO_SOCKET=5):
        hand.send(*hand.pieces(5, 5000, port=5353, sport=PORT))
        assert received(server) == []


def test_what_never_completes_costs_nobody_anything(line: Line, hand: Hand) -> None:
    """Ten thousand beginnings: datagrams of others go on, whole ones and cut ones."""
    v = hand.v
    switch = "net.ipv4.ipfrag_time" if v == 4 else "net.ipv6.ip6frag_time"
    with behind(line) as server, line.a.ns(client, overlay(line.a, v), socket.SOCK_DGRAM) as mine:
        to = overlay(line.c, v), PORT
        echo(mine, server, to, 4000)
        line.c.ns.sh(f"sysctl -qw {switch}=2")
        data = hand._datagram(40000, PORT, bytes(1400))[:1024]
        for ident in range(10_000):
            hand.send(hand.packet(1000 + ident, 0, True, data))
        for size in (100, 4000, 20_000):
            echo(mine, server, to, size)
    time.sleep(2.5)  # until the kernel has forgotten them: its room for parts is that of all tests
    line.c.ns.sh(f"sysctl -qw {switch}={30 if v == 4 else 60}")
