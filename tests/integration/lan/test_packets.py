"""The LAN programs as data: a packet in, a packet and a verdict out (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.lan.layout_flow import FlowKey, Kind, NatConfig
from skedge.dataplane.ebpf.prefix_table import PathDriver
from tests.integration.links.packets import (
    ACK,
    FIN,
    ICMP,
    ICMP6,
    L4,
    RST,
    SYN,
    checksum,
    icmp,
    ip,
    sums_right,
    tcp,
    udp,
)
from tests.kit.rows import configure_nat

from .kit import (
    CLIENT,
    HOST,
    LISTEN,
    MACHINE,
    MACHINE_MAC,
    OK,
    PORTS,
    REDIRECT,
    SHOT,
    UNSPEC,
    Bench,
    far_overlay,
    remote,
)

BOTH = pytest.mark.parametrize("v", [4, 6])
KINDS = pytest.mark.parametrize("kind", [Protocol.TCP, Protocol.UDP], ids=["tcp", "udp"])
FAR_PORT, WORKLOAD_PORT = 61005, 9000


def l4(protocol: Protocol, sport: int, dport: int, flags: int = SYN, payload: bytes = b""):
    return tcp(sport, dport, flags, payload) if protocol is Protocol.TCP else udp(sport, dport, payload or b"hi")


def address(packet: bytes, v: int) -> tuple[bytes, bytes]:
    return (packet[12:16], packet[16:20]) if v == 4 else (packet[8:24], packet[24:40])


def ports(packet: bytes, v: int) -> tuple[int, int]:
    at = 20 if v == 4 else 40
    return int.from_bytes(packet[at : at + 2]), int.from_bytes(packet[at + 2 : at + 4])


@BOTH
@KINDS
def test_to_another_site_and_back(bench: Bench, v: int, kind: Protocol) -> None:
    site, far = bench.site, far_overlay()
    site.service([remote("far", 1, (far[v], FAR_PORT))], (HOST[v], LISTEN), protocol=kind)
    verdict, out = bench.lan(ip(CLIENT[v], HOST[v], l4(kind, 40000, LISTEN)))
    assert verdict == REDIRECT
    port = ports(out, v)[0]
    assert PORTS[0] <= port <= PORTS[1]
    assert out == ip(site.overlay(v), far[v], l4(kind, port, FAR_PORT), hops=63)
    assert sums_right(out)
    assert site.open("far") == 1
    again = bench.lan(ip(CLIENT[v], HOST[v], l4(kind, 40000, LISTEN)))
    assert again == (verdict, out)
    assert site.open("far") == 1
    verdict, back = bench.link(ip(far[v], site.overlay(v), l4(kind, FAR_PORT, port, SYN | ACK, b"answer")))
    assert verdict == REDIRECT
    assert back == ip(HOST[v], CLIENT[v], l4(kind, LISTEN, 40000, SYN | ACK, b"answer"), hops=63)
    assert sums_right(back)


@BOTH
@KINDS
def test_to_a_machine_of_the_lan_and_back(bench: Bench, v: int, kind: Protocol) -> None:
    site = bench.site
    site.service(
        [remote("here", 0, (MACHINE[v], WORKLOAD_PORT), own_site=True, off_host=True)], (HOST[v], LISTEN), protocol=kind
    )
    verdict, out = bench.lan(ip(CLIENT[v], HOST[v], l4(kind, 40000, LISTEN, payload=b"odd")))
    port = ports(out, v)[0]
    assert verdict == REDIRECT
    assert out == ip(HOST[v], MACHINE[v], l4(kind, port, WORKLOAD_PORT, payload=b"odd"), hops=63)
    verdict, back = bench.lan(ip(MACHINE[v], HOST[v], l4(kind, WORKLOAD_PORT, port, SYN | ACK)), source=MACHINE_MAC)
    assert verdict == REDIRECT
    assert back == ip(HOST[v], CLIENT[v], l4(kind, LISTEN, 40000, SYN | ACK), hops=63)


@BOTH
def test_what_is_not_ours_passes_untouched(bench: Bench, v: int) -> None:
    bench.site.service([remote("far", 1, (far_overlay()[v], FAR_PORT))], (HOST[v], LISTEN))
    for one in (tcp(40000, 22), tcp(40000, LISTEN, ACK), tcp(40000, LISTEN, RST), tcp(40000, LISTEN, FIN | ACK),
                tcp(40000, PORTS[0]), udp(40000, LISTEN), udp(40000, PORTS[1]), icmp(8)):  # fmt: skip
        packet = ip(CLIENT[v], HOST[v], one)
        assert bench.lan(packet) == (UNSPEC, packet)
    other = ip(CLIENT[v], MACHINE[v], tcp(40000, LISTEN))
    assert bench.lan(other) == (UNSPEC, other)
    to_another_mac = ip(CLIENT[v], HOST[v], tcp(40000, LISTEN))
    assert bench.lan(to_another_mac, to=b"\x02" + bytes(5)) == (UNSPEC, to_another_mac)
    assert bench.site.open() == 0


@BOTH
def test_the_overlay_is_out_of_reach_of_the_lan(bench: Bench, v: int) -> None:
    far, site = far_overlay()[v], bench.site
    sites = PathDriver(site.pin_dir, site.prefixes)
    sites.put(far, 0)
    before = site.drops()
    try:
        for source, to in ((CLIENT[v], far), (CLIENT[v], site.overlay(v)), (far, HOST[v]), (site.overlay(v), HOST[v])):
            assert bench.lan(ip(source, to, tcp(40000, LISTEN)))[0] == SHOT
    finally:
        sites.delete(far)
    after = site.drops()
    grown = {reason: after[reason] - before.get(reason, 0) for reason in (Reason.NOT_OVERLAY, Reason.CLAIMED)}
    assert grown == {Reason.NOT_OVERLAY: 2, Reason.CLAIMED: 2}


def test_what_is_no_sites_address_is_the_hosts_business(bench: Bench) -> None:
    """A resolver, a gateway, a router of the provider in the overlay's range."""
    router, quoted = "100.64.7.1", ip(HOST[4], "198.51.100.9", tcp(40000, 443, ACK))
    for packet in (
        ip("100.100.2.136", HOST[4], udp(53, 40000)),
        ip(router, HOST[4], icmp(3, 4, quoted)),
        ip(router, HOST[4], icmp(0)),
        ip(CLIENT[4], router, icmp(8)),
    ):
        assert bench.lan(packet)[0] == UNSPEC


