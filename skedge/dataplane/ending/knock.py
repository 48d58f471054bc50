"""Make both ends of a connection that nothing translates any more learn of it at once (needs CAP_NET_RAW).

Each gets an acknowledgement outside of its window from the other's address. It answers with one of its own, as TCP
does to whatever it does not expect (RFC 9293, 3.10.7.4). For that there is no flow and no socket any more, so the
host's stack sends a reset with the very number that is asked for. No number of the connection need be known here.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from ipaddress import ip_address

from skedge.core.objects import Target
from skedge.dataplane.host.netlink import kernel_errors

_ACK = 0x10
_HOPS = 64
_HALF = 1 << 31  # of two numbers so far apart at least one is outside of any window
_TCP = struct.Struct("!HHIIBBHHH")


def knock(ends: Iterable[tuple[Target, Target]]) -> None:
    """Send such packets from the first to the second of each pair; one that has no route is left out.

    Raises DataplaneError: no such socket can be made.
    """
    with (
        kernel_errors("tell the ends of flows"),
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as four,
        socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as six,
    ):
        for sender, receiver in ends:
            version = ip_address(receiver.address).version
            for number in (0, _HALF):
                try:
                    sock = four if version == 4 else six
                    sock.sendto(packet(sender, receiver, number), (receiver.address, 0))
                except OSError:
                    break  # the next packet of that end is answered then


def packet(sender: Target, receiver: Target, number: int) -> bytes:
    """Return an acknowledgement with its IP header. The kernel fills in the header's checksum."""
    source, destination = ip_address(sender.address), ip_address(receiver.address)
    fields = sender.port, receiver.port, number, number, 5 << 4, _ACK, 0
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
