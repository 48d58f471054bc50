"""The LAN programs as data: a packet in, a packet and a verdict out (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

import pytest

from skedge.core.model import Protocol

from tests.integration.links.packets import ACK, FIN, RST, SYN, icmp, ip, sums_right, tcp, udp
from .kit import CLIENT, HOST, LISTEN, MACHINE, MACHINE_MAC, PORTS, REDIRECT, SHOT, UNSPEC, Bench, far_overlay, remote

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
        [remote("here", 0, (MACHINE[v], WORKLOAD_PORT), local=True, elsewhere=True)], (HOST[v], LISTEN), protocol=kind
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
    far = far_overlay()[v]
    for source, to in ((CLIENT[v], far), (CLIENT[v], bench.site.overlay(v)), (far, HOST[v])):
        assert bench.lan(ip(source, to, tcp(40000, LISTEN)))[0] == SHOT
