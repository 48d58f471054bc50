"""A neighbour that does what it likes on its link, against both checks: the packet programs and the nftables chains.

The neighbour is a namespace that writes frames of any content to its end of the link, and listens to what comes back.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from skedge.core import names
from skedge.core.objects import KernelRoute, NextHop, RouteUse
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.link_table import path_bit
from skedge.dataplane.ebpf.packet_check import link_mac
from skedge.dataplane.ebpf.prefix_table import OwnAddressDriver, PathDriver
from skedge.dataplane.host.host_addresses import local
from skedge.dataplane.nftables import arrivals
from tests.integration.ipvs.kit import Site as WithoutPrograms

from .kit import CIDR, CONTROL_PORT, ENDPOINT_PORTS, LOAD_PORT, NETWORK, Namespace, Site, client, listen, veth
from .packets import ACK, L4, RST, frame, icmp, icmp6, ip, tcp, udp

LAN = {4: "192.168.1.1", 6: "fd99::1"}  # of the victim, and the network that some other site announces
LAN_NET = {4: "192.168.1.0/24", 6: "fd99::/64"}
MACHINE = {4: "192.168.1.2", 6: "fd99::2"}
OPEN = (22, 80, 5432)  # the host's own servers, on every address
CLOSED = (1, 443, 9999, ENDPOINT_PORTS[0] + 500, 63500, 65535)
NOTHING_BACK = 0.15
BOTH = pytest.mark.parametrize("v", [4, 6])


@dataclass
class Neighbourhood:
    """The victim with a LAN, its neighbour on the link, and a third site of which only the name is known."""

    victim: Any
    evil: Namespace
    lan: Namespace
    engine: str
    sockets: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name, self.far = self.victim.name, "evil"
        self.device = self.victim.device(self.far)
        there = self.victim.vxlan(self.far, "10.94.1.1", "10.94.1.2")
        self.macs = link_mac(there, there.link_local), link_mac(there, there.peer_link_local)
        self.own = {4: self.victim.overlay4, 6: self.victim.overlay6}
        self.link_local = {6: (there.peer_link_local, there.link_local)}
        self._raw = self.evil(self._tap)

    @staticmethod
    def _tap() -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        raw.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
        raw.bind(("link0", 3))
        raw.setblocking(False)
        return raw

    def overlay(self, site: str) -> dict[int, str]:
        return addresses(site)

    def send(self, packet: bytes) -> None:
        to, source = self.macs
        self._raw.send(frame(to, source, packet))

    def answers(self, patience_s: float = NOTHING_BACK) -> list[bytes]:
        """Return the TCP, UDP and ICMP packets that came back, as IP packets."""
        time.sleep(patience_s)
        found = []
        while True:
            try:
                data, where = self._raw.recvfrom(65535)
            except BlockingIOError:
                return found
            if where[2] != socket.PACKET_OUTGOING and not _neighbour_discovery(data[14:]):
                found.append(data[14:])

    def counted(self, reason: Reason) -> int:
        """Return how often something was refused for this reason, by either line."""
        return self._counts().get(reason, 0)

    def _counts(self) -> Counter[Reason]:
        table = self.victim.ns(self.victim.nft.packets, "test")
        check = self.victim.filter.drops() if self.engine == "ebpf" else self.victim.ns(self.victim.check.drops)
        return Counter(check) + Counter({reason: table.get(name, 0) for name, reason in arrivals.COUNTERS.items()})

    def refused(self) -> int:
        return self._counts().total()

    def serve(self, *arguments: Any) -> socket.socket:
        made = self.victim.ns(listen, *arguments)
        self.sockets.append(made)
        return made

    def close(self) -> None:
        self._raw.close()
        for one in (self.victim, self.evil, self.lan):
            one.close()


def addresses(site: str) -> dict[int, str]:
    return {
        4: str(names.overlay_address(IPv4Network(CIDR), NETWORK, site)),
        6: str(names.overlay_address6(NETWORK, site)),
    }


def _neighbour_discovery(packet: bytes) -> bool:
    icmp_ = packet[0] >> 4 == 6 and (packet[6] == 0 or (packet[6] == 58 and packet[40] in (*range(130, 138), 143)))
    return icmp_ or packet[0] >> 4 not in (4, 6)


def _build(engine: str, bpffs: Path) -> Neighbourhood:
    victim: Any = Site("victim", bpffs) if engine == "ebpf" else WithoutPrograms("victim", engine=False)
    evil, lan = Namespace(f"evil-{engine}"), Namespace(f"machine-{engine}")
    veth(victim.ns, evil, "u0", "u0", "10.94.1.1/24", "10.94.1.2/24")
    veth(victim.ns, lan, "lan0", "eth0", f"{LAN[4]}/24", f"{MACHINE[4]}/24")
    victim.ns.ip("addr", "add", f"{LAN[6]}/64", "dev", "lan0", "nodad")
    lan.ip("addr", "add", f"{MACHINE[6]}/64", "dev", "eth0", "nodad")
    there = victim.vxlan("evil", "10.94.1.1", "10.94.1.2")
    device = victim.device("evil")
    victim.put_base()
    victim.ns(victim.forwarding.ensure, transit=True)
    victim.ns(victim.links.put, device, there)
    evil.ip("link", "add", "link0", "type", "vxlan", "id", str(there.vni), "local", "10.94.1.2", "remote",
            "10.94.1.1", "dstport", "4790")  # fmt: skip
    evil.ip("link", "set", "link0", "up")
    for v, via in ((4, names.GATEWAY4), (6, there.peer_link_local)):
        for site in ("evil", "third"):
            own = {4: victim.overlay4, 6: victim.overlay6}[v]
            victim.ns(victim.routes.put, f"{addresses(site)[v]}/{32 if v == 4 else 128}",
                      KernelRoute((NextHop(device, via),), own))  # fmt: skip
        route = KernelRoute((NextHop(device, via),), {4: victim.overlay4, 6: victim.overlay6}[v], RouteUse.TRANSIT)
        victim.ns(victim.routes.put, LAN_NET[v], route)
    made = Neighbourhood(victim, evil, lan, engine)
    if engine == "ebpf":
        made.victim.ns(know_host, victim)
    return made


def know_host(site: Site) -> None:
    """Tell the programs of the host's own addresses, as the registry does."""
    driver = OwnAddressDriver(site.prefixes)
    own = {f"{site.overlay4}/32", f"{site.overlay6}/128"}
    for prefix in local(site.netlink) - own:
        driver.put(prefix, "")


