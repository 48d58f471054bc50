"""The messages by which connections are told, octet by octet."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from skedge.core.stalls import Stalled, StallKind
from skedge.dataplane.ebpf import stalled
from skedge.dataplane.host.unreachable import message4, message6

MAPPED = bytes(10) + b"\xff\xff"
FOUR = MAPPED + ip_address("100.64.0.1").packed, MAPPED + ip_address("100.64.0.2").packed
SIX = ip_address("fd77::1").packed, ip_address("fd77::2").packed


def one(addresses: tuple[bytes, bytes]) -> Stalled:
    return Stalled(StallKind.SENT, addresses[0], 40000, addresses[1], 61000, addresses[1], 0xFEDCBA98)


def total(data: bytes) -> int:
    """The Internet checksum with the one that is inside: 0 where it is right."""
    number = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while number >> 16:
        number = (number & 0xFFFF) + (number >> 16)
    return number ^ 0xFFFF


def test_ipv4_says_that_there_is_no_way_to_the_host() -> None:
    message = message4(one(FOUR))
    assert message[:2] == b"\3\1"
    assert len(message) == 8 + 20 + 8
    assert total(message) == total(message[8:28]) == 0
    assert message[20:28] == ip_address("100.64.0.1").packed + ip_address("100.64.0.2").packed
    assert struct.unpack("!HHI", message[28:]) == (40000, 61000, 0xFEDCBA98)


def test_ipv6_says_that_there_is_no_route() -> None:
    message = message6(one(SIX))
    assert message[:2] == b"\1\0"
    assert len(message) == 8 + 40 + 8
    assert (message[8] >> 4, message[14]) == (6, 6)
    assert message[16:48] == b"".join(SIX)
    assert struct.unpack("!HHI", message[48:]) == (40000, 61000, 0xFEDCBA98)


def test_records_are_read_one_by_one_and_a_part_of_one_is_left() -> None:
    packed = stalled.RECORD.pack(*FOUR, FOUR[1], 40000, 61000, 0xFEDCBA98, 0, 1, 5, 0)
    other = stalled.RECORD.pack(*SIX, FOUR[1], 1, 2, 3, 4500, 4, 0, 0)
    first, second = stalled.unpack_all(packed + other + packed[:-1])
    assert first == Stalled(StallKind.SENT, FOUR[0], 40000, FOUR[1], 61000, FOUR[1], 0xFEDCBA98, backoff=5)
    assert second == Stalled(StallKind.FLOW, SIX[0], 1, SIX[1], 2, FOUR[1], 3, unanswered_ms=4500)