@BOTH
def test_an_endpoint_of_ours_that_is_a_machine_of_the_lan(bench: Bench, v: int) -> None:
    site, far = bench.site, far_overlay()[v]
    key = EndpointKey(61200)
    site.endpoints.put(key, Endpoint(WorkloadId("edge", "m"), MACHINE[v], WORKLOAD_PORT, off_host=True))
    try:
        assert site.endpoints.read()[key].off_host
        verdict, out = bench.link(ip(far, site.overlay(v), tcp(41000, 61200)))
        port = ports(out, v)[0]
        assert (verdict, out) == (REDIRECT, ip(HOST[v], MACHINE[v], tcp(port, WORKLOAD_PORT), hops=63))
        verdict, back = bench.lan(ip(MACHINE[v], HOST[v], tcp(WORKLOAD_PORT, port, SYN | ACK)), source=MACHINE_MAC)
        assert (verdict, back) == (REDIRECT, ip(site.overlay(v), far, tcp(61200, 41000, SYN | ACK), hops=63))
        assert bench.link(ip(far, site.overlay(v), tcp(41000, 61200, ACK)))[1] == ip(
            HOST[v], MACHINE[v], tcp(port, WORKLOAD_PORT, ACK), hops=63
        )
        before = site.drops().get(Reason.NO_SOCKET, 0)
        told = bench.link(ip(far, site.overlay(v), tcp(41001, 61200, ACK)))[0]
        assert told == OK, "the stack tells a client whose flow is lost, as where a socket is gone"
        assert bench.link(ip(far, site.overlay(v), tcp(41001, 61200, RST | ACK)))[0] == SHOT
        assert bench.link(ip(far, site.overlay(v), tcp(41001, PORTS[0] + 1, ACK)))[0] == SHOT
        assert site.drops()[Reason.NO_SOCKET] == before + 3
        assert site.open() == 0
    finally:
        site.endpoints.delete(key)


