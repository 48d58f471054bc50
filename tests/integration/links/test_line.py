"""Three sites in a line: what reaches a site over its links, and what does not."""

from __future__ import annotations

import errno
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from skedge.core import names
from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey
from skedge.dataplane.ebpf.packet_check import link_mac
from tests.kit.rows import configure_check

from .conftest import Line
from .kit import CONTROL_PORT, KERNEL, NETWORK, Site, client, listen, run
from .packets import ACK, SYN, frame, ip, tcp

PORT = 61001
WORKLOAD = 9090


@contextmanager
def published(site: Site, host: str, protocol: Protocol = Protocol.TCP, port: int = PORT) -> Iterator[None]:
    site.endpoints.put(EndpointKey(port, protocol), Endpoint(WorkloadId(site.name, "w"), host, WORKLOAD))
    try:
        yield
    finally:
        site.endpoints.delete(EndpointKey(port, protocol))


def overlay(site: Site, v: int) -> str:
    return site.overlay4 if v == 4 else site.overlay6


def connect(at: Site, to: str, port: int, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new connection over which bytes went both ways."""
    mine = at.ns(client, to)
    mine.connect((to, port))
    accepted, _ = server.accept()
    accepted.settimeout(3)
    accepted.sendall(b"hello")
    assert mine.recv(5) == b"hello"
    mine.sendall(b"yes")
    assert accepted.recv(3) == b"yes"
    return mine, accepted


def forget_path_mtu(site: Site) -> None:
    """Put the routes anew: what was learnt about paths hangs on them, and `ip -6 route flush cache` keeps it."""
    site.ns.sh("ip route flush cache")
    for key, value in site.ns(site.routes.read).items():
        site.ns(site.routes.delete, key)
        site.ns(site.routes.put, key, value)


BOUND = [("127.0.0.1", "127.0.0.1", 4), ("0.0.0.0", "127.0.0.1", 4), ("::1", "::1", 6), ("::", "127.0.0.1", 4)]
BOUND += [("::", "127.0.0.1", 6), ("10.92.2.2", "10.92.2.2", 4), ("0.0.0.0", "10.92.2.2", 4)]


@pytest.mark.parametrize(("bound", "host", "v"), BOUND)
@pytest.mark.parametrize("entry", ["a", "b"])
def test_endpoint_reaches_the_workload_wherever_it_is_bound(line: Line, bound, host, v, entry) -> None:
    site, c = getattr(line, entry), line.c
    with published(c, host), c.ns(listen, bound, WORKLOAD) as server:
        mine, accepted = connect(site, overlay(c, v), PORT, server)
        with mine, accepted:
            plain = [part[0].removeprefix("::ffff:") for part in (accepted.getsockname(), accepted.getpeername())]
            assert plain == [overlay(c, v), overlay(site, v)]
            assert accepted.getsockname()[1] == PORT


@pytest.mark.parametrize("v", [4, 6])
def test_a_closed_workload_refuses_at_once(line: Line, v: int) -> None:
    before = line.c.drops().get("WORKLOAD_CLOSED", 0)
    with published(line.c, "127.0.0.1" if v == 4 else "::1"):
        started = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            line.a.ns(socket.create_connection, (overlay(line.c, v), PORT), 3)
        assert time.monotonic() - started < 0.5
    assert line.c.drops()["WORKLOAD_CLOSED"] > before


def test_a_workload_of_the_other_family_only_is_no_workload(line: Line) -> None:
    with (
        published(line.c, "127.0.0.1"),
        line.c.ns(listen, "127.0.0.1", WORKLOAD),
        pytest.raises(ConnectionRefusedError),
    ):
        line.a.ns(socket.create_connection, (line.c.overlay6, PORT), 3)


def _open_ports(site: Site, address: str) -> set[int]:
    """Send a SYN to every port from a raw view: connect without waiting, see who answered."""
    found: set[int] = set()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    batch = min(4096, hard - 200)

    def sweep() -> None:
        for start in range(1, 65536, batch):
            waiting = {}
            for port in range(start, min(start + batch, 65536)):
                made = client(address)
                made.setblocking(False)
                if made.connect_ex((address, port)) == errno.EINPROGRESS:
                    waiting[port] = made
            time.sleep(0.3)
            for port, made in waiting.items():
                with suppress(OSError):
                    made.getpeername()
                    found.add(port)
                made.close()

    site.ns(sweep)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return found


@pytest.mark.parametrize("v", [4, 6])
def test_a_scan_from_the_neighbour_finds_the_published_endpoint_and_nothing_else(line: Line, v: int) -> None:
    c = line.c
    others = [c.ns(listen, "::", port) for port in (22, 80, CONTROL_PORT, 30000, 61005, 62999, 65535)]
    others += [c.ns(listen, "0.0.0.0", 25), c.ns(listen, "127.0.0.1", 5432)]
    try:
        with published(c, "127.0.0.1"), c.ns(listen, "::", WORKLOAD):
            assert _open_ports(line.b, overlay(c, v)) == {PORT}
    finally:
        for other in others:
            other.close()


def test_the_hosts_other_addresses_are_not_reached_over_a_link(line: Line) -> None:
    via = str(names.link_local(NETWORK, "c"))
    device = line.b.device("c")
    way = ("192.0.2.9/32", "via", "inet6", via, "dev", device, "src", line.b.overlay4, "table", "7400")
    line.b.ns.ip("route", "add", *way)
    line.c.ns.ip("addr", "add", "192.0.2.9/32", "dev", "lo")
    before = line.c.drops().get("NOT_OVERLAY", 0)
    try:
        with line.c.ns(listen, "0.0.0.0", 80), pytest.raises(TimeoutError):
            line.b.ns(socket.create_connection, ("192.0.2.9", 80), 0.5)
        assert line.c.drops()["NOT_OVERLAY"] > before
    finally:
        line.b.ns.ip("route", "del", *way)
        line.c.ns.ip("addr", "del", "192.0.2.9/32", "dev", "lo")


def _inject(site: Site, device: str, data: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((device, 0))
        raw.send(data)


def test_crafted_packets_to_loopback_are_dropped(line: Line) -> None:
    b, c = line.b, line.c
    value = b.ns(b.links.read)[b.device("c")]
    macs = link_mac(value, value.peer_link_local), link_mac(value, value.link_local)
    forged = frame(*macs, ip("127.0.0.1", "127.0.0.1", tcp(5555, WORKLOAD)))
    with pytest.raises(OSError, match="buffer"):  # not even out of this site
        b.ns(_inject, b, b.device("c"), forged)
    b.ns(b.filter.detach, b.ns(b.netlink.index, b.device("c")), "egress")
    with c.ns(listen, "127.0.0.1", WORKLOAD) as server:
        server.settimeout(0.4)
        for source in (b.overlay4, "127.0.0.1"):
            before = c.drops().get("NOT_OVERLAY", 0)
            for flags in (SYN, ACK):
                b.ns(_inject, b, b.device("c"), frame(*macs, ip(source, "127.0.0.1", tcp(5555, WORKLOAD, flags))))
            time.sleep(0.1)
            assert c.drops()["NOT_OVERLAY"] == before + 2
        with pytest.raises(TimeoutError):
            server.accept()
    b.ns(b.links.put, b.device("c"), value)


def test_control_stream_and_probe_of_the_neighbour_pass(line: Line) -> None:
    b, c = line.b, line.c
    own = str(names.link_local(NETWORK, "c"))
    with c.ns(listen, "::", CONTROL_PORT) as server, c.ns(listen, "::", 80):
        scope = b.ns(socket.if_nametoindex, b.device("c"))
        mine = b.ns(client, own)
        mine.connect((own, CONTROL_PORT, 0, scope))
        accepted, peer = server.accept()
        assert peer[0].split("%")[0] == str(names.link_local(NETWORK, "b"))
        accepted.close()
        mine.close()
        refused = b.ns(client, own)
        refused.settimeout(0.4)
        with pytest.raises(TimeoutError):
            refused.connect((own, 80, 0, scope))
        refused.close()
    assert "1 received" in b.ns.sh(f"ping -6 -c1 -W1 {own}%{b.device('c')}")
    assert "0 received" in b.ns.sh(f"ping -c1 -W1 {c.overlay4}", check=False)


@pytest.mark.parametrize(
    ("bound", "host", "v"),
    [
        ("127.0.0.1", "127.0.0.1", 4),
        ("0.0.0.0", "127.0.0.1", 4),
        ("::", "127.0.0.1", 4),
        ("::", "127.0.0.1", 6),
        ("::1", "::1", 6),
        ("10.92.2.2", "10.92.2.2", 4),
    ],
)
@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("reuseport", [False, True])
def test_udp_endpoint_answers_from_its_own_address(line: Line, bound, host, v, connected, reuseport) -> None:
    if reuseport and bound == "::1" and KERNEL < (6, 6):
        pytest.skip("before Linux 6.6 bpf_sk_assign refuses SO_REUSEPORT, and no device but lo takes packets to ::1")
    a, c = line.a, line.c
    to = (overlay(c, v), PORT)
    with (
        published(c, host, Protocol.UDP),
        c.ns(listen, bound, WORKLOAD, socket.SOCK_DGRAM, reuseport) as server,
        a.ns(client, to[0], socket.SOCK_DGRAM) as mine,
    ):
        for word in (b"one", b"two"):
            if connected:
                mine.connect(to)
                mine.send(word)
            else:
                mine.sendto(word, to)
            data, peer = server.recvfrom(100)
            assert data == word
            assert peer[0].removeprefix("::ffff:") == overlay(a, v)
            server.sendto(word.upper(), peer)
            data, source = mine.recvfrom(100)
            assert (data, source[:2]) == (word.upper(), to)


def test_a_closed_udp_workload_is_told(line: Line) -> None:
    with published(line.c, "127.0.0.1", Protocol.UDP), line.a.ns(client, "1.1.1.1", socket.SOCK_DGRAM) as mine:
        mine.connect((line.c.overlay4, PORT))
        mine.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            mine.recv(10)


@pytest.mark.parametrize(("bound", "host", "v"), [("127.0.0.1", "127.0.0.1", 4), ("::", "127.0.0.1", 6)])
def test_reuseport_listeners(line: Line, bound, host, v) -> None:
    with (
        published(line.c, host),
        line.c.ns(listen, bound, WORKLOAD, socket.SOCK_STREAM, True) as server,
    ):
        mine, accepted = connect(line.a, overlay(line.c, v), PORT, server)
        mine.close()
        accepted.close()


@pytest.mark.parametrize(("bound", "host", "v"), [("127.0.0.1", "127.0.0.1", 4), ("::", "127.0.0.1", 6)])
def test_ports_of_a_closed_connection_can_be_used_again_at_once(line: Line, bound, host, v) -> None:
    """The server closes first, so the old connection waits at its side; the same client ports come again."""
    a, c = line.a, line.c
    repeated = _retransmitted(a)
    with published(c, host), c.ns(listen, bound, WORKLOAD) as server:
        for _ in range(4):
            mine = a.ns(client, overlay(c, v))
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            mine.bind((overlay(a, v), 45678))
            mine.connect((overlay(c, v), PORT))
            accepted, _ = server.accept()
            accepted.sendall(b"x" * 3000)
            accepted.close()
            got = b""
            while part := mine.recv(4096):
                got += part
            assert got == b"x" * 3000
            mine.close()
            time.sleep(0.05)
    assert _retransmitted(a) == repeated, "each first SYN was answered"


def _retransmitted(site: Site) -> int:
    """Return how many TCP segments the site sent again."""
    names_line, values = (line.split() for line in site.ns.sh("grep ^Tcp: /proc/net/snmp").splitlines())
    return int(values[names_line.index("RetransSegs")])


@pytest.mark.parametrize("v", [4, 6])
@pytest.mark.parametrize("told", [True, False])
def test_syn_cookies_are_accepted(line: Line, v: int, told: bool) -> None:
    """The host answers every SYN so, which is known; or a listener's queue is so short that it may come to that."""
    c = line.c
    c.ns.sh("sysctl -qw net.ipv4.tcp_syncookies=2")
    try:
        if told:
            c.ns(configure_check, c.filter, c.config)
        with published(c, "127.0.0.1"), c.ns(listen, "::", WORKLOAD) as server:
            server.listen(1024 if told else 8)
            mine, accepted = connect(line.a, overlay(c, v), PORT, server)
            mine.sendall(b"x")
            assert accepted.recv(1) == b"x"
            mine.close()
            accepted.close()
    finally:
        c.ns.sh("sysctl -qw net.ipv4.tcp_syncookies=1")
        c.ns(configure_check, c.filter, c.config)


@pytest.mark.parametrize("v", [4, 6])
def test_path_mtu_is_discovered_over_a_narrow_link(line: Line, v: int) -> None:
    """B's device to C is narrower than A's link: B tells A, over the overlay, and the transfer goes on."""
    a, b, c = line.a, line.b, line.c
    device = b.device("c")
    b.ns.ip("link", "set", device, "mtu", "1300")
    a.ns.sh("sysctl -qw net.ipv4.tcp_mtu_probing=0")
    received: list[int] = []

    def drain(end: socket.socket) -> None:
        total = 0
        while part := end.recv(65536):
            total += len(part)
        received.append(total)

    try:
        with published(c, "127.0.0.1"), c.ns(listen, "::", WORKLOAD) as server:
            mine, accepted = connect(a, overlay(c, v), PORT, server)
            reader = threading.Thread(target=drain, args=(accepted,))
            reader.start()
            started = time.monotonic()
            mine.sendall(b"x" * 400_000)
            mine.shutdown(socket.SHUT_WR)
            reader.join(10)
            assert received == [400_000]
            assert time.monotonic() - started < 5
            mine.close()
            accepted.close()
        shown = a.ns.sh(f"ip -{v} route get {overlay(c, v)}")
        assert "mtu 1300" in shown, shown
    finally:
        b.ns.ip("link", "set", device, "mtu", "1450")
        forget_path_mtu(a)


@pytest.mark.parametrize(
    ("bound", "host", "v"),
    [("127.0.0.1", "127.0.0.1", 4), ("::", "127.0.0.1", 4), ("::", "127.0.0.1", 6), ("::1", "::1", 6)],
)
def test_a_udp_workload_learns_the_path_mtu_too(line: Line, bound, host, v) -> None:
    """Its answer is too long for B's link to A: the error quotes the endpoint, the workload's socket is told."""
    a, b, c = line.a, line.b, line.c
    device = b.device("a")
    b.ns.ip("link", "set", device, "mtu", "1300")
    to = (overlay(c, v), PORT)
    try:
        with (
            published(c, host, Protocol.UDP),
            c.ns(listen, bound, WORKLOAD, socket.SOCK_DGRAM) as server,
            a.ns(client, to[0], socket.SOCK_DGRAM) as mine,
        ):
            mine.connect(to)
            mine.send(b"?")
            _, peer = server.recvfrom(10)
            server.sendto(b"x" * 1360, peer)
            deadline = time.monotonic() + 2
            shown = ""
            while time.monotonic() < deadline and "mtu 1300" not in shown:
                shown = c.ns.sh(f"ip -{v} route get {overlay(a, v)}")
                time.sleep(0.05)
            assert "mtu 1300" in shown
    finally:
        b.ns.ip("link", "set", device, "mtu", "1450")
        forget_path_mtu(c)


def test_tunnel_packets_of_others_are_dropped_and_counted(line: Line) -> None:
    """A host on B's underlay that knows the network identifier, but is not the neighbour, gets nothing in."""
    b, c = line.b, line.c
    value = c.ns(c.links.read)[c.device("b")]
    before = c.ns(c.guard.dropped)
    b.ns.sh("ip addr add 10.92.2.77/24 dev u1")
    payload = b"\x08\0\0\0" + value.vni.to_bytes(3) + b"\0" + bytes(60)

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("10.92.2.77", 0))
            stranger.sendto(payload, ("10.92.2.2", 4790))
            stranger.sendto(b"\x08\0\0\0" + (value.vni ^ 1).to_bytes(3) + bytes(61), ("10.92.2.2", 4790))

    try:
        b.ns(send)
        time.sleep(0.1)
        assert c.ns(c.guard.dropped) == before + 1, "the other identifier is not ours to judge"
    finally:
        b.ns.ip("addr", "del", "10.92.2.77/24", "dev", "u1")


def test_connections_survive_a_replace_of_their_routes_and_programs(line: Line) -> None:
    a, c = line.a, line.c
    with published(c, "127.0.0.1"), c.ns(listen, "127.0.0.1", WORKLOAD) as server:
        mine, accepted = connect(a, c.overlay4, PORT, server)
        for site in line.sites:
            for key, value in site.ns(site.routes.read).items():
                site.ns(site.routes.put, key, value)
            for key, value in site.ns(site.links.read).items():
                site.ns(site.links.put, key, value)
        mine.sendall(b"still")
        assert accepted.recv(5) == b"still"
        mine.close()
        accepted.close()


def test_nothing_was_left_on_the_hosts(line: Line) -> None:
    for site in line.sites:
        assert set(site.ns(site.links.read)) == {
            site.device(far.name) for far in line.sites if abs(ord(far.name) - ord(site.name)) == 1
        }
        assert run("ip", "-n", site.ns.name, "-o", "link").stdout.count("sk-") == len(site.ns(site.links.read))
