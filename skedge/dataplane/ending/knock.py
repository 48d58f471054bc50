"""Make both ends of a connection that nothing translates any more learn of it at once (needs CAP_NET_RAW).

Each gets an acknowledgement from the other's address that is older than its window. It answers with one of its own, as
TCP does to whatever it does not expect (RFC 9293, 3.10.7.4). For that there is no flow and no socket any more, so the
host's stack sends a reset with the very number that is asked for: here it need not be known exactly.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from skedge.core.objects import Target
from skedge.dataplane.host.netlink import kernel_errors

_ACK = 0x10
_HOPS = 64
_OLD = 1 << 21  # older than what is on its way to one that is idle, and near enough for flows that follow the numbers
_NUMBERS = (1 << 32) - 1
_TCP = struct.Struct("!HHIIBBHHH")


@dataclass(frozen=True, slots=True)
class Knock:
    """One end to be told: whose address it hears, and what that one has about sent and heard (sequence numbers)."""

    sender: Target
    receiver: Target
    sent: int
    heard: int


def knock(ends: Iterable[Knock]) -> None:
    """Send such a packet to each; one that has no route is told by its next packet.

    Raises DataplaneError: no such socket can be made.
    """
    with (
        kernel_errors("tell the ends of flows"),
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as four,
        socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as six,
    ):
        for one in ends:
            sock = four if ip_address(one.receiver.address).version == 4 else six
            with suppress(OSError):
                sock.sendto(packet(one), (one.receiver.address, 0))


def packet(one: Knock) -> bytes:
    """Return the acknowledgement with its IP header. The kernel fills in the header's checksum."""
    source, destination = ip_address(one.sender.address), ip_address(one.receiver.address)
    fields = one.sender.port, one.receiver.port, one.sent - _OLD & _NUMBERS, one.heard, 5 << 4, _ACK, 0
    pseudo = source.packed + destination.packed + struct.pack("!II", _TCP.size, socket.IPPROTO_TCP)
    segment = _TCP.pack(*fields, _sum(pseudo + _TCP.pack(*fields, 0, 0)), 0)
    if source.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(segment), socket.IPPROTO_TCP, _HOPS)
    else:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, _HOPS, socket.IPPROTO_TCP, 0)
    return head + source.packed + destination.packed + segment


def _sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