class Flow:
    """One TCP connection of the client to the workload of another site, as its packets are seen."""

    def __init__(self, bench: Bench, v: int, client_port: int = 40000) -> None:
        self.bench, self.v, self.client_port = bench, v, client_port
        self.far = far_overlay()[v]
        verdict, out = self.client(SYN)
        assert verdict == REDIRECT
        self.port = ports(out, v)[0]

    def client(self, flags: int, payload: bytes = b""):
        return self.bench.lan(ip(CLIENT[self.v], HOST[self.v], tcp(self.client_port, LISTEN, flags, payload)))

    def workload(self, flags: int, payload: bytes = b""):
        own = self.bench.site.overlay(self.v)
        return self.bench.link(ip(self.far, own, tcp(FAR_PORT, self.port, flags, payload)))


def one_far(bench: Bench, v: int) -> None:
    bench.site.service([remote("far", 1, (far_overlay()[v], FAR_PORT))], (HOST[v], LISTEN))


@BOTH
def test_the_count_ends_with_the_second_fin(bench: Bench, v: int) -> None:
    one_far(bench, v)
    flow = Flow(bench, v)
    for side, flags, still_open in (
        (flow.workload, SYN | ACK, 1), (flow.client, ACK, 1), (flow.client, FIN | ACK, 1), (flow.workload, ACK, 1),
        (flow.workload, FIN | ACK, 0), (flow.client, ACK, 0), (flow.workload, FIN | ACK, 0), (flow.client, RST, 0),
    ):  # fmt: skip
        assert side(flags)[0] == REDIRECT
        assert bench.site.open() == still_open
    assert bench.site.engine.suspended() == frozenset()
    assert bench.site.engine.reconcile_counts() == 0


@BOTH
def test_the_count_ends_with_a_reset_of_either_side(bench: Bench, v: int) -> None:
    one_far(bench, v)
    for number, side in enumerate(("client", "workload")):
        flow = Flow(bench, v, 40000 + number)
        flow.workload(SYN | ACK)
        flow.client(ACK)
        assert bench.site.open() == 1
        getattr(flow, side)(RST)
        assert bench.site.open() == 0
    assert bench.site.engine.suspended() == frozenset()


def test_a_refused_connect_suspends_the_workload(bench: Bench) -> None:
    one_far(bench, 4)
    flow = Flow(bench, 4)
    verdict, back = flow.workload(RST | ACK)
    assert (verdict, ports(back, 4)) == (REDIRECT, (LISTEN, 40000)), "the client is told"
    assert bench.site.open() == 0
    assert [workload.site for _, workload in bench.site.engine.suspended()] == ["far"]


def test_a_port_that_the_client_uses_again_is_placed_again(bench: Bench) -> None:
    one_far(bench, 4)
    flow = Flow(bench, 4)
    flow.workload(SYN | ACK)
    flow.client(RST)
    second = Flow(bench, 4)
    assert bench.site.open() == 1
    assert len(list(bench.site.flows.records())) == 1
    second.workload(SYN | ACK)
    assert second.client(SYN)[0] == REDIRECT, "a SYN within a living connection is the workload's to answer"
    assert bench.site.open() == 1


@BOTH
def test_a_client_that_resets_an_old_connection_keeps_its_port(bench: Bench, v: int) -> None:
    """The workload still has a connection of this port in TIME_WAIT, and says so to the SYN."""
    one_far(bench, v)
    flow = Flow(bench, v)
    assert flow.workload(ACK)[0] == REDIRECT
    assert flow.client(RST)[0] == REDIRECT
    assert bench.site.open() == 1
    verdict, again = flow.client(SYN)
    assert (verdict, ports(again, v)[0]) == (REDIRECT, flow.port)
    flow.workload(SYN | ACK)
    flow.client(RST)
    assert bench.site.open() == 0