@pytest.fixture(scope="module", params=["ebpf", "ipvs"])
def standing(request: pytest.FixtureRequest, bpffs: Path) -> Iterator[Neighbourhood]:
    made = _build(request.param, bpffs)
    yield made
    made.close()


@pytest.fixture
def hood(standing: Neighbourhood) -> Iterator[Neighbourhood]:
    standing.answers(0)
    yield standing
    while standing.sockets:
        standing.sockets.pop().close()


# ---- all ports with all flags --------------------------------------------------------------------------------------


def _sources(hood: Neighbourhood, v: int) -> list[tuple[str, str]]:
    """Return (from, to) of packets to the host's ports, from every kind of address."""
    evil, third, own = hood.overlay("evil")[v], hood.overlay("third")[v], hood.own[v]
    pairs = [(evil, own), (third, own), (own, own), (MACHINE[v], own), (LAN[v], own), (evil, LAN[v])]
    pairs += [("127.0.0.1", own), (evil, "127.0.0.1")] if v == 4 else [("::1", own), (evil, "::1"), hood.link_local[6]]
    return pairs


@BOTH
def test_no_port_of_the_host_says_anything(hood: Neighbourhood, v: int) -> None:
    for port in OPEN:
        hood.serve("::", port)
    sent, before = 0, hood.refused()
    for source, to in _sources(hood, v):
        for sport in (ENDPOINT_PORTS[0], CONTROL_PORT, 40000):
            for dport in (*OPEN, *CLOSED):
                for flags in range(64):
                    hood.send(ip(source, to, tcp(sport, dport, flags)))
                    sent += 1
    assert hood.refused() - before > 0.7 * sent > 7000, "they came, and were refused (some by the kernel itself)"
    assert [_told(one) for one in hood.answers()] == []


