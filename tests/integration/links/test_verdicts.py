"""The packet programs as data: one packet in, one verdict and one counted reason out (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network

import pytest

from skedge.core import names
from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey, KernelRoute, NextHop
from skedge.core.reasons import Reason
from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf.packet_check import link_mac

from .kit import CIDR, CONTROL_PORT, LOAD_PORT, NETWORK, Site, client, listen
from .packets import ACK, FIN, ICMP6, L4, RST, SYN, frame, icmp, icmp6, ip, sums_right, tcp, udp

PASS, DROP = 0, 2
FAR, FARTHER = "peer", "third"  # the neighbour, and a site beyond it
TCP_EP, UDP_EP, UDP_OTHER_EP = 61100, 61101, 61102
WORKLOAD = 9191  # bound on 127.0.0.1 where a test needs it


@dataclass
class Bench:
    """One site with one link, and what packets on it are made of."""

    site: Site
    index: int
    own_mac: bytes
    peer_mac: bytes
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def own(self) -> dict[int, str]:
        return {4: self.site.overlay4, 6: self.site.overlay6}

    def overlay(self, name: str) -> dict[int, str]:
        address4 = str(names.overlay_address(IPv4Network(CIDR), NETWORK, name))
        return {4: address4, 6: str(names.overlay_address6(NETWORK, name))}

    @property
    def peer_ll(self) -> str:
        return str(names.link_local(NETWORK, FAR))

    def run(self, direction: str, data: bytes, ingress_index: int = 0) -> syscall.TestRun:
        context = bytearray(192)
        struct.pack_into("=II", context, 36, ingress_index, self.index)
        fd = syscall.obj_get(f"{self.site.pin_dir}/link_{direction}_v1")
        with syscall.Fd(fd):
            return self.site.ns(syscall.prog_test_run, fd, data, bytes(context))

    def verdict(self, packet: bytes, ethertype: int | None = None, source_mac: bytes = b"", to: bytes = b""):
        """Return the verdict of a packet that arrives, and the reason that was counted for it."""
        before = self.site.filter.drops()
        sent = frame(to or self.own_mac, source_mac or self.peer_mac, packet, ethertype)
        result = self.run("ingress", sent)
        after = self.site.filter.drops()
        counted = [reason for reason in after if after[reason] != before.get(reason, 0)]
        assert len(counted) <= 1
        return result.retval, counted[0] if counted else None

    def keep(self, made: socket.socket) -> socket.socket:
        self.sockets.append(made)
        return made


@pytest.fixture(scope="module")
def standing(site: Site) -> Iterator[Bench]:
    name = site.device(FAR)
    device = site.vxlan(FAR, "10.91.0.1", "10.91.0.2")
    site.put_base()
    site.ns(site.links.put, name, device)
    site.endpoints.put(EndpointKey(TCP_EP), Endpoint(WorkloadId("solo", "t"), "127.0.0.1", WORKLOAD))
    site.endpoints.put(EndpointKey(UDP_EP, Protocol.UDP), Endpoint(WorkloadId("solo", "u"), "127.0.0.1", WORKLOAD))
    index = site.ns(site.netlink.index, name)
    made = Bench(site, index, link_mac(device, device.link_local), link_mac(device, device.peer_link_local))
    routes = {f"{made.overlay(FAR)[4]}/32": site.overlay4, f"{made.overlay(FAR)[6]}/128": site.overlay6}
    for destination, source in routes.items():
        site.ns(site.routes.put, destination, KernelRoute((NextHop(name, made.peer_ll),), source))
    yield made
    for key in site.endpoints.read():
        site.endpoints.delete(key)
    site.ns(site.links.delete, name)
    for driver in (site.rules, site.addresses):
        for key in site.ns(driver.read):
            site.ns(driver.delete, key)


@pytest.fixture
def bench(standing: Bench) -> Iterator[Bench]:
    yield standing
    while standing.sockets:
        standing.sockets.pop().close()


BOTH = pytest.mark.parametrize("v", [4, 6])


@BOTH
@pytest.mark.parametrize(
    ("what", "l4", "verdict", "reason"),
    [
        ("SYN to a host port", tcp(40000, 22), DROP, Reason.NOT_PUBLISHED),
        ("SYN to an endpoint port that is not published", tcp(40000, TCP_EP + 5), DROP, Reason.NOT_PUBLISHED),
        ("SYN to the control port over the overlay", tcp(40000, CONTROL_PORT), DROP, Reason.NOT_PUBLISHED),
        ("SYN from the control port", tcp(CONTROL_PORT, 22), DROP, Reason.NOT_PUBLISHED),
        ("ACK of no connection", tcp(40000, 22, ACK), DROP, Reason.NO_SOCKET),
        ("RST of no connection", tcp(40000, 22, RST), DROP, Reason.NO_SOCKET),
        ("FIN of no connection", tcp(40000, 22, FIN | ACK), DROP, Reason.NO_SOCKET),
        ("endpoint published, workload closed", tcp(40000, TCP_EP), PASS, Reason.WORKLOAD_CLOSED),
        ("endpoint published, no such connection: the kernel's reset", tcp(40000, TCP_EP, ACK), PASS, None),
        ("an endpoint talks to a client that is gone: the same", tcp(61000, 40000, ACK), PASS, None),
        ("no endpoint, from an endpoint's port", tcp(61000, TCP_EP + 5), DROP, Reason.NOT_PUBLISHED),
        ("UDP to a host port", udp(40000, 53), DROP, Reason.NOT_PUBLISHED),
        ("UDP from an endpoint to a host port", udp(61001, 53), DROP, Reason.NO_SOCKET),
        ("UDP endpoint, workload closed", udp(40000, UDP_EP), PASS, Reason.WORKLOAD_CLOSED),
        ("load report", udp(40000, LOAD_PORT), PASS, None),
        ("TCP to the load port", tcp(40000, LOAD_PORT), DROP, Reason.NOT_PUBLISHED),
        ("GRE", L4(47, bytes(20), None), DROP, Reason.NOT_PUBLISHED),
        ("a TCP header cut short", L4(6, bytes(10), None), DROP, Reason.MALFORMED),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_packets_to_the_own_overlay_address(bench: Bench, v: int, what, l4, verdict, reason) -> None:
    assert bench.verdict(ip(bench.overlay(FARTHER)[v], bench.own[v], l4)) == (verdict, reason), what


@BOTH
def test_transit_passes_whatever_it_carries(bench: Bench, v: int) -> None:
    far, farther = bench.overlay(FAR)[v], bench.overlay(FARTHER)[v]
    for l4 in (tcp(1, 22), udp(1, 53), icmp6(128) if v == 6 else icmp(8), L4(47, bytes(8), None)):
        assert bench.verdict(ip(far, farther, l4)) == (PASS, None)
    assert bench.verdict(ip(far, farther, udp(1, 53), fragment=0x2000 if v == 4 else 1)) == (PASS, None)


@BOTH
def test_only_overlay_addresses_pass(bench: Bench, v: int) -> None:
    outside = {4: "192.0.2.1", 6: "2001:db8::1"}[v]
    loopback = {4: "127.0.0.1", 6: "::1"}[v]
    refused = (DROP, Reason.NOT_OVERLAY)
    assert bench.verdict(ip(outside, bench.own[v], tcp(1, TCP_EP))) == refused
    assert bench.verdict(ip(outside, bench.overlay(FARTHER)[v], tcp(1, 2))) == refused
    assert bench.verdict(ip(bench.overlay(FAR)[v], outside, tcp(1, 2))) == refused
    assert bench.verdict(ip(bench.overlay(FAR)[v], loopback, tcp(1, WORKLOAD))) == refused
    assert bench.verdict(ip(loopback, bench.own[v], tcp(1, TCP_EP))) == refused
    assert bench.verdict(ip(bench.own[v], bench.own[v], tcp(1, TCP_EP))) == refused
    assert bench.verdict(ip(bench.own[v], bench.overlay(FARTHER)[v], tcp(1, 2))) == refused


@BOTH
def test_fragments_for_this_site_are_refused(bench: Bench, v: int) -> None:
    for fragment in (0x2000, 0x0010, 0x2010):
        packet = ip(bench.overlay(FAR)[v], bench.own[v], tcp(1, TCP_EP), fragment=fragment)
        assert bench.verdict(packet) == (DROP, Reason.FRAGMENT)


def test_malformed_packets(bench: Bench) -> None:
    far, own = bench.overlay(FAR), bench.own
    assert bench.verdict(ip(far[4], own[4], tcp(1, TCP_EP), options=b"\x01\x01\x01\0")) == (DROP, Reason.MALFORMED)
    routing = L4(43, bytes(24), None)
    assert bench.verdict(ip(far[6], bench.overlay(FARTHER)[6], routing)) == (DROP, Reason.MALFORMED)
    assert bench.verdict(ip(far[6], own[6], L4(0, bytes(24), None))) == (DROP, Reason.MALFORMED)
    assert bench.verdict(ip(far[4], own[4], tcp(1, 2)), ethertype=0x0806) == (DROP, Reason.NOT_OVERLAY)
    assert bench.verdict(ip(far[4], own[4], tcp(1, 2)), ethertype=0x86DD) == (DROP, Reason.MALFORMED)


@pytest.mark.parametrize(
    ("what", "l4", "verdict", "reason"),
    [
        ("probe", icmp6(128), PASS, None),
        ("answer to a probe", icmp6(129), PASS, None),
        ("packet too big, about nothing", icmp6(2), DROP, Reason.MALFORMED),
        ("dial of the control port", tcp(40000, CONTROL_PORT), PASS, None),
        ("answer from the control port", tcp(CONTROL_PORT, 40000, SYN | ACK), PASS, None),
        ("SYN from the control port", tcp(CONTROL_PORT, 22), DROP, Reason.NOT_NEIGHBOUR),
        ("SYN to a host port", tcp(40000, 22), DROP, Reason.NOT_NEIGHBOUR),
        ("SYN to an endpoint", tcp(40000, TCP_EP), DROP, Reason.NOT_NEIGHBOUR),
        ("UDP", udp(40000, LOAD_PORT), DROP, Reason.NOT_NEIGHBOUR),
        ("router advertisement", icmp6(134), DROP, Reason.NOT_NEIGHBOUR),
        ("redirect", icmp6(137), DROP, Reason.NOT_NEIGHBOUR),
        ("router solicitation", icmp6(133), DROP, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_link_local_packets_of_the_neighbour(bench: Bench, what, l4, verdict, reason) -> None:
    assert bench.verdict(ip(bench.peer_ll, bench.site.link_local, l4)) == (verdict, reason), what


def test_link_local_packets_of_others(bench: Bench) -> None:
    own, stranger = bench.site.link_local, "fe80::bad"
    refused = (DROP, Reason.NOT_NEIGHBOUR)
    for l4 in (icmp6(128), icmp6(135), tcp(40000, CONTROL_PORT)):
        assert bench.verdict(ip(stranger, own, l4, hops=255)) == refused
    assert bench.verdict(ip(bench.overlay(FAR)[6], own, tcp(1, CONTROL_PORT))) == refused
    assert bench.verdict(ip(bench.peer_ll, bench.own[6], tcp(1, TCP_EP))) == refused
    assert bench.verdict(ip(bench.peer_ll, "fe80::bad", icmp6(128))) == refused
    assert bench.verdict(ip(bench.peer_ll, "ff02::1", icmp6(128))) == refused


def test_neighbour_discovery_has_the_full_hop_limit(bench: Bench) -> None:
    group = "ff02::1:ff00:1"
    assert bench.verdict(ip(bench.peer_ll, group, icmp6(135), hops=255)) == (PASS, None)
    assert bench.verdict(ip(bench.peer_ll, group, icmp6(135), hops=254)) == (DROP, Reason.NOT_NEIGHBOUR)
    report = ip(bench.peer_ll, "ff02::16", L4(0, struct.pack(">BBHI", ICMP6, 0, 0x0502, 0) + bytes(8), None), hops=1)
    assert bench.verdict(report) == (DROP, None)


def test_frames_of_another_sender(bench: Bench) -> None:
    packet = ip(bench.overlay(FAR)[4], bench.own[4], tcp(1, TCP_EP))
    stranger = bytes.fromhex("020000000099")
    assert bench.verdict(packet, source_mac=stranger) == (DROP, Reason.WRONG_TUNNEL_PEER)
    assert bench.verdict(packet, source_mac=stranger, to=b"\xff" * 6) == (DROP, None)


@BOTH
def test_a_stranger_on_an_endpoint_port_gets_nothing(bench: Bench, v: int) -> None:
    bench.keep(bench.site.ns(listen, "::", TCP_EP))
    assert bench.verdict(ip(bench.overlay(FAR)[v], bench.own[v], tcp(1, TCP_EP))) == (DROP, Reason.NOT_PUBLISHED)


@BOTH
def test_sockets_of_ours_get_their_packets(bench: Bench, v: int) -> None:
    far, own = bench.overlay(FAR)[v], bench.own[v]
    connecting = bench.keep(bench.site.ns(client, own))
    connecting.bind((own, 0))
    connecting.setblocking(False)
    connecting.connect_ex((far, 61000))
    port = connecting.getsockname()[1]
    assert bench.verdict(ip(far, own, tcp(61000, port, SYN | ACK))) == (PASS, None)
    assert bench.verdict(ip(far, own, tcp(61001, port, SYN | ACK))) == (PASS, None), "the kernel resets it"
    assert bench.verdict(ip(far, own, tcp(1024, port, SYN | ACK))) == (DROP, Reason.NO_SOCKET)


@BOTH
def test_udp_answers_reach_only_who_asked(bench: Bench, v: int) -> None:
    far, farther, own = bench.overlay(FAR)[v], bench.overlay(FARTHER)[v], bench.own[v]
    connected = bench.keep(bench.site.ns(client, own, socket.SOCK_DGRAM))
    connected.bind((own, 0))
    connected.connect((far, 61000))
    port = connected.getsockname()[1]
    assert bench.verdict(ip(far, own, udp(61000, port))) == (PASS, None)
    assert bench.verdict(ip(farther, own, udp(61000, port))) == (DROP, Reason.NO_SOCKET)
    assert bench.verdict(ip(far, own, udp(1024, port))) == (DROP, Reason.NOT_PUBLISHED)


@BOTH
def test_an_unconnected_udp_socket_gets_answers_once_it_has_sent(bench: Bench, v: int) -> None:
    far, own = bench.overlay(FAR)[v], bench.own[v]
    asking = bench.keep(bench.site.ns(client, own, socket.SOCK_DGRAM))
    asking.bind(("::" if v == 6 else "0.0.0.0", 0))
    port = asking.getsockname()[1]
    assert bench.verdict(ip(far, own, udp(61000, port))) == (DROP, Reason.NO_SOCKET)
    asking.sendto(b"?", (far, 1000))
    assert bench.verdict(ip(far, own, udp(61000, port))) == (DROP, Reason.NO_SOCKET)
    asking.sendto(b"?", (far, 61000))
    assert bench.verdict(ip(far, own, udp(61000, port))) == (PASS, None)
    assert bench.verdict(ip(far, own, udp(1024, port))) == (DROP, Reason.NOT_PUBLISHED)


@BOTH
def test_icmp_errors_pass_only_about_sockets_of_ours(bench: Bench, v: int) -> None:
    far, farther, own = bench.overlay(FAR)[v], bench.overlay(FARTHER)[v], bench.own[v]
    connecting = bench.keep(bench.site.ns(client, own))
    connecting.bind((own, 0))
    connecting.setblocking(False)
    connecting.connect_ex((far, 61000))
    port = connecting.getsockname()[1]

    def error(quoted: bytes, kind: int = 2 if v == 6 else 3) -> bytes:
        made = icmp6(kind, 0, quoted) if v == 6 else icmp(kind, 4, quoted)
        return ip(farther, own, made)

    mine = ip(own, far, tcp(port, 61000, ACK, b"x" * 20))
    assert bench.verdict(error(mine)) == (PASS, None)
    assert bench.verdict(error(mine[: 28 if v == 4 else 48])) == (PASS, None), "the least that a router quotes"
    assert bench.verdict(error(ip(own, far, tcp(port + 1, 61000, ACK)))) == (DROP, Reason.NO_SOCKET)
    assert bench.verdict(error(ip(farther, far, tcp(port, 61000, ACK)))) == (DROP, Reason.NO_SOCKET)
    assert bench.verdict(error(mine, kind=128 if v == 6 else 8)) == (DROP, Reason.NOT_PUBLISHED), "echo is no error"
    assert bench.verdict(error(mine[:10])) == (DROP, Reason.MALFORMED)


@BOTH
def test_only_the_site_itself_says_that_there_is_no_way_to_it(bench: Bench, v: int) -> None:
    """A site on the way may have none for a moment, while paths change; a connect would end by that."""
    far, farther, own = bench.overlay(FAR)[v], bench.overlay(FARTHER)[v], bench.own[v]
    connecting = bench.keep(bench.site.ns(client, own))
    connecting.bind((own, 0))
    connecting.setblocking(False)
    connecting.connect_ex((far, 61000))
    mine = ip(own, far, tcp(connecting.getsockname()[1], 61000, SYN))

    def verdict(sender: str, kind: int, code: int) -> tuple[int, Reason | None]:
        return bench.verdict(ip(sender, own, icmp6(kind, code, mine) if v == 6 else icmp(kind, code, mine)))

    for kind, code in ((1, 0), (1, 3), (3, 0)) if v == 6 else ((3, 0), (3, 1), (11, 0)):
        assert verdict(farther, kind, code) == (DROP, Reason.TRANSIT_ERROR)
        assert verdict(far, kind, code) == (PASS, None)
    for kind, code in ((1, 1), (1, 4), (2, 0)) if v == 6 else ((3, 3), (3, 4), (3, 13)):
        assert verdict(farther, kind, code) == (PASS, None), "refused, or too big"


def test_before_the_link_is_known_nothing_comes_in(bench: Bench) -> None:
    packet = ip(bench.overlay(FAR)[4], bench.overlay(FARTHER)[4], tcp(1, 2))
    assert bench.verdict(packet) == (PASS, None)
    bench.site.filter.forget(bench.index)
    try:
        assert bench.verdict(packet) == (DROP, Reason.NOT_NEIGHBOUR)
    finally:
        device = bench.site.vxlan(FAR, "10.91.0.1", "10.91.0.2")
        bench.site.ns(bench.site.filter.protect, bench.index, device)


@BOTH
def test_answers_of_udp_workloads_leave_with_their_endpoint(bench: Bench, v: int) -> None:
    far, own = bench.overlay(FAR)[v], bench.own[v]
    size = {4: 20, 6: 40}[v]
    for source in (own, "127.0.0.1" if v == 4 else "::1"):
        sent = frame(bench.peer_mac, bench.own_mac, ip(source, far, udp(WORKLOAD, 40000, b"answer")))
        result = bench.run("egress", sent)
        packet = result.data[14:]
        assert result.retval == PASS
        assert packet == ip(own, far, udp(UDP_EP, 40000, b"answer"))
        assert sums_right(packet[: size + 8 + 6])


@BOTH
def test_what_leaves_untouched_and_what_never_leaves(bench: Bench, v: int) -> None:
    far, own, loopback = bench.overlay(FAR)[v], bench.own[v], {4: "127.0.0.1", 6: "::1"}[v]
    for l4 in (tcp(40000, 61000), tcp(TCP_EP, 40000, ACK), udp(40000, 61000)):
        sent = frame(bench.peer_mac, bench.own_mac, ip(own, far, l4))
        assert bench.run("egress", sent).data == sent
    sent = frame(bench.peer_mac, bench.own_mac, ip(loopback, far, udp(40000, 61000)))
    assert bench.run("egress", sent).retval == DROP
    transit = frame(bench.peer_mac, bench.own_mac, ip(bench.overlay(FARTHER)[v], far, udp(WORKLOAD, 40000)))
    assert bench.run("egress", transit).data == transit