def test_ports_run_out_for_one_workload_before_another(bench: Bench) -> None:
    """An eighth of the range stays free, so that a port is found by trying; then the other workload serves."""
    far, room = far_overlay()[4], (PORTS[1] - PORTS[0] + 1) * 7 // 8
    bench.site.service([remote("a", 0, (far, FAR_PORT)), remote("b", 9999, (far, FAR_PORT + 1))], (HOST[4], LISTEN))
    for number in range(room + 2):
        flow = Flow(bench, 4, 20000 + number)
        flow.workload(SYN | ACK)
        flow.client(ACK)
    assert (bench.site.open("a"), bench.site.open("b")) == (room, 2)
    bench.site.service([remote("a", 0, (far, FAR_PORT))])
    before = bench.site.drops().get(Reason.NO_PORT, 0)
    assert bench.lan(ip(CLIENT[4], HOST[4], tcp(30000, LISTEN)))[0] == UNSPEC, "the stack refuses it"
    assert bench.site.drops()[Reason.NO_PORT] > before
    used = [
        flow.forward.source_port for flow in bench.site.flows.records() if flow.forward.destination_port == FAR_PORT
    ]
    assert len(set(used)) == len(used) == room
    assert all(PORTS[0] <= port <= PORTS[1] for port in used)


def test_ports_of_ended_connections_serve_again_at_once(bench: Bench) -> None:
    one_far(bench, 4)
    for number in range(3 * (PORTS[1] - PORTS[0] + 1)):
        flow = Flow(bench, 4, 20000 + number)
        flow.workload(SYN | ACK)
        flow.client(FIN | ACK)
        flow.workload(FIN | ACK)
    assert bench.site.open() == 0
    assert len(list(bench.site.flows.records())) <= PORTS[1] - PORTS[0] + 1
    assert bench.site.engine.reconcile_counts() == 0


def test_a_full_table_refuses_new_connections_and_keeps_old_ones(bench: Bench) -> None:
    far = far_overlay()[4]
    bench.site.service(
        [remote(f"w{n}", 0, (far, FAR_PORT + n)) for n in range(64)], (HOST[4], LISTEN), protocol=Protocol.UDP
    )
    before = bench.site.drops().get(Reason.TABLE_FULL, 0)
    room = bench.site.flows.room()
    for number in range(room):
        verdict, out = bench.lan(ip(CLIENT[4], HOST[4], udp(20000 + number, LISTEN)))
        assert verdict == REDIRECT, number
        port, to = ports(out, 4)
        assert bench.link(ip(far, bench.site.overlay4, udp(to, port)))[0] == REDIRECT, number
    assert bench.lan(ip(CLIENT[4], HOST[4], udp(40000, LISTEN)))[0] == UNSPEC
    assert bench.site.drops()[Reason.TABLE_FULL] == before + 1
    assert bench.site.open() == room
    assert bench.lan(ip(CLIENT[4], HOST[4], udp(20000, LISTEN)))[0] == REDIRECT
    assert bench.site.engine.reconcile_counts() == 0


def test_no_workload_of_the_family(bench: Bench) -> None:
    bench.site.service([remote("far", 1, (far_overlay()[6], FAR_PORT))], (HOST[4], LISTEN))
    before = bench.site.drops().get(Reason.NO_FAMILY, 0)
    packet = ip(CLIENT[4], HOST[4], tcp(40000, LISTEN))
    assert bench.lan(packet) == (UNSPEC, packet)
    assert bench.site.drops()[Reason.NO_FAMILY] == before + 1
    assert list(bench.site.flows.records()) == []


def test_a_machine_without_a_way_to_it(bench: Bench) -> None:
    bench.site.service([remote("here", 0, ("10.55.0.99", 9), own_site=True, off_host=True)], (HOST[4], LISTEN))
    before = bench.site.drops().get(Reason.NO_ROUTE, 0)
    assert bench.lan(ip(CLIENT[4], HOST[4], tcp(40000, LISTEN)))[0] == SHOT
    assert bench.site.drops()[Reason.NO_ROUTE] == before + 1
    assert (bench.site.open(), list(bench.site.flows.records())) == (0, [])