def _told(packet: bytes) -> str:
    at = 20 if packet[0] >> 4 == 4 else 40
    return f"{packet[9 if at == 20 else 6]} from port {int.from_bytes(packet[at : at + 2])} flags {packet[at + 13]:#x}"


@BOTH
def test_a_stray_packet_from_an_endpoint_is_told_so_where_a_socket_may_have_been(hood: Neighbourhood, v: int) -> None:
    low, _ = hood.victim.ns(lambda: Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()).split()
    assert int(low) <= 40000
    hood.send(ip(hood.overlay("evil")[v], hood.own[v], tcp(ENDPOINT_PORTS[0], 40000, ACK)))
    (answer,) = hood.answers()
    assert answer[(20 if v == 4 else 40) + 13] & RST


@BOTH
def test_udp_and_the_rest_reach_no_socket(hood: Neighbourhood, v: int) -> None:
    servers = [hood.serve("::", port, socket.SOCK_DGRAM) for port in (53, 161, 5353)]
    for source, to in _sources(hood, v):
        for sport in (ENDPOINT_PORTS[0], CONTROL_PORT, LOAD_PORT, 53):
            for dport in (53, 161, 5353):
                hood.send(ip(source, to, udp(sport, dport)))
        hood.send(ip(source, to, L4(47, bytes(20), None)))
        hood.send(ip(source, to, icmp6(128) if v == 6 and not source.startswith("fe80") else icmp(8 if v == 4 else 0)))
    assert [_told(one) for one in hood.answers()] == []
    for server in servers:
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(100)


# ---- a LAN that another site announces ----------------------------------------------------------------------------


@contextmanager
def _without(hood: Neighbourhood, line: str) -> Iterator[None]:
    """Take one of the two lines of defence away, as a fault of ours would."""
    victim = hood.victim
    if line == "programs" and hood.engine == "ebpf":
        driver = OwnAddressDriver(victim.prefixes)
        for key in driver.read():
            driver.delete(key)
    elif line == "programs":
        victim.ns.sh("nft flush chain inet skedge overlay-in")
    elif line == "chains":
        victim.ns.sh("nft flush chain inet skedge arrivals-in")
    victim.nft.forget()
    try:
        yield
    finally:
        if hood.engine == "ebpf":
            victim.ns(know_host, victim)
        victim.put_base()


@BOTH
@pytest.mark.parametrize("without", ["nothing", "programs", "chains"])
def test_an_announced_lan_opens_no_address_of_the_host(hood: Neighbourhood, v: int, without: str) -> None:
    evil = hood.overlay("evil")[v]
    hood.serve(LAN[v], 8080)
    server = hood.serve("0.0.0.0" if v == 4 else LAN[v], 8081, socket.SOCK_DGRAM)
    server.setblocking(False)
    before = hood.counted(Reason.HOST_ADDRESS) + hood.counted(Reason.NOT_OVERLAY)
    with _without(hood, without):
        hood.send(ip(evil, LAN[v], tcp(40000, 8080)))
        hood.send(ip(evil, LAN[v], udp(40000, 8081)))
        if v == 4:
            hood.send(ip(evil, "192.168.1.255", udp(40000, 8081)))
        hood.send(ip(evil, LAN[v], icmp6(128) if v == 6 else icmp(8)))
        assert [_told(one) for one in hood.answers()] == []
    with pytest.raises(BlockingIOError):
        server.recv(100)
    assert hood.counted(Reason.HOST_ADDRESS) + hood.counted(Reason.NOT_OVERLAY) - before == (4 if v == 4 else 3)


def test_an_own_address_in_the_overlays_range_is_not_transit(hood: Neighbourhood) -> None:
    """Such as a provider gives (RFC 6598)."""
    hood.victim.ns.ip("addr", "add", "100.72.0.2/24", "dev", "lan0")
    try:
        if hood.engine == "ebpf":
            hood.victim.ns(know_host, hood.victim)
            hood.victim.ns(lambda: hood.victim.filter.configure(hood.victim.filter.wanted(hood.victim.config)))
        hood.serve("100.72.0.2", 8080)
        before = hood.counted(Reason.HOST_ADDRESS)
        hood.send(ip(hood.overlay("evil")[4], "100.72.0.2", tcp(40000, 8080)))
        assert [_told(one) for one in hood.answers()] == []
        assert hood.counted(Reason.HOST_ADDRESS) == before + 1
    finally:
        hood.victim.ns.ip("addr", "del", "100.72.0.2/24", "dev", "lan0")


