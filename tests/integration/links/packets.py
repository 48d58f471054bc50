"""Packets as bytes, checksums right: what the packet programs are fed with."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
SYN, ACK, RST, FIN = 2, 16, 4, 1


def checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass(frozen=True)
class L4:
    protocol: int
    data: bytes
    sum_at: int | None  # where its checksum stands


def tcp(
    sport: int, dport: int, flags: int = SYN, payload: bytes = b"", sequence: int = 1000, acknowledged: int = 0
) -> L4:
    numbers = sequence % (1 << 32), acknowledged % (1 << 32)
    return L4(TCP, struct.pack(">HHIIBBHHH", sport, dport, *numbers, 0x50, flags, 64000, 0, 0) + payload, 16)


def udp(sport: int, dport: int, payload: bytes = b"hi") -> L4:
    return L4(UDP, struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload, 6)


def icmp(kind: int, code: int = 0, payload: bytes = b"") -> L4:
    return L4(ICMP, struct.pack(">BBHI", kind, code, 0, 0) + payload, 2)


def icmp6(kind: int, code: int = 0, payload: bytes = b"") -> L4:
    return L4(ICMP6, struct.pack(">BBHI", kind, code, 0, 0) + payload, 2)


def ip(source: str, destination: str, l4: L4, *, fragment: int = 0, options: bytes = b"", hops: int = 64) -> bytes:
    """Return the IP packet; ``fragment`` is the flags-and-offset word of IPv4, or any value for IPv6."""
    src, dst = ip_address(source), ip_address(destination)
    data = l4.data
    if l4.sum_at is not None:
        length = struct.pack(">I", len(data))
        pseudo = src.packed + dst.packed + (length + struct.pack(">I", l4.protocol) if src.version == 6 else b"")
        if src.version == 4:
            pseudo += struct.pack(">BBH", 0, l4.protocol, len(data))
        total = checksum(data if l4.protocol == ICMP else pseudo + data)
        data = data[: l4.sum_at] + struct.pack(">H", total) + data[l4.sum_at + 2 :]
    if src.version == 6:
        following = l4.protocol
        if fragment:
            data = struct.pack(">BBHI", following, 0, fragment, 1) + data
            following = 44
        return struct.pack(">IHBB", 6 << 28, len(data), following, hops) + src.packed + dst.packed + data
    header = struct.pack(
        ">BBHHHBBH", 0x45 + len(options) // 4, 0, 20 + len(options) + len(data), 7, fragment, hops, l4.protocol, 0
    )
    header += src.packed + dst.packed + options
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + data


def frame(destination: bytes, source: bytes, packet: bytes, ethertype: int | None = None) -> bytes:
    kind = ethertype if ethertype is not None else (0x86DD if packet[0] >> 4 == 6 else 0x0800)
    return destination + source + struct.pack(">H", kind) + packet


def sums_right(packet: bytes) -> bool:
    """Return whether the checksums of an IP packet's headers (TCP, UDP) are right."""
    if packet[0] >> 4 == 4:
        if checksum(packet[:20]):
            return False
        pseudo, protocol, data = packet[12:20], packet[9], packet[20 : int.from_bytes(packet[2:4])]
        return checksum(pseudo + struct.pack(">BBH", 0, protocol, len(data)) + data) == 0
    protocol, data = packet[6], packet[40 : 40 + int.from_bytes(packet[4:6])]
    return checksum(packet[8:40] + struct.pack(">II", len(data), protocol) + data) == 0
