"""Broken and hostile packets through the packet programs: what should not be touched never is, and what is rewritten
is exactly what a reference in Python makes of it."""

from __future__ import annotations

import random

import pytest

from skedge.core.model import Protocol
from skedge.core.reasons import Reason
from tests.integration.links.packets import ACK, FIN, ICMP, ICMP6, L4, RST, SYN, checksum, icmp, ip, tcp, udp

from .kit import CLIENT, HOST, LISTEN, MACHINE, REDIRECT, SHOT, UNSPEC, Bench, far_overlay, remote

ROUNDS = 4000
FAR_PORT = 61005
SEEDS = pytest.mark.parametrize("seed", range(3))


def fields(packet: bytes) -> tuple[int, int, bytes, bytes, bytes] | None:
    """Version, protocol, addresses and transport segment of a packet that the programs may rewrite; None for others."""
    if len(packet) < 20:
        return None
    version = packet[0] >> 4
    if version == 4:
        total = int.from_bytes(packet[2:4])
        if packet[0] != 0x45 or packet[6] & 0x3F or packet[7] or total > len(packet):
            return None
        found = 4, packet[9], packet[12:16], packet[16:20], packet[20:total]
    elif version == 6 and len(packet) >= 40:
        total = 40 + int.from_bytes(packet[4:6])
        if total > len(packet):
            return None
        found = 6, packet[6], packet[8:24], packet[24:40], packet[40:total]
    else:
        return None
    segment = found[4]
    if found[1] == 6:
        header = segment[12] >> 2 & 0x3C if len(segment) >= 20 else 0
        return found if 20 <= header <= len(segment) else None
    if found[1] == 17:
        return found if len(segment) >= 8 else None
    return None


def sum_error(version: int, protocol: int, source: bytes, destination: bytes, segment: bytes) -> int:
    """The one's complement sum of a segment with its pseudo header, 0 when its checksum is right."""
    return checksum(source + destination + len(segment).to_bytes(4) + bytes([0, 0, 0, protocol]) + segment)


class Generator:
    """Packets as they should be, then spoilt in one to three ways."""

    def __init__(self, seed: int, bench: Bench) -> None:
        self.random = random.Random(seed)
        self.bench = bench

    def segment(self, v: int) -> L4:
        pick = self.random
        sport, dport = pick.choice([40000, 40001, 7, 65535]), pick.choice([LISTEN, LISTEN, LISTEN, 22, 63005, 63063, 0])
        payload = pick.randbytes(pick.choice([0, 1, 3, 20, 64]))
        quoted = ip(HOST[v], CLIENT[v], tcp(LISTEN, 40000, ACK, b"x"))[: pick.choice([20, 28, 48, 60])]
        return pick.choice([
            tcp(sport, dport, pick.choice([SYN, SYN, ACK, SYN | ACK, FIN | ACK, RST, SYN | FIN, 0]), payload),
            udp(sport, dport, payload),
            L4(ICMP, b"\3\4" + bytes(6) + quoted, 2) if v == 4 else L4(ICMP6, b"\2\0" + bytes(6) + quoted, 2),
            icmp(pick.randrange(20)) if v == 4 else L4(pick.choice([0, 43, 44, 60]), pick.randbytes(24), None),
        ])  # fmt: skip

    def packet(self) -> tuple[bytes, bool]:
        """Return a packet, and whether it was spoilt."""
        pick, v = self.random, self.random.choice([4, 6])
        source = pick.choice([CLIENT, CLIENT, CLIENT, MACHINE])[v]
        destination = pick.choice([HOST, HOST, HOST, HOST, {4: "10.55.0.77", 6: "fd55::77"}])[v]
        options = pick.choice([b""] * 6 + [b"\1\1\1\0", bytes(40)]) if v == 4 else b""
        fragment = pick.choice([0] * 8 + [0x2000, 1, 0x4000]) if v == 4 else pick.choice([0] * 8 + [1, 8])
        packet = bytearray(ip(source, destination, self.segment(v), options=options, fragment=fragment))
        spoilt = pick.random() < 0.6
        for _ in range(pick.randrange(1, 4) if spoilt else 0):
            how = pick.randrange(4)
            at = pick.randrange(len(packet)) if packet else 0
            if how == 0 and packet:
                packet[at] ^= 1 << pick.randrange(8)
            elif how == 1 and packet:
                packet[at] = pick.randrange(256)
            elif how == 2:
                del packet[at:]
            else:
                packet += pick.randbytes(pick.randrange(30))
        return bytes(packet), spoilt