@BOTH
def test_nothing_goes_on_into_the_lan(hood: Neighbourhood, v: int) -> None:
    """The prefix has no route any more, and the host forwards."""
    machine = hood.lan(listen, MACHINE[v], 8082, socket.SOCK_DGRAM)
    hood.victim.ns.sh(f"ip -{v} route del {LAN_NET[v]} table 7401; sysctl -qw net.ipv4.ip_forward=1")
    hood.victim.ns.sh("sysctl -qw net.ipv6.conf.all.forwarding=1")
    try:
        hood.send(ip(hood.overlay("evil")[v], MACHINE[v], udp(40000, 8082)))
        time.sleep(NOTHING_BACK)
        machine.setblocking(False)
        with pytest.raises(BlockingIOError):
            machine.recv(100)
    finally:
        machine.close()
        via = names.GATEWAY4 if v == 4 else hood.link_local[6][0]
        route = KernelRoute((NextHop(hood.device, via),), hood.own[v], RouteUse.TRANSIT)
        hood.victim.ns(hood.victim.routes.put, LAN_NET[v], route)


# ---- errors about what is not the neighbour's business ------------------------------------------------------------


def _mtu(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_IPV6, 24)  # IPV6_MTU


def test_a_neighbour_has_no_say_in_the_hosts_own_conversations(hood: Neighbourhood) -> None:
    machine = hood.lan(listen, MACHINE[6], 9000, socket.SOCK_DGRAM)
    own = hood.victim.ns(client, LAN[6], socket.SOCK_DGRAM)
    try:
        own.connect((MACHINE[6], 9000))
        own.send(b"hello")
        data, back = machine.recvfrom(100)
        quoted = ip(LAN[6], MACHINE[6], udp(own.getsockname()[1], 9000, data))
        peer_ll = hood.link_local[6][0]
        for source, to in (hood.link_local[6], (hood.overlay("evil")[6], hood.own[6]), (peer_ll, hood.own[6])):
            hood.send(ip(source, to, icmp6(2, 0, struct.pack(">I", 1280)[4:] + quoted)))
            hood.send(ip(source, to, L4(58, struct.pack(">BBHI", 2, 0, 0, 1280) + quoted, 2)))
            hood.send(ip(source, to, icmp6(1, 4, quoted)))
        time.sleep(NOTHING_BACK)
        assert _mtu(own) == 1500
        machine.sendto(b"still here", back)
        assert own.recv(100) == b"still here"
    finally:
        own.close()
        machine.close()


def test_errors_about_the_control_stream_and_probes_come_through(hood: Neighbourhood) -> None:
    peer_ll, own_ll = hood.link_local[6]
    index = hood.victim.ns(hood.victim.netlink.index, hood.device)
    dialling = hood.victim.ns(client, peer_ll)
    try:
        dialling.setblocking(False)
        dialling.connect_ex((peer_ll, CONTROL_PORT, 0, index))
        (syn,) = (one for one in hood.answers() if one[6] == 6)
        hood.send(ip(peer_ll, own_ll, icmp6(1, 4, syn)))
        time.sleep(NOTHING_BACK)
        assert dialling.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 111, "refused, by the error"
    finally:
        dialling.close()


# ---- with the address of a site -----------------------------------------------------------------------------------


