"""ICMP "unreachable" to the sender of a segment, as of a router that had no way for it: what RFC 6069 acts on.

To a socket of this host it goes over lo, to a machine of the LAN as any packet does. IPv4 says "host unreachable" and
IPv6 "no route to destination": Linux takes nothing else for it. Needs CAP_NET_RAW.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress

from skedge.core.stalls import Stalled
from skedge.dataplane.host.netlink import kernel_errors

A_SECOND = 100_000  # messages: 25,000 connections that are told at the first look
_BATCH = 500
_MAPPED = bytes(10) + b"\xff\xff"
_UNREACHABLE4 = struct.pack("!BBHI", 3, 1, 0, 0)
_UNREACHABLE6 = struct.pack("!BBHI", 1, 0, 0, 0)
_TCP, _HOPS, _HEADER = 6, 64, 20
_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER = 255, 1, 1


def message4(one: Stalled) -> bytes:
    """Return the ICMP message that quotes an IPv4 connection's first segment without acknowledgement."""
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 2 * _HEADER, 0, 0x4000, _HOPS, _TCP, 0) + one.local[12:] + one.remote[12:]
    quote = ip[:10] + _checksum(ip) + ip[12:] + _segment(one)
    return _UNREACHABLE4[:2] + _checksum(_UNREACHABLE4 + quote) + _UNREACHABLE4[4:] + quote


def message6(one: Stalled) -> bytes:
    """Return the same of IPv6; the kernel fills in the checksum."""
    ip = struct.pack("!IHBB", 6 << 28, _HEADER, _TCP, _HOPS) + one.local + one.remote
    return _UNREACHABLE6 + ip + _segment(one)


def _segment(one: Stalled) -> bytes:
    """Return as much of the TCP header as identifies the segment: the first 8 bytes."""
    return struct.pack("!HHI", one.local_port, one.remote_port, one.sequence)


def _checksum(data: bytes) -> bytes:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return (~(total + (total >> 16)) & 0xFFFF).to_bytes(2)


def tell(wanted: Iterable[tuple[Stalled, int]]) -> None:
    """Send each its message so many times, `A_SECOND` in all. Raises DataplaneError where no socket can be made.

    One that cannot be sent is left out: its machine has no way back either.
    """
    with kernel_errors("tell connections that their path is back"), ExitStack() as stack:
        four, six = (stack.enter_context(_raw(family)) for family in (socket.AF_INET, socket.AF_INET6))
        began, sent = time.monotonic(), 0
        for one, times in wanted:
            if one.local.startswith(_MAPPED):
                made, message, to = four, message4(one), socket.inet_ntop(socket.AF_INET, one.local[12:])
            else:
                made, message, to = six, message6(one), socket.inet_ntop(socket.AF_INET6, one.local)
            with suppress(OSError):
                for _ in range(times):
                    made.sendto(message, (to, 0))
            sent += times
            if sent % _BATCH < times:
                time.sleep(max(0.0, began + sent / A_SECOND - time.monotonic()))


def _raw(family: socket.AddressFamily) -> socket.socket:
    """Return a raw ICMP socket that sends only: nothing that comes is let in."""
    six = family == socket.AF_INET6
    made = socket.socket(
        family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    )
    made.setblocking(False)
    if six:
        made.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, b"\xff" * 32)
    else:
        made.setsockopt(_SOL_RAW, _ICMP_FILTER, b"\xff" * 4)
    return made