def test_idle_flows_end_by_their_time_outs(bench: Bench) -> None:
    one_far(bench, 4)
    table = bench.site.flows
    silent, served, closing, closed = (Flow(bench, 4, 40000 + number) for number in range(4))
    for flow in (served, closing, closed):
        flow.workload(SYN | ACK)
        flow.client(ACK)
    closing.client(FIN | ACK)
    closed.client(FIN | ACK)
    closed.workload(FIN | ACK)
    short = NatConfig(ports=PORTS, syn_s=60, established_s=60, fin_s=60, closed_s=60, udp_s=60)
    try:
        for name, flow, left in (("closed_s", closed, 3), ("fin_s", closing, 2), ("syn_s", silent, 1)):
            configure_nat(bench.site, short)
            table.sweep()
            assert bench.site.entry(FlowKey(CLIENT[4], flow.client_port, HOST[4], LISTEN)) is not None
            configure_nat(bench.site, replace(short, **{name: 0.0}))
            time.sleep(0.02)
            table.sweep()
            assert bench.site.open() == min(left, 3)
            assert bench.site.entry(FlowKey(CLIENT[4], flow.client_port, HOST[4], LISTEN)) is None
            short = replace(short, **{name: 0.0})
        assert bench.site.engine.suspended() == frozenset(), "one SYN says nothing"
        configure_nat(bench.site, replace(short, established_s=0.0))
        time.sleep(0.02)
        table.sweep()
        assert (bench.site.open(), list(table.records())) == (0, [])
        assert bench.site.engine.reconcile_counts() == 0
    finally:
        configure_nat(bench.site, NatConfig(ports=PORTS))


def test_a_record_says_what_the_flow_was_placed_on(bench: Bench) -> None:
    one_far(bench, 6)
    flow = Flow(bench, 6)
    (record,) = bench.site.flows.records()
    assert record.key == FlowKey(CLIENT[6], 40000, HOST[6], LISTEN)
    assert (record.forward.source, record.forward.source_port) == (bench.site.overlay6, flow.port)
    assert (record.reply.destination, record.reply.destination_port) == (CLIENT[6], 40000)
    assert record.forward.kind == Kind.REMOTE
    (receipt,) = bench.site.engine.connections()
    assert receipt.client == f"[{CLIENT[6]}]:40000"
    assert (receipt.workload.site, receipt.listener.port, receipt.perceived) == ("far", LISTEN, (1, 1))


MSS_FIRST = bytes([2, 4, 0x05, 0xB4])


@BOTH
@pytest.mark.parametrize("options", [MSS_FIRST, b"\1\1" + MSS_FIRST + b"\1\1", b"\1" + MSS_FIRST + b"\1\1\1",
                                     b"\3\3\7\1" + b"\4\2" + MSS_FIRST + b"\0\0"], ids=range(4))  # fmt: skip
def test_the_segment_size_fits_the_way(bench: Bench, v: int, options: bytes) -> None:
    """The link's MTU is 1450 here (the underlay's 1500 less VXLAN over IPv4), 1430 for its IPv6 header."""
    one_far(bench, v)
    verdict, out = bench.lan(ip(CLIENT[v], HOST[v], with_options(tcp(40000, LISTEN), options)))
    fits = bench.link_mtu - (40 if v == 4 else 60)
    expected = options.replace(b"\x05\xb4", fits.to_bytes(2))
    port = ports(out, v)[0]
    assert (verdict, out) == (
        REDIRECT, ip(bench.site.overlay(v), far_overlay()[v], with_options(tcp(port, FAR_PORT), expected), hops=63)
    )  # fmt: skip
    back = with_options(tcp(FAR_PORT, port, SYN | ACK), options)
    verdict, out = bench.link(ip(far_overlay()[v], bench.site.overlay(v), back))
    assert out == ip(HOST[v], CLIENT[v], with_options(tcp(LISTEN, 40000, SYN | ACK), expected), hops=63)