@BOTH
def test_a_lan_machine_claims_no_sites_address(hood: Neighbourhood, v: int) -> None:
    """Of the overlay's IPv4 range only the sites' own are ours: the rest may be the provider's."""
    victim, third = hood.victim, hood.overlay("third")[v]
    sites = arrivals.SiteAddressDriver(victim.nft)
    for key, value in arrivals.by_family(hood.overlay("third").values()).items():
        victim.ns(sites.put, key, value)
    server = hood.serve(LAN[v], 7000, socket.SOCK_DGRAM)
    server.setblocking(False)
    raw = hood.lan(lambda: _bound("eth0"))
    mac = victim.ns.sh("cat /sys/class/net/lan0/address").strip()
    to, mine = bytes.fromhex(mac.replace(":", "")), bytes.fromhex("020000000001")
    before = hood.counted(Reason.CLAIMED)
    try:
        for claimed in (third, hood.own[v]):
            raw.send(frame(to, mine, ip(claimed, LAN[v], udp(1, 7000, b"claimed"))))
        other = "100.64.7.1" if v == 4 else "2001:db8::7"
        raw.send(frame(to, mine, ip(other, LAN[v], udp(1, 7000, b"other"))))
        time.sleep(NOTHING_BACK)
        assert server.recv(100) == b"other"
        with pytest.raises(BlockingIOError):
            server.recv(100)
        assert hood.counted(Reason.CLAIMED) == before + 2
    finally:
        raw.close()


def _bound(device: str) -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind((device, 0))
    return raw


def _bits(hood: Neighbourhood) -> tuple[int, int]:
    """Return the bit of the link, and one of another link."""
    link = hood.victim.vxlan("evil", "10.94.1.1", "10.94.1.2").link
    return path_bit(link), path_bit(link) << 1 if path_bit(link) < 1 << 31 else 1


@BOTH
def test_a_site_speaks_only_over_links_that_lead_to_it(hood: Neighbourhood, v: int) -> None:
    if hood.engine == "ipvs":
        pytest.skip("the engine ipvs takes any site's address over any link, see docs/security.md")
    victim, evil, third = hood.victim, hood.overlay("evil")[v], hood.overlay("third")[v]
    by_evil, by_another = _bits(hood)
    paths = PathDriver(victim.pin_dir, victim.prefixes)
    server = hood.serve(hood.own[v], LOAD_PORT, socket.SOCK_DGRAM)
    server.setblocking(False)

    def heard(source: str) -> bool:
        hood.send(ip(source, hood.own[v], udp(LOAD_PORT, LOAD_PORT, b"load")))
        time.sleep(0.05)
        try:
            return server.recv(100) == b"load"
        except BlockingIOError:
            return False

    assert heard(third), "nobody has told yet"
    paths.put(evil, by_evil)
    paths.put(third, by_another)
    before = hood.counted(Reason.WRONG_PATH)
    try:
        assert heard(evil)
        assert not heard(third)
        hood.send(ip(third, hood.own[v], tcp(40000, 61000)))
        hood.send(ip(third, hood.own[v], icmp6(1) if v == 6 else icmp(3)))
        assert hood.answers() == []
        assert hood.counted(Reason.WRONG_PATH) == before + 3
        paths.put(third, by_evil | by_another)
        assert heard(third), "on some way, though not on the shortest"
    finally:
        for key in (evil, third):
            paths.delete(key)


@BOTH
def test_so_do_clients_that_keep_their_addresses(hood: Neighbourhood, v: int) -> None:
    if hood.engine == "ipvs":
        pytest.skip("the engine ipvs takes no such clients")
    victim, prefix = hood.victim, {4: "10.66.0.0/16", 6: "fd66::/48"}[v]
    via = names.GATEWAY4 if v == 4 else hood.link_local[6][0]
    route = KernelRoute((NextHop(hood.device, via),), hood.own[v], RouteUse.CLIENTS)
    victim.ns(victim.routes.put, prefix, route)
    by_evil, by_another = _bits(hood)
    paths = PathDriver(victim.pin_dir, victim.prefixes)
    packet = ip({4: "10.66.0.5", 6: "fd66::5"}[v], hood.own[v], tcp(40000, 61000))
    try:
        for told, reason in (
            (0, Reason.NOT_PUBLISHED),
            (by_evil, Reason.NOT_PUBLISHED),
            (by_another, Reason.WRONG_PATH),
        ):
            paths.put(prefix, told)
            before = hood.counted(reason)
            hood.send(packet)
            assert hood.answers() == []
            assert hood.counted(reason) == before + 1
    finally:
        victim.ns(victim.routes.delete, prefix)
