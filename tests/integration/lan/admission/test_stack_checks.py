"""The checks of the host's stack that the LAN programs by-pass, and make themselves: martians, reverse path, VLANs."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.lan.layout_flow import FlowBits
from tests.integration.links.packets import ACK, L4, SYN, checksum, frame, icmp, icmp6, ip, tcp, udp

from ..kit import (
    CLIENT,
    CLIENT_MAC,
    FAR_PORT,
    HOST,
    LISTEN,
    MACHINE,
    PORTS,
    REDIRECT,
    SHOT,
    UNSPEC,
    Bench,
    counted,
    far_overlay,
    segment,
    serve,
)
from ..wire import Wire

BOTH = pytest.mark.parametrize("v", [4, 6])
KINDS = pytest.mark.parametrize("kind", [Protocol.TCP, Protocol.UDP], ids=["tcp", "udp"])
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
SOURCES = {
    4: ("127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "224.0.0.9", "239.1.2.3", "255.255.255.255"),
    6: ("::1", "::", "ff02::1", "ff0e::9"),
}
TARGETS = {
    4: ("127.0.0.1", "127.0.1.1", "0.0.0.0", "0.1.2.3", "224.0.0.9", "255.255.255.255"),
    6: ("::1", "::", "ff02::9"),
}
ANY_DEVICE, LAN_DEVICE = "net.ipv4.conf.all.rp_filter", "net.ipv4.conf.lan0.rp_filter"


@contextlib.contextmanager
def rp_filter(bench: Bench, every: int, own: int) -> Iterator[None]:
    """The reverse path filter of all devices and of the LAN device."""
    before = {key: bench.site.ns.sh(f"sysctl -n {key}").strip() for key in (ANY_DEVICE, LAN_DEVICE)}
    for key, value in ((ANY_DEVICE, every), (LAN_DEVICE, own)):
        bench.site.ns.sh(f"sysctl -qw {key}={value}")
    try:
        yield
    finally:
        for key, value in before.items():
            bench.site.ns.sh(f"sysctl -qw {key}={value}")


# ---- martians --------------------------------------------------------------------------------------------------------


@BOTH
@KINDS
def test_no_listener_is_reached_under_an_address_that_only_the_host_itself_uses(
    bench: Bench, v: int, kind: Protocol
) -> None:
    serve(bench, v, kind, *TARGETS[v])
    for number, to in enumerate(TARGETS[v]):
        before = counted(bench, Reason.MARTIAN)
        assert bench.lan(ip(CLIENT[v], to, segment(kind, 40000 + number)))[0] == SHOT, to
        assert counted(bench, Reason.MARTIAN) == before + 1, to
    assert bench.site.open() == 0


@BOTH
@KINDS
def test_no_listener_takes_packets_from_an_address_that_nobody_has(bench: Bench, v: int, kind: Protocol) -> None:
    serve(bench, v, kind)
    bench.site.ns.ip(f"-{v}", "route", "add", "default", "via", CLIENT[v], "dev", "lan0")
    try:
        for number, source in enumerate(SOURCES[v]):
            before = counted(bench, Reason.MARTIAN)
            assert bench.lan(ip(source, HOST[v], segment(kind, 40000 + number)))[0] == SHOT, source
            assert counted(bench, Reason.MARTIAN) == before + 1, source
        for source in {4: (HOST[4], "10.55.0.255", "10.91.0.1"), 6: (HOST[6],)}[v]:
            assert bench.lan(ip(source, HOST[v], segment(kind, 41000)))[0] == SHOT, source
        assert bench.site.open() == 0
        plain = {4: "240.0.0.9", 6: "2001:db8::9"}[v]  # the stack takes these for plain addresses
        assert bench.lan(ip(plain, HOST[v], segment(kind)))[0] == REDIRECT
    finally:
        bench.site.ns.ip(f"-{v}", "route", "del", "default", "dev", "lan0")


@BOTH
def test_martians_that_are_for_no_listener_are_the_stacks(bench: Bench, v: int) -> None:
    serve(bench, v, Protocol.TCP)
    before = counted(bench, Reason.MARTIAN)
    for source, to in ((CLIENT[v], LOOPBACK[v]), (LOOPBACK[v], MACHINE[v]), (SOURCES[v][-1], MACHINE[v])):
        packet = ip(source, to, tcp(40000, LISTEN))
        assert bench.lan(packet) == (UNSPEC, packet)
    assert counted(bench, Reason.MARTIAN) == before


@BOTH
def test_martians_to_a_port_of_flows_are_counted(bench: Bench, v: int) -> None:
    before = counted(bench, Reason.MARTIAN)
    assert bench.lan(ip(LOOPBACK[v], HOST[v], tcp(40000, PORTS[0], ACK)))[0] == SHOT
    assert bench.lan(ip(CLIENT[v], LOOPBACK[v], udp(40000, PORTS[0])))[0] == SHOT
    assert counted(bench, Reason.MARTIAN) == before + 2


@KINDS
def test_addresses_of_ipv4_in_an_ipv6_header_reach_no_listener_and_no_flow(bench: Bench, kind: Protocol) -> None:
    serve(bench, 4, kind)
    verdict, out = bench.lan(ip(CLIENT[4], HOST[4], segment(kind)))
    assert verdict == REDIRECT
    port = struct.unpack_from(">H", out, 20)[0]
    before = counted(bench, Reason.MARTIAN)
    mapped = {one: f"::ffff:{one}" for one in (CLIENT[4], HOST[4], MACHINE[4], far_overlay()[4])}
    for source in (CLIENT[4], MACHINE[4]):
        assert bench.lan(ip(mapped[source], mapped[HOST[4]], segment(kind)))[0] == SHOT
    assert counted(bench, Reason.MARTIAN) == before + 2
    elsewhere = ip(mapped[CLIENT[4]], mapped[MACHINE[4]], segment(kind))
    assert bench.lan(elsewhere) == (UNSPEC, elsewhere)
    answer = tcp(FAR_PORT, port, SYN | ACK) if kind is Protocol.TCP else udp(FAR_PORT, port)
    own = f"::ffff:{bench.site.overlay4}"
    assert bench.link(ip(mapped[far_overlay()[4]], own, answer))[0] == SHOT
    assert counted(bench, Reason.MARTIAN) == before + 3
    (record,) = bench.site.flows.records()
    assert not record.reply.state & FlowBits.ACK, "the answer was none"


def test_nor_do_they_in_pieces_over_lo_or_in_what_errors_quote(bench: Bench) -> None:
    serve(bench, 4, Protocol.UDP)
    verdict, out = bench.lan(ip(CLIENT[4], HOST[4], udp(40000, LISTEN)))
    assert verdict == REDIRECT
    port = struct.unpack_from(">H", out, 20)[0]
    client, host, far, own = (f"::ffff:{one}" for one in (CLIENT[4], HOST[4], far_overlay()[4], bench.site.overlay4))
    six = far_overlay()[6]
    before = counted(bench, Reason.MARTIAN)
    assert bench.lan(ip(client, host, udp(40000, LISTEN), fragment=1))[0] == SHOT
    assert bench.link(ip(far, own, udp(FAR_PORT, port), fragment=1))[0] == SHOT
    assert bench.link(ip(far, own, L4(17, b"the rest", None), fragment=24))[0] == SHOT
    assert bench.link(ip(six, own, udp(FAR_PORT, port)))[0] == SHOT
    assert counted(bench, Reason.MARTIAN) == before + 4
    left_to_the_stack = [
        ip(client, host, L4(17, b"the rest", None), fragment=24),
        ip(CLIENT[6], HOST[6], icmp6(3, 0, ip(host, client, udp(LISTEN, 40000)))),
        ip(CLIENT[6], host, icmp6(3, 0, ip(host, client, udp(LISTEN, 40000)))),
    ]
    for packet in left_to_the_stack:
        assert bench.lan(packet) == (UNSPEC, packet)
    over_lo = frame(bytes(6), bytes(6), ip(client, host, udp(40000, LISTEN)))
    result = bench.run("lan_loop_v1", 1, over_lo)
    assert (result.retval, result.data) == (UNSPEC, over_lo)
    for to in (bench.site.overlay6, own):
        assert bench.link(ip(six, to, icmp6(3, 0, ip(own, far, udp(port, FAR_PORT)))))[0] == SHOT
    (record,) = bench.site.flows.records()
    assert not record.reply.state & FlowBits.ACK, "nothing of these was of the flow"


def test_no_lan_client_of_another_site_in_an_ipv6_header(bench: Bench) -> None:
    """The prefixes of LANs are looked up in the same form."""
    site = bench.site
    site.prefixes.put("10.77.0.0/24", 1)
    key = EndpointKey(61200)
    site.endpoints.put(key, Endpoint(WorkloadId("edge", "m"), MACHINE[6], 9000, off_host=True))
    try:
        before = counted(bench, Reason.MARTIAN)
        assert bench.link(ip("::ffff:10.77.0.5", site.overlay6, tcp(40000, 61200)))[0] == SHOT
        assert counted(bench, Reason.MARTIAN) == before + 1
    finally:
        site.endpoints.delete(key)
        site.prefixes.delete("10.77.0.0/24")


@BOTH
def test_errors_from_martians_are_about_no_flow(bench: Bench, v: int) -> None:
    serve(bench, v, Protocol.TCP)
    verdict, out = bench.lan(ip(CLIENT[v], HOST[v], tcp(40000, LISTEN)))
    assert verdict == REDIRECT
    verdict, answer = bench.link(
        ip(far_overlay()[v], bench.site.overlay(v), tcp(FAR_PORT, int.from_bytes(out[{4: 20, 6: 40}[v] :][:2]), ACK))
    )
    assert verdict == REDIRECT
    kind = icmp(3, 1, answer[:28]) if v == 4 else icmp6(1, 0, answer[:48])
    for source, expected in ((MACHINE[v], REDIRECT), (LOOPBACK[v], UNSPEC), (SOURCES[v][-1], UNSPEC)):
        assert bench.lan(ip(source, HOST[v], kind))[0] == expected, source


# ---- reverse path ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "own"), [(1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("preserves_src", [False, True])
@KINDS
def test_strict(bench: Bench, every: int, own: int, preserves_src: bool, kind: Protocol) -> None:
    """A client whose answers would leave by another device than its packets came by has no flow."""
    serve(bench, 4, kind, preserves_src=preserves_src)
    bench.site.ns.ip("route", "add", "10.66.0.0/24", "via", "10.91.0.2", "dev", "under0")
    bench.site.own_prefixes.put("10.0.0.0/8")
    try:
        with rp_filter(bench, every, own):
            before = counted(bench, Reason.REVERSE_PATH)
            packet = ip("10.66.0.9", HOST[4], segment(kind))
            assert bench.lan(packet) == (UNSPEC, packet), "the stack has the same filter"
            assert counted(bench, Reason.REVERSE_PATH) == before + 1
            assert bench.site.open() == 0
            assert bench.lan(ip(CLIENT[4], HOST[4], segment(kind)))[0] == REDIRECT
    finally:
        bench.site.own_prefixes.delete("10.0.0.0/8")
        bench.site.ns.ip("route", "del", "10.66.0.0/24")


@pytest.mark.parametrize(("every", "own"), [(0, 0), (2, 0), (0, 2), (1, 2), (2, 1)])
def test_asymmetric_routes_where_the_filter_is_loose_or_off(bench: Bench, every: int, own: int) -> None:
    serve(bench, 4, Protocol.TCP)
    bench.site.ns.ip("route", "add", "10.66.0.0/24", "via", "10.91.0.2", "dev", "under0")
    try:
        with rp_filter(bench, every, own):
            assert bench.lan(ip("10.66.0.9", HOST[4], tcp(40000, LISTEN)))[0] == REDIRECT
            assert bench.lan(ip("10.67.0.9", HOST[4], tcp(40001, LISTEN)))[0] == SHOT, "no route at all"
    finally:
        bench.site.ns.ip("route", "del", "10.66.0.0/24")


def test_strict_with_several_next_hops(bench: Bench) -> None:
    """Any of the next hops will do, as for the stack."""
    ns = bench.site.ns
    serve(bench, 4, Protocol.TCP)
    policy = ns.sh("sysctl -n net.ipv4.fib_multipath_hash_policy").strip()
    ns.sh("sysctl -qw net.ipv4.fib_multipath_hash_policy=1")  # as the role sets it
    ns.ip("route", "add", "10.66.0.0/24", "nexthop", "via", "10.91.0.2", "dev", "under0",
          "nexthop", "via", CLIENT[4], "dev", "lan0")  # fmt: skip
    try:
        with rp_filter(bench, 0, 1):
            served = [bench.lan(ip(f"10.66.0.{n}", HOST[4], tcp(40000, LISTEN)))[0] for n in range(1, 25)]
            assert served.count(UNSPEC) <= 2, "one of 256 is missed, and sends its SYN again"
            assert served.count(REDIRECT) >= 22
    finally:
        ns.ip("route", "del", "10.66.0.0/24")
        ns.sh(f"sysctl -qw net.ipv4.fib_multipath_hash_policy={policy}")


def test_a_connection_that_is_open_is_not_asked_again(bench: Bench) -> None:
    serve(bench, 4, Protocol.TCP)
    with rp_filter(bench, 0, 1):
        assert bench.lan(ip(CLIENT[4], HOST[4], tcp(40000, LISTEN)))[0] == REDIRECT
        bench.site.ns.ip("route", "add", f"{CLIENT[4]}/32", "via", "10.91.0.2", "dev", "under0")
        try:
            assert bench.lan(ip(CLIENT[4], HOST[4], tcp(40000, LISTEN, ACK)))[0] == REDIRECT
            assert bench.lan(ip(CLIENT[4], HOST[4], tcp(40001, LISTEN)))[0] == UNSPEC
        finally:
            bench.site.ns.ip("route", "del", f"{CLIENT[4]}/32")


@BOTH
@pytest.mark.parametrize("strict", [0, 1])
def test_who_is_taken_is_whom_the_stack_takes(bench: Bench, wire: Wire, v: int, strict: int) -> None:
    """The same packets to a listener of ours and to a plain socket: both answer, or none does. The stack alone answers
    `::`, and 0.0.0.0/8 (but 0.0.0.0), which it has taken since Linux 5.3."""
    ns = bench.site.ns
    serve(bench, v, Protocol.TCP)
    sources = {
        4: (*SOURCES[4], HOST[4], "10.55.0.255", "10.91.0.1", "10.66.0.9", "240.0.0.9", "169.254.3.4", CLIENT[4]),
        6: (*SOURCES[6], HOST[6], "2001:db8::9", "fd66::9", CLIENT[6]),
    }[v]
    elsewhere = {4: "10.66.0.0/24", 6: "fd66::/64"}[v]
    ns.ip(f"-{v}", "route", "add", "default", "via", CLIENT[v], "dev", "lan0")
    ns.ip(f"-{v}", "route", "add", elsewhere, "dev", "under0")
    server = ns(socket.create_server, (HOST[v], 0), family=socket.AF_INET6 if v == 6 else socket.AF_INET)
    port = server.getsockname()[1]
    try:
        with rp_filter(bench, 0, strict):
            for number, source in enumerate(sources):
                for to in (port, LISTEN):
                    wire.send(frame(bench.lan_mac, CLIENT_MAC, ip(source, HOST[v], tcp(40000 + number, to))))
            half_open = ns.sh(f"ss -Htn{v} state syn-recv sport = :{port}").splitlines()
        by_stack = {int(line.rsplit(":", 1)[1]) for line in half_open}
        by_us = {one.key.source_port for one in bench.site.flows.records()}
        assert by_us == by_stack - {40000 + sources.index(one) for one in ("0.1.2.3", "::") if one in sources}
        assert 40000 + len(sources) - 1 in by_us
        assert len(by_us) == {4: 4 - strict, 6: 3}[v]
    finally:
        server.close()
        ns.ip(f"-{v}", "route", "del", elsewhere)
        ns.ip(f"-{v}", "route", "del", "default", "dev", "lan0")


@BOTH
def test_routes_by_the_type_of_service_are_for_flows_too(bench: Bench, v: int) -> None:
    """A rule of the host for some class of packets: here the table that it leads to goes nowhere."""
    ns = bench.site.ns
    serve(bench, v, Protocol.TCP)

    def with_class(packet: bytes) -> bytes:
        if v == 6:
            return bytes([packet[0] | 1]) + packet[1:]  # 0x10
        fields = packet[:1] + b"\x10" + packet[2:10] + b"\0\0" + packet[12:20]
        return fields[:10] + checksum(fields).to_bytes(2) + packet[12:]

    verdict, out = bench.lan(ip(CLIENT[v], HOST[v], tcp(40000, LISTEN)))
    assert verdict == REDIRECT
    answer = ip(
        far_overlay()[v], bench.site.overlay(v), tcp(FAR_PORT, int.from_bytes(out[{4: 20, 6: 40}[v] :][:2]), ACK)
    )
    ns.ip(f"-{v}", "route", "add", "prohibit", "default", "table", "100")
    ns.ip(f"-{v}", "rule", "add", "tos", "0x10", "lookup", "100", "priority", "90")
    try:
        assert bench.link(answer)[0] == REDIRECT
        before = counted(bench, Reason.NO_ROUTE)
        assert bench.link(with_class(answer))[0] == SHOT
        assert bench.lan(with_class(ip(CLIENT[v], HOST[v], tcp(40001, LISTEN))))[0] == SHOT
        assert counted(bench, Reason.NO_ROUTE) == before + 2
    finally:
        ns.ip(f"-{v}", "rule", "del", "priority", "90")
        ns.ip(f"-{v}", "route", "del", "prohibit", "default", "table", "100")