def with_options(l4: L4, options: bytes) -> L4:
    data = l4.data[:12] + bytes([(20 + len(options)) // 4 << 4]) + l4.data[13:20] + options
    return L4(l4.protocol, data, l4.sum_at)


@BOTH
def test_too_big_a_packet_is_answered(bench: Bench, v: int) -> None:
    one_far(bench, v)
    Flow(bench, v)
    big = ip(
        CLIENT[v], HOST[v], tcp(40000, LISTEN, ACK, bytes(1460 if v == 4 else 1440)), fragment=0x4000 if v == 4 else 0
    )
    before = bench.site.drops().get(Reason.TOO_BIG, 0)
    verdict, out = bench.lan(big)
    quoted = big[: 40 if v == 4 else 60]
    mtu = bench.link_mtu
    answer = L4(ICMP, b"\3\4\0\0\0\0" + mtu.to_bytes(2) + quoted, 2)
    if v == 6:
        answer = L4(ICMP6, b"\2\0\0\0" + mtu.to_bytes(4) + quoted, 2)
    assert (verdict, out) == (REDIRECT, plain_ip(HOST[v], CLIENT[v], answer))
    assert bench.site.drops()[Reason.TOO_BIG] == before + 1


def plain_ip(source: str, destination: str, l4: L4) -> bytes:
    """A packet with identification 0, as the programs make it."""
    packet = ip(source, destination, l4)
    if packet[0] >> 4 == 6:
        return packet
    header = packet[:4] + b"\0\0" + packet[6:10] + b"\0\0" + packet[12:20]
    return header[:10] + checksum(header).to_bytes(2) + header[12:] + packet[20:]


def test_too_big_a_datagram_that_may_be_cut_is_cut(bench: Bench) -> None:
    """Its front leaves at once, with the checksum of the whole; the rest comes in once more and follows."""
    bench.site.service([remote("far", 1, (far_overlay()[4], FAR_PORT))], (HOST[4], LISTEN), protocol=Protocol.UDP)
    before = bench.site.drops().get(Reason.TOO_BIG, 0)
    verdict, out = bench.lan(ip(CLIENT[4], HOST[4], udp(40000, LISTEN, bytes(1470))))
    port, front = ports(out, 4)[0], (bench.link_mtu - 20) // 8 * 8
    whole = ip(bench.site.overlay(4), far_overlay()[4], udp(port, FAR_PORT, bytes(1470)), fragment=0x2000, hops=63)
    assert (verdict, len(out), out[20:]) == (REDIRECT, 20 + front, whole[20 : 20 + front])
    assert (int.from_bytes(out[2:4]), out[4:10], checksum(out[:20])) == (20 + front, whole[4:10], 0)
    assert bench.site.drops().get(Reason.TOO_BIG, 0) == before


@BOTH
@KINDS
def test_errors_reach_who_sent_the_original(bench: Bench, v: int, kind: Protocol) -> None:
    site, far, router = bench.site, far_overlay()[v], {4: "100.64.0.77", 6: far_overlay()[6]}[v]
    site.service([remote("far", 1, (far, FAR_PORT))], (HOST[v], LISTEN), protocol=kind)
    port = ports(bench.lan(ip(CLIENT[v], HOST[v], l4(kind, 40000, LISTEN)))[1], v)[0]

    def error(about: bytes) -> L4:
        quoted = about[: 28 if v == 4 else 48]
        return L4(ICMP, b"\3\4\0\0\0\0\5\0" + quoted, 2) if v == 4 else L4(ICMP6, b"\2\0\0\0\0\0\5\0" + quoted, 2)

    sent, seen = (ip(site.overlay(v), far, l4(kind, port, FAR_PORT, ACK, b"data")),
                  ip(CLIENT[v], HOST[v], l4(kind, 40000, LISTEN, ACK, b"data")))  # fmt: skip
    verdict, out = bench.link(ip(router, site.overlay(v), error(sent)))
    assert (verdict, out) == (REDIRECT, ip(HOST[v], CLIENT[v], error(seen)))
    sent, seen = (ip(HOST[v], CLIENT[v], l4(kind, LISTEN, 40000, ACK, b"data")),
                  ip(far, site.overlay(v), l4(kind, FAR_PORT, port, ACK, b"data")))  # fmt: skip
    verdict, out = bench.lan(ip(CLIENT[v], HOST[v], error(sent)))
    assert (verdict, out) == (REDIRECT, ip(site.overlay(v), far, error(seen)))
    about_nobody = ip(site.overlay(v), far, l4(kind, port, FAR_PORT + 1, ACK))
    assert bench.link(ip(router, site.overlay(v), error(about_nobody)))[0] == SHOT
    packet = ip(MACHINE[v], HOST[v], error(ip(HOST[v], CLIENT[v], l4(kind, LISTEN, 40001, ACK))))
    assert bench.lan(packet) == (UNSPEC, packet)


def test_an_error_about_a_fragment_reaches_who_sent_it(bench: Bench) -> None:
    """Over IPv6 the sender alone can make smaller ones, so it must hear of it."""
    site, far = bench.site, far_overlay()[6]
    site.service([remote("far", 1, (far, FAR_PORT))], (HOST[6], LISTEN), protocol=Protocol.UDP)
    port = ports(bench.lan(ip(CLIENT[6], HOST[6], udp(40000, LISTEN)))[1], 6)[0]

    def error(source: str, to: str, sport: int, dport: int) -> L4:
        return L4(ICMP6, b"\2\0\0\0\0\0\5\0" + ip(source, to, udp(sport, dport, bytes(64)), fragment=1)[:56], 2)

    verdict, out = bench.link(ip(far, site.overlay(6), error(site.overlay(6), far, port, FAR_PORT)))
    assert (verdict, out) == (REDIRECT, ip(HOST[6], CLIENT[6], error(CLIENT[6], HOST[6], 40000, LISTEN)))
    later = L4(
        ICMP6, bytes([2, 0, 0, 0, 0, 0, 5, 0]) + ip(site.overlay(6), far, udp(port, FAR_PORT), fragment=64)[:56], 2
    )
    assert bench.link(ip(far, site.overlay(6), later))[0] == SHOT


def test_options_and_fragments_are_refused_where_they_are_ours(bench: Bench) -> None:
    one_far(bench, 4)
    bench.site.service([remote("far", 1, (far_overlay()[6], FAR_PORT))], (HOST[6], LISTEN), name="six")

    def counted(packet: bytes) -> tuple[int, set[Reason]]:
        before = bench.site.drops()
        verdict, out = bench.lan(packet)
        assert out == packet
        after = bench.site.drops()
        return verdict, {reason for reason in after if after[reason] != before.get(reason, 0)}

    mine, other = tcp(40000, LISTEN), tcp(40000, 22)
    options = b"\x01\x01\x01\0"
    assert counted(ip(CLIENT[4], HOST[4], mine, options=options)) == (SHOT, {Reason.MALFORMED})
    assert counted(ip(CLIENT[4], HOST[4], other, options=options)) == (UNSPEC, set())
    assert counted(ip(CLIENT[4], HOST[4], mine, fragment=0x2000)) == (SHOT, {Reason.FRAGMENT})
    assert counted(ip(CLIENT[4], HOST[4], other, fragment=0x2000)) == (UNSPEC, set())
    assert counted(ip(CLIENT[4], HOST[4], mine, fragment=0x0010)) == (UNSPEC, set())
    assert counted(ip(CLIENT[6], HOST[6], mine, fragment=1)) == (SHOT, {Reason.FRAGMENT})
    assert counted(ip(CLIENT[6], HOST[6], other, fragment=1)) == (UNSPEC, set())
    for header in (0, 60, 43):
        behind = L4(header, bytes([6, 0]) + bytes(6) + mine.data, None)
        assert counted(ip(CLIENT[6], HOST[6], behind)) == (SHOT, {Reason.MALFORMED})


def test_a_datagram_without_a_checksum_keeps_having_none(bench: Bench) -> None:
    bench.site.service([remote("far", 1, (far_overlay()[4], FAR_PORT))], (HOST[4], LISTEN), protocol=Protocol.UDP)
    verdict, out = bench.lan(ip(CLIENT[4], HOST[4], replace(udp(40000, LISTEN), sum_at=None)))
    assert (verdict, out[26:28]) == (REDIRECT, b"\0\0")


def test_a_flow_of_datagrams_leaves_a_workload_that_is_gone_but_not_one_that_is_drained(bench: Bench) -> None:
    far = far_overlay()[4]

    def put(out: Reason) -> None:
        both = [remote("a", 0, (far, FAR_PORT), out=out), remote("b", 9, (far, FAR_PORT + 1))]
        bench.site.service(both, (HOST[4], LISTEN), protocol=Protocol.UDP)

    for out, serves in ((Reason.NONE, "a"), (Reason.DRAINED, "a"), (Reason.UNHEALTHY, "b")):
        put(out)
        assert bench.lan(ip(CLIENT[4], HOST[4], udp(40000, LISTEN)))[0] == REDIRECT
        assert (bench.site.open(serves), bench.site.open()) == (1, 1)
