"""Packets that have passed too many hosts, and errors about such, as data (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

from skedge.core.model import Protocol
from skedge.core.reasons import Reason
from tests.integration.links.packets import ACK, ICMP, ICMP6, L4, ip, udp

from ..kit import CLIENT, HOST, LISTEN, MACHINE, REDIRECT, SHOT, Bench, far_overlay, remote
from ..test_packets import BOTH, FAR_PORT, KINDS, l4, plain_ip, ports


def exceeded(v: int, about: bytes, ports_only: bool) -> L4:
    """The error of a router about a packet; ``ports_only``: of its transport header it quotes no more."""
    quoted = about[: (20 if v == 4 else 40) + (8 if ports_only else 20)]
    return L4(ICMP, b"\x0b\0" + bytes(6) + quoted, 2) if v == 4 else L4(ICMP6, b"\3\0" + bytes(6) + quoted, 2)


@BOTH
@KINDS
def test_what_has_no_hop_left_is_answered_and_makes_no_flow(bench: Bench, v: int, kind: Protocol) -> None:
    site = bench.site
    site.service([remote("far", 1, (far_overlay()[v], FAR_PORT))], (HOST[v], LISTEN), protocol=kind)
    before = site.drops().get(Reason.HOP_LIMIT, 0)
    for hops in (1, 0):
        sent = ip(CLIENT[v], HOST[v], l4(kind, 40000, LISTEN, payload=b"some data that is not quoted"), hops=hops)
        answer = plain_ip(HOST[v], CLIENT[v], exceeded(v, sent, kind is Protocol.UDP))
        assert bench.lan(sent) == (REDIRECT, answer)
    assert site.drops()[Reason.HOP_LIMIT] == before + 2
    assert (site.open(), list(site.flows.records())) == (0, [])


@BOTH
@KINDS
def test_so_are_packets_of_flows_both_ways(bench: Bench, v: int, kind: Protocol) -> None:
    site, far = bench.site, far_overlay()[v]
    site.service([remote("far", 1, (far, FAR_PORT))], (HOST[v], LISTEN), protocol=kind)
    port = ports(bench.lan(ip(CLIENT[v], HOST[v], l4(kind, 40000, LISTEN)))[1], v)[0]
    for send, source, to, sport, dport in (
        (bench.lan, CLIENT[v], HOST[v], 40000, LISTEN), (bench.link, far, site.overlay(v), FAR_PORT, port),
    ):  # fmt: skip
        sent = ip(source, to, l4(kind, sport, dport, ACK, b"data"), hops=1)
        assert send(sent) == (REDIRECT, plain_ip(to, source, exceeded(v, sent, kind is Protocol.UDP)))
    sent = ip(CLIENT[v], HOST[v], l4(kind, 40000, LISTEN, ACK, b"data"), hops=1)
    for left in (1, 0xFFFFFFFF):  # by whom the packet came through before
        answer = bench.lan(sent, left=left)
        assert answer == (REDIRECT, plain_ip(HOST[v], CLIENT[v], exceeded(v, sent, kind is Protocol.UDP)))
    assert site.open() == 1


@BOTH
def test_of_a_cut_datagram_the_first_piece_alone_is_answered(bench: Bench, v: int) -> None:
    site = bench.site
    site.service([remote("far", 1, (far_overlay()[v], FAR_PORT))], (HOST[v], LISTEN), protocol=Protocol.UDP)
    assert bench.lan(ip(CLIENT[v], HOST[v], udp(40000, LISTEN)))[0] == REDIRECT
    before = site.drops().get(Reason.HOP_LIMIT, 0)
    first, later = {4: (0x2000, 3), 6: (1, 24)}[v]
    verdict, out = bench.lan(ip(CLIENT[v], HOST[v], udp(40000, LISTEN, bytes(16)), fragment=first, hops=1))
    assert (verdict, out[20 if v == 4 else 40]) == (REDIRECT, 11 if v == 4 else 3)
    assert bench.lan(ip(CLIENT[v], HOST[v], L4(17, b"the rest", None), fragment=later, hops=1))[0] == SHOT
    assert site.drops()[Reason.HOP_LIMIT] == before + 2


@BOTH
@KINDS
def test_a_host_of_the_way_is_named_to_the_client_and_no_machine_of_the_lan_to_a_site(
    bench: Bench, v: int, kind: Protocol
) -> None:
    site, far, between = bench.site, far_overlay()[v], {4: "100.64.0.77", 6: far_overlay()[6]}[v]
    site.service([remote("far", 1, (far, FAR_PORT))], (HOST[v], LISTEN), protocol=kind)
    port = ports(bench.lan(ip(CLIENT[v], HOST[v], l4(kind, 40000, LISTEN)))[1], v)[0]
    sent = ip(site.overlay(v), far, l4(kind, port, FAR_PORT, ACK, b"data"))
    seen = ip(CLIENT[v], HOST[v], l4(kind, 40000, LISTEN, ACK, b"data"))
    verdict, out = bench.link(ip(between, site.overlay(v), exceeded(v, sent, True)))
    assert (verdict, out) == (REDIRECT, ip(between, CLIENT[v], exceeded(v, seen, True)))
    sent = ip(HOST[v], CLIENT[v], l4(kind, LISTEN, 40000, ACK, b"data"))
    seen = ip(far, site.overlay(v), l4(kind, FAR_PORT, port, ACK, b"data"))
    verdict, out = bench.lan(ip(MACHINE[v], HOST[v], exceeded(v, sent, True)))
    assert (verdict, out) == (REDIRECT, ip(site.overlay(v), far, exceeded(v, seen, True)))