@SEEDS
def test_no_packet_is_rewritten_that_should_not_be(bench: Bench, seed: int) -> None:
    site, far = bench.site, far_overlay()
    for v in (4, 6):
        for protocol in Protocol:
            candidates = [remote("far", 1, (far[v], FAR_PORT))]
            site.service(candidates, (HOST[v], LISTEN), name=f"web{v}{protocol.value}", protocol=protocol)
    made = Generator(seed, bench)
    seen = {UNSPEC: 0, SHOT: 0, REDIRECT: 0}
    for number in range(ROUNDS):
        packet, _ = made.packet()
        ethertype = (0x86DD if packet and packet[0] >> 4 == 6 else 0x0800) if made.random.random() < 0.97 else 0x0806
        if len(packet) < (40 if ethertype == 0x86DD else 20):
            continue  # the hook takes no packet without the header that it names
        verdict, out = bench.lan(packet, ethertype=ethertype)
        seen[verdict] += 1
        if verdict != REDIRECT:
            assert out == packet, (number, packet.hex())
            continue
        before, after = fields(packet), fields(out)
        if before is None:
            assert is_icmp_about_a_flow(packet) or is_fragment_of_a_flow(packet, out), (number, packet.hex())
            continue
        version, protocol, _, _, segment = before
        assert after is not None
        assert (after[0], after[1]) == (version, protocol)
        assert int.from_bytes(segment[2:4]) == LISTEN, (number, packet.hex())
        assert len(after[4]) == len(segment)
        assert after[4][4:6] == segment[4:6]  # sequence number or length: untouched
        assert out[len(out) - len(segment) + 20 :] == packet[len(packet) - len(segment) + 20 :]
        if not (protocol == 17 and segment[6:8] == b"\0\0"):
            wrong = sum_error(*before)
            assert sum_error(*after) in ({wrong, 0xFFFF} if wrong in (0, 0xFFFF) else {wrong}), (number, packet.hex())
    assert min(seen.values()) > ROUNDS // 50, seen
    assert site.engine.reconcile_counts() == 0


def is_icmp_about_a_flow(packet: bytes) -> bool:
    """Whether the packet is an ICMP error that quotes what this host sent to the client."""
    if packet[0] >> 4 == 4:
        return packet[9] == ICMP and packet[20] in (3, 11, 12) and packet[48:50] == LISTEN.to_bytes(2)
    return packet[6] == ICMP6 and 1 <= packet[40] <= 4 and packet[88:90] == LISTEN.to_bytes(2)


def is_fragment_of_a_flow(packet: bytes, out: bytes) -> bool:
    """Whether the packet begins a datagram to the listener, or goes on with one; only headers may be changed."""
    if packet[0] >> 4 == 4:
        at, word = 20, int.from_bytes(packet[6:8])
        first, datagram = word & 0x3FFF == 0x2000, packet[9] == 17 and word & 0x3FFF
    else:
        at, first, datagram = 48, not int.from_bytes(packet[42:44]) & 0xFFF8, packet[6] == 44 and packet[40] == 17
    if first:
        return bool(datagram) and packet[at + 2 : at + 4] == LISTEN.to_bytes(2) and out[at + 8 :] == packet[at + 8 :]
    return bool(datagram) and out[at:] == packet[at:]


@SEEDS
def test_nothing_but_flows_comes_in_over_a_link(bench: Bench, seed: int) -> None:
    """With listeners on the LAN, a neighbour's packets to any port of the overlay address still get nowhere."""
    site, far = bench.site, far_overlay()
    site.service([remote("far", 1, (far[4], FAR_PORT))], (HOST[4], LISTEN))
    pick = random.Random(seed)
    for _ in range(ROUNDS // 4):
        v = pick.choice([4, 6])
        port = pick.choice([LISTEN, 22, pick.randrange(65536), pick.randrange(63000, 65536)])
        l4 = pick.choice([tcp(pick.randrange(61000), port, pick.choice([SYN, ACK, SYN | ACK, RST])), udp(1024, port)])
        packet = ip(far[v], site.overlay(v), l4)
        verdict, out = bench.link(packet)
        assert (verdict, out) == (SHOT, packet), packet.hex()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        *((one, Reason.MARTIAN) for one in ("127.0.0.1", "224.0.0.5", "0.0.0.0", "255.255.255.255")),
        *((one, Reason.MARTIAN) for one in ("::1", "ff02::1", "::")),
        *((one, Reason.NO_ROUTE) for one in ("10.55.0.1", "fd55::1", "fe80::1")),
    ],
)
def test_who_cannot_be_answered_gets_no_flow(bench: Bench, source: str, reason: Reason) -> None:
    v = 6 if ":" in source else 4
    bench.site.service([remote("far", 1, (far_overlay()[v], FAR_PORT))], (HOST[v], LISTEN))
    before = bench.site.drops().get(reason, 0)
    assert bench.lan(ip(source, HOST[v], tcp(40000, LISTEN)))[0] == SHOT
    assert bench.site.drops()[reason] == before + 1
    assert (bench.site.open(), list(bench.site.flows.records())) == (0, [])
