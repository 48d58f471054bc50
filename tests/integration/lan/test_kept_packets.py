"""Clients that keep their own address, as data: a packet in, a packet and a verdict out (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.lan.layout_flow import FlowKey, Kind
from skedge.dataplane.ebpf.prefix_table import HERE
from tests.integration.links.packets import ACK, FIN, ICMP, ICMP6, L4, SYN, icmp, icmp6, ip, sums_right, tcp, udp
from tests.kit.rows import set_prefixes

from .kit import CLIENT, HOST, LISTEN, MACHINE, OK, PORTS, REDIRECT, SHOT, Bench, far_overlay, links, remote

BOTH = pytest.mark.parametrize("v", [4, 6])
KINDS = pytest.mark.parametrize("kind", [Protocol.TCP, Protocol.UDP], ids=["tcp", "udp"])
FAR_PORT, ENDPOINT, WORKLOAD_PORT = 61005, 61300, 9000
LAN = {4: "10.55.0.0/24", 6: "fd55::/64"}
AWAY = {4: "10.77.0.0/16", 6: "fd77::/48"}  # the LAN of another site, and a client there
AWAY_CLIENT = {4: "10.77.3.9", 6: "fd77::3:9"}
PASSING = {4: "10.78.0.0/16", 6: "fd78::/48"}  # one that overlaps a network of this host
PASSING_CLIENT = {4: "10.78.3.9", 6: "fd78::3:9"}
STRANGER = {4: "10.99.3.9", 6: "fd99::3:9"}


@pytest.fixture
def kept(bench: Bench) -> Iterator[Bench]:
    set_prefixes(bench.site.own_prefixes, LAN.values())
    for v in (4, 6):
        bench.site.prefixes.put(AWAY[v], HERE)
        bench.site.prefixes.put(PASSING[v])
    yield bench
    set_prefixes(bench.site.own_prefixes, [])
    for prefix in bench.site.prefixes.read():
        bench.site.prefixes.delete(prefix)


def l4(protocol: Protocol, sport: int, dport: int, flags: int = SYN, payload: bytes = b"") -> L4:
    return tcp(sport, dport, flags, payload) if protocol is Protocol.TCP else udp(sport, dport, payload or b"hi")


def another_site(v: int) -> str:
    name, cidr = "farther", links.IPv4Network(links.CIDR)
    made = links.names.overlay_address(cidr, links.NETWORK, name), links.names.overlay_address6(links.NETWORK, name)
    return str(made[v == 6])


def serve(bench: Bench, v: int, *ports: int, kind: Protocol = Protocol.TCP, takes: bool = True, asked: bool = True):
    """Let the listeners on these ports (LISTEN) lead to a workload of another site."""
    candidate = remote("far", 1, (far_overlay()[v], FAR_PORT), preserves_src=takes)
    at = [(HOST[v], port) for port in ports or (LISTEN,)]
    bench.site.service([candidate], *at, protocol=kind, preserves_src=asked)


def dropped(bench: Bench, packet: bytes) -> Reason | None:
    """Return the reason for which a packet from the neighbour is dropped."""
    before = bench.site.drops()
    verdict, _ = bench.link(packet)
    counted = [reason for reason, count in bench.site.drops().items() if count != before.get(reason, 0)]
    assert verdict == (SHOT if counted else OK), counted
    return counted[0] if counted else None


@BOTH
@KINDS
def test_address_and_port_stay_and_answers_are_from_the_listener(kept: Bench, v: int, kind: Protocol) -> None:
    far = far_overlay()[v]
    serve(kept, v, kind=kind)
    verdict, out = kept.lan(ip(CLIENT[v], HOST[v], l4(kind, 40000, LISTEN)))
    assert (verdict, out) == (REDIRECT, ip(CLIENT[v], far, l4(kind, 40000, FAR_PORT), hops=63))
    assert sums_right(out)
    assert kept.site.open("far") == 1
    assert kept.lan(ip(CLIENT[v], HOST[v], l4(kind, 40000, LISTEN)))[1] == out, "the flow is found again"
    verdict, back = kept.link(ip(far, CLIENT[v], l4(kind, FAR_PORT, 40000, SYN | ACK, b"answer")))
    assert (verdict, back) == (REDIRECT, ip(HOST[v], CLIENT[v], l4(kind, LISTEN, 40000, SYN | ACK, b"answer"), hops=63))
    assert sums_right(back)
    assert kept.site.open("far") == 1
    (record,) = kept.site.flows.records()
    assert (record.forward.kind, record.forward.source, record.forward.source_port) == (Kind.REMOTE, CLIENT[v], 40000)


@BOTH
def test_fragments_follow_the_first_one_both_ways(kept: Bench, v: int) -> None:
    far, first, later = far_overlay()[v], {4: 0x2000, 6: 1}[v], {4: 3, 6: 24}[v]
    rest = L4(17, b"the rest", None)
    serve(kept, v, kind=Protocol.UDP)
    assert dropped(kept, ip(far, CLIENT[v], rest, fragment=later)) is Reason.EARLY_FRAGMENT
    ways = (
        (kept.lan, (CLIENT[v], HOST[v]), (40000, LISTEN), (CLIENT[v], far), (40000, FAR_PORT)),
        (kept.link, (far, CLIENT[v]), (FAR_PORT, 40000), (HOST[v], CLIENT[v]), (LISTEN, 40000)),
    )
    for send, come, asked, leave, sent in ways:
        for before, after, word in ((udp(*asked, bytes(16)), udp(*sent, bytes(16)), first), (rest, rest, later)):
            verdict, out = send(ip(*come, before, fragment=word))
            assert (verdict, out) == (REDIRECT, ip(*leave, after, fragment=word, hops=63))


@BOTH
def test_the_count_ends_as_that_of_any_flow(kept: Bench, v: int) -> None:
    far = far_overlay()[v]
    serve(kept, v)
    for side, flags, still_open in (("client", SYN, 1), ("workload", SYN | ACK, 1), ("client", FIN | ACK, 1),
                                    ("workload", FIN | ACK, 0)):  # fmt: skip
        if side == "client":
            assert kept.lan(ip(CLIENT[v], HOST[v], tcp(40000, LISTEN, flags)))[0] == REDIRECT
        else:
            assert kept.link(ip(far, CLIENT[v], tcp(FAR_PORT, 40000, flags)))[0] == REDIRECT
        assert kept.site.open() == still_open
    assert kept.site.engine.reconcile_counts() == 0
    assert kept.lan(ip(CLIENT[v], HOST[v], tcp(40000, LISTEN))) == (
        REDIRECT, ip(CLIENT[v], far, tcp(40000, FAR_PORT), hops=63)
    ), "the same port again"  # fmt: skip


@BOTH
@pytest.mark.parametrize("why", ["not asked", "outside", "the other site does not take it"])
def test_else_it_is_translated(kept: Bench, v: int, why: str) -> None:
    if why == "outside":
        set_prefixes(kept.site.own_prefixes, [AWAY[v], LAN[10 - v]])
    serve(kept, v, takes=why != "the other site does not take it", asked=why != "not asked")
    verdict, out = kept.lan(ip(CLIENT[v], HOST[v], tcp(40000, LISTEN)))
    assert verdict == REDIRECT
    (record,) = kept.site.flows.records()
    assert record.forward.source == kept.site.overlay(v)
    port = record.forward.source_port
    assert PORTS[0] <= port <= PORTS[1]
    assert out == ip(kept.site.overlay(v), far_overlay()[v], tcp(port, FAR_PORT), hops=63)


@BOTH
def test_a_workload_of_the_own_lan_sees_the_host_as_ever(kept: Bench, v: int) -> None:
    kept.site.service(
        [remote("here", 0, (MACHINE[v], WORKLOAD_PORT), own_site=True, off_host=True)],
        (HOST[v], LISTEN),
        preserves_src=True,
    )
    _, out = kept.lan(ip(CLIENT[v], HOST[v], tcp(40000, LISTEN)))
    (record,) = kept.site.flows.records()
    assert out == ip(HOST[v], MACHINE[v], tcp(record.forward.source_port, WORKLOAD_PORT), hops=63)


@BOTH
def test_one_port_towards_one_workload_by_two_listeners(kept: Bench, v: int) -> None:
    serve(kept, v, LISTEN, LISTEN + 1)
    kept.lan(ip(CLIENT[v], HOST[v], tcp(40000, LISTEN)))
    verdict, _ = kept.lan(ip(CLIENT[v], HOST[v], tcp(40000, LISTEN + 1)))
    assert verdict == REDIRECT
    entry = kept.site.entry(FlowKey(CLIENT[v], 40000, HOST[v], LISTEN + 1))
    assert entry is not None
    assert entry.source == CLIENT[v], "the address is what was asked for"
    assert PORTS[0] <= entry.source_port <= PORTS[1]
    back = kept.link(ip(far_overlay()[v], CLIENT[v], tcp(FAR_PORT, entry.source_port, SYN | ACK)))
    assert back == (REDIRECT, ip(HOST[v], CLIENT[v], tcp(LISTEN + 1, 40000, SYN | ACK), hops=63))


def test_no_nat_port_is_needed(kept: Bench) -> None:
    serve(kept, 4)
    for number in range(PORTS[1] - PORTS[0] + 20):
        assert kept.lan(ip(CLIENT[4], HOST[4], tcp(10000 + number, LISTEN)))[0] == REDIRECT
    serve(kept, 4, takes=False)
    assert kept.lan(ip(CLIENT[4], HOST[4], tcp(9999, LISTEN)))[0] == REDIRECT, "all of them are left to others"


@BOTH
@pytest.mark.parametrize(
    ("what", "l4", "reason"),
    [
        ("of no flow", tcp(FAR_PORT, 40001, ACK), Reason.NO_SOCKET),
        ("a new connection", tcp(FAR_PORT, 22), Reason.NO_SOCKET),
        ("a new connection to an endpoint's port", tcp(FAR_PORT, ENDPOINT), Reason.NO_SOCKET),
        ("a datagram", udp(FAR_PORT, 53), Reason.NO_SOCKET),
        ("an echo request", icmp(8), Reason.NO_SOCKET),
        ("another protocol", L4(47, bytes(8), None), Reason.NO_SOCKET),
    ],
)
def test_the_lan_is_closed_to_other_sites(kept: Bench, v: int, what: str, l4: L4, reason: Reason) -> None:
    key = EndpointKey(ENDPOINT)
    kept.site.endpoints.put(key, Endpoint(WorkloadId("edge", "m"), MACHINE[v], WORKLOAD_PORT, off_host=True))
    try:
        if v == 6 and l4.protocol == ICMP:
            l4 = icmp6(128)
        assert dropped(kept, ip(far_overlay()[v], CLIENT[v], l4)) is reason, what
        assert dropped(kept, ip(far_overlay()[v], STRANGER[v], l4)) is Reason.NOT_OVERLAY, what
    finally:
        kept.site.endpoints.delete(key)
    assert list(kept.site.flows.records()) == []


@BOTH
def test_an_error_from_a_link_is_never_about_what_stays_in_the_lan(kept: Bench, v: int) -> None:
    kept.site.service(
        [remote("here", 0, (MACHINE[v], WORKLOAD_PORT), own_site=True, off_host=True)],
        (HOST[v], LISTEN),
        preserves_src=True,
    )
    _, out = kept.lan(ip(CLIENT[v], HOST[v], tcp(40000, LISTEN)))
    about = out[:48] if v == 6 else out[:28]
    error = icmp(3, 1, about) if v == 4 else icmp6(1, 0, about)
    assert dropped(kept, ip(far_overlay()[v], HOST[v], error)) is Reason.NO_SOCKET


@BOTH
@KINDS
def test_errors_find_the_client(kept: Bench, v: int, kind: Protocol) -> None:
    far = far_overlay()[v]
    serve(kept, v, kind=kind)
    sent = ip(CLIENT[v], HOST[v], l4(kind, 40000, LISTEN, payload=b"12345678"))
    _, out = kept.lan(sent)
    size = 28 if v == 4 else 48
    make = (lambda about: icmp(3, 3, about)) if v == 4 else (lambda about: icmp6(1, 4, about))
    verdict, back = kept.link(ip(far, CLIENT[v], make(out[:size])))
    assert verdict == REDIRECT
    quoted = back[28:] if v == 4 else back[48:]
    addresses = slice(12, 20) if v == 4 else slice(8, 40)
    assert quoted[addresses] == sent[addresses], "about what the client itself had sent"
    assert (back[12:16], back[16:20]) == (sent[16:20], sent[12:16]) if v == 4 else back[24:40] == sent[8:24]


# ---- the site that has the workload, and those between -----------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("what", "l4", "reason"),
    [
        ("a published endpoint", tcp(40000, ENDPOINT), Reason.WORKLOAD_CLOSED),
        ("another port", tcp(40000, 22), Reason.NOT_PUBLISHED),
        ("an endpoint's port that is not published", tcp(40000, ENDPOINT + 1), Reason.NOT_PUBLISHED),
        ("the load reports' port", udp(40000, links.LOAD_PORT), Reason.NOT_PUBLISHED),
        ("a NAT port", tcp(40000, PORTS[0]), Reason.NOT_PUBLISHED),
        ("a datagram to a port of the host", udp(40000, 53), Reason.NOT_PUBLISHED),
        ("an echo request", icmp(8), Reason.NOT_PUBLISHED),
    ],
)
def test_clients_of_another_sites_lan(kept: Bench, v: int, what: str, l4: L4, reason: Reason) -> None:
    site, key = kept.site, EndpointKey(ENDPOINT)
    site.endpoints.put(key, Endpoint(WorkloadId("edge", "w"), "127.0.0.1", WORKLOAD_PORT))
    if v == 6 and l4.protocol == ICMP:
        l4 = icmp6(128)
    try:
        before = site.drops().get(reason, 0)
        verdict, _ = kept.link(ip(AWAY_CLIENT[v], site.overlay(v), l4))
        assert site.drops().get(reason, 0) == before + 1, what
        assert verdict == (OK if reason is Reason.WORKLOAD_CLOSED else SHOT), what
        for source in (STRANGER[v], CLIENT[v], HOST[v]):
            assert dropped(kept, ip(source, site.overlay(v), l4)) is Reason.NOT_OVERLAY, what
        assert dropped(kept, ip(PASSING_CLIENT[v], site.overlay(v), l4)) is Reason.OVERLAPPING_PREFIX, what
    finally:
        site.endpoints.delete(key)


@BOTH
def test_a_machine_of_the_lan_that_serves_them_sees_this_host(kept: Bench, v: int) -> None:
    site, key = kept.site, EndpointKey(ENDPOINT)
    site.endpoints.put(key, Endpoint(WorkloadId("edge", "m"), MACHINE[v], WORKLOAD_PORT, off_host=True))
    try:
        verdict, out = kept.link(ip(AWAY_CLIENT[v], site.overlay(v), tcp(41000, ENDPOINT)))
        (record,) = site.flows.records()
        port = record.forward.source_port
        assert (verdict, out) == (REDIRECT, ip(HOST[v], MACHINE[v], tcp(port, WORKLOAD_PORT), hops=63))
    finally:
        site.endpoints.delete(key)


@BOTH
@pytest.mark.parametrize("client", [AWAY_CLIENT, PASSING_CLIENT], ids=["taken", "overlapping here"])
def test_they_pass_through(kept: Bench, v: int, client: dict[int, str]) -> None:
    beyond = another_site(v)
    for one in (tcp(40000, 61000), tcp(40000, 61000, ACK, b"data"), udp(40000, 61000)):
        assert dropped(kept, ip(client[v], beyond, one)) is None
        assert dropped(kept, ip(beyond, client[v], one)) is None
        assert dropped(kept, ip(STRANGER[v], beyond, one)) is Reason.NOT_OVERLAY
        assert dropped(kept, ip(beyond, STRANGER[v], one)) is Reason.NOT_OVERLAY
        assert dropped(kept, ip(client[v], AWAY_CLIENT[v], one)) is Reason.NOT_OVERLAY, "from LAN to LAN"
        assert dropped(kept, ip(kept.site.overlay(v), client[v], one)) is Reason.NOT_OVERLAY, "our own address"


@BOTH
def test_too_big_a_packet_on_its_way_through_is_answered_over_the_link(kept: Bench, v: int) -> None:
    far, ns = far_overlay()[v], kept.site.ns
    sent = ip(AWAY_CLIENT[v], far, tcp(40000, 61000, ACK, bytes(1330)), **({"fragment": 0x4000} if v == 4 else {}))
    assert kept.link(sent) == (OK, sent)
    device = kept.site.device("peer")
    ns.ip("link", "set", device, "mtu", "1300")
    try:
        verdict, out = kept.link(sent)
    finally:
        ns.ip("link", "set", device, "mtu", str(kept.link_mtu))
    assert verdict == REDIRECT
    kind, mtu = (out[20:22], out[26:28]) if v == 4 else (out[40:42], out[46:48])
    assert (kind, int.from_bytes(mtu)) == (b"\x03\x04" if v == 4 else b"\x02\x00", 1300)
    assert out[9 if v == 4 else 6] == (ICMP if v == 4 else ICMP6)
    reverse = (out[12:16], out[16:20]) == (sent[16:20], sent[12:16]) if v == 4 else out[24:40] == sent[8:24]
    assert reverse


@BOTH
@KINDS
def test_what_has_no_hop_left_on_its_way_through_is_answered_over_the_link(kept: Bench, v: int, kind: Protocol) -> None:
    """The kernel would send its error by the host's own routes, where the other site's LAN is not."""
    far, own = another_site(v), kept.site.overlay(v)
    before = kept.site.drops().get(Reason.HOP_LIMIT, 0)
    sent = ip(AWAY_CLIENT[v], far, l4(kind, 40000, 61000, payload=b"12345678"), hops=1)
    verdict, out = kept.link(sent)
    at = 12 if v == 4 else 8
    size = 4 if v == 4 else 16
    assert (verdict, out[9 if v == 4 else 6]) == (REDIRECT, ICMP if v == 4 else ICMP6)
    assert (out[at : at + size], out[at + size : at + 2 * size]) == (ip_address(own).packed, sent[at : at + size])
    error = out[20:] if v == 4 else out[40:]
    assert (error[0], error[8:36]) == (11 if v == 4 else 3, sent[:28])
    assert dropped(kept, ip(AWAY_CLIENT[v], far, icmp(8) if v == 4 else icmp6(128), hops=1)) is Reason.HOP_LIMIT
    assert dropped(kept, ip(far, AWAY_CLIENT[v], l4(kind, 61000, 40000, SYN | ACK), hops=1)) is None, "the kernel's"
    assert kept.site.drops()[Reason.HOP_LIMIT] == before + 2
