#!/usr/bin/python3
"""Crafted packets onto a link, as a neighbour gone bad could send them, and whatever comes back. Standard library only.

``attack.py DEVICE PEER_MAC SOURCE TARGET tcp|udp [FIRST-LAST]`` sends a SYN or a datagram to each port, in frames of
its own making and past the host's own egress programs, and prints JSON: how many were ``sent``, and by port what
``answers`` came, from whatever address: syn-ack, rst, udp, or icmp (by the port that the error quotes).
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import socket
import struct
import sys
import time
from pathlib import Path

OWN_PORT = 40123
ETH_P_ALL, SOL_PACKET, PACKET_QDISC_BYPASS, SO_RCVBUFFORCE = 3, 263, 20, 33
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
BURST, PAUSE_S = 64, 0.001  # a device's backlog takes so many at once; what is lost there attacks nobody
WAIT_S = 0.5
WORDS = {0x12: "syn-ack", 0x14: "rst", 0x04: "rst"}


def total(data: bytes) -> int:
    """Return the sum of 16-bit words, not folded."""
    return sum(struct.unpack(f">{len(data) // 2}H", data))


def fold(number: int) -> int:
    """Return the checksum of a sum."""
    while number >> 16:
        number = (number & 0xFFFF) + (number >> 16)
    return ~number & 0xFFFF


class Packet:
    """A frame in which only the destination port changes from one to the next."""

    def __init__(self, macs: bytes, source: str, target: str, protocol: int) -> None:
        src, dst = ipaddress.ip_address(source), ipaddress.ip_address(target)
        if protocol == TCP:
            l4 = struct.pack(">HHIIBBHHH", OWN_PORT, 0, 7, 0, 0x50, 2, 64000, 0, 0)
        else:
            l4 = struct.pack(">HHHH", OWN_PORT, 0, 10, 0) + b"??"
        self.sum = total(src.packed + dst.packed + struct.pack(">HH", protocol, len(l4)) + l4)
        if src.version == 4:
            head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(l4), 7, 0x4000, 64, protocol, 0) + src.packed + dst.packed
            head = head[:10] + struct.pack(">H", fold(total(head))) + head[12:]
            kind = b"\x08\x00"
        else:
            head = struct.pack(">IHBB", 6 << 28, len(l4), protocol, 64) + src.packed + dst.packed
            kind = b"\x86\xdd"
        self.data = bytearray(macs + kind + head + l4)
        self.port_at = len(self.data) - len(l4) + 2
        self.sum_at = len(self.data) - len(l4) + (16 if protocol == TCP else 6)

    def to(self, port: int) -> bytes:
        """Return the frame to one port."""
        struct.pack_into(">H", self.data, self.port_at, port)
        struct.pack_into(">H", self.data, self.sum_at, fold(self.sum + port) or 0xFFFF)
        return bytes(self.data)


def answer(frame: bytes) -> tuple[int, str] | None:
    """Return which port a received frame is an answer of, and of what kind; None for all other traffic."""
    packet = frame[14:]
    with contextlib.suppress(IndexError, struct.error):
        if packet[0] >> 4 == 4:
            protocol, l4 = packet[9], packet[4 * (packet[0] & 15) :]
        else:
            protocol, l4 = packet[6], packet[40:]
        if (protocol == ICMP and l4[0] in (3, 11)) or (protocol == ICMP6 and l4[0] in (1, 2, 3, 4)):
            quoted = l4[8:]
            ports = quoted[4 * (quoted[0] & 15) :] if quoted[0] >> 4 == 4 else quoted[40:]
            own, port = struct.unpack_from(">HH", ports)
            return (port, "icmp") if own == OWN_PORT else None
        port, own = struct.unpack_from(">HH", l4)
        if own == OWN_PORT and protocol == TCP:
            return port, WORDS.get(l4[13], f"tcp flags {l4[13]:#x}")
        if own == OWN_PORT and protocol == UDP:
            return port, "udp"
    return None


def main() -> int:
    """Send, wait, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("device", "peer_mac", "source", "target"):
        parser.add_argument(name)
    parser.add_argument("protocol", choices=["tcp", "udp"])
    parser.add_argument("ports", nargs="?", default="1-65535")
    args = parser.parse_args()
    first, _, last = args.ports.partition("-")
    own_mac = Path(f"/sys/class/net/{args.device}/address").read_text().strip()
    macs = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in (args.peer_mac, own_mac))
    packet = Packet(macs, args.source, args.target, TCP if args.protocol == "tcp" else UDP)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as wire:
        wire.bind((args.device, ETH_P_ALL))
        wire.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        ports = range(int(first), int(last or first) + 1)
        for number, port in enumerate(ports):
            wire.send(packet.to(port))
            if number % BURST == BURST - 1:
                time.sleep(PAUSE_S)
        time.sleep(WAIT_S)
        wire.setblocking(False)
        answers: dict[int, str] = {}
        with contextlib.suppress(BlockingIOError):
            while True:
                data, where = wire.recvfrom(256)
                found = answer(data) if where[2] != socket.PACKET_OUTGOING else None
                if found:
                    answers[found[0]] = found[1]
    print(json.dumps({"sent": len(ports), "answers": answers}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
