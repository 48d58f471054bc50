"""What a recount left, and what is corrected; what of many records is looked at."""

from __future__ import annotations

import struct
import sys
from dataclasses import replace

from skedge.core.model import Protocol
from skedge.core.observed import FlowKind, FlowSums
from skedge.dataplane.ebpf import layout_placement as layout
from skedge.dataplane.ebpf import layout_service, views
from skedge.dataplane.ebpf.lan.layout_flow import FlowTotals
from skedge.dataplane.ebpf.recount import Recount, corrections

SLOTS = layout_service.MAX_WORKLOADS
SLOT = layout_service.Slot(*[0] * 9, bytes(4), bytes(2), bytes(2), bytes(16), 1, 0)


def left(mine: dict[int, int], nat: dict[int, int], generation: int = 1) -> bytes:
    words = [[of.get(slot, 0) for slot in range(SLOTS)] for of in (mine, nat)]
    return Recount.STRUCT.pack(7, 0, *[generation] * SLOTS, *words[0], *words[1])


def test_where_everything_is_found_nothing_is_left() -> None:
    assert Recount.is_over(left({}, {}))
    assert not Recount.is_over(left({255: -1}, {}))
    assert not Recount.is_over(left({}, {255: 1}))


def test_only_what_is_still_the_same_workload_is_corrected() -> None:
    found = Recount.unpack(left({0: 3, 1: -2, 2: 1}, {0: 1}))
    slots = [SLOT, SLOT, replace(SLOT, generation=2), SLOT]
    assert corrections(found, slots) == {0: (3, 1), 1: (-2, 0)}


def test_sums_of_a_sweep_in_the_words_of_the_core() -> None:
    totals = FlowTotals.unpack(struct.pack("=16Q", 0, 1, 2, 3, 4, 5, 0, 0, 9, *[0] * 7))
    kinds = {FlowKind.LOCAL: 6, FlowKind.REMOTE: 2, FlowKind.LAN: 3, FlowKind.OVERLAY: 4}
    assert views.sums(totals) == FlowSums(kinds, 9)
    assert views.sums(FlowTotals.unpack(bytes(128))) == FlowSums({}, 0)


def record(cookie: int, placed: int, placed_at: int, protocol: Protocol) -> bytes:
    number = layout.PROTOCOLS[protocol]
    head = (cookie, bytes(16), 0, 0, placed, placed_at, 0, bytes(16), bytes(16), bytes(2), 0, bytes(2), 0, number)
    return layout.PlacementRecord.STORED.pack(*head, *[0] * 17, *[0] * layout.SPARE_WORDS)


def test_of_many_records_those_are_read_that_are_asked_for() -> None:
    tcp, udp, open_ = Protocol.TCP, Protocol.UDP, layout.PLACED_VALID
    some = [(1, open_, 5, tcp), (2, open_, 9, udp), (3, 0, 9, udp), (1 << 40, open_ | 1, 10, udp)]
    raw = b"".join(record(*one) for one in some)
    packed = layout.PlacementRecord.STORED
    assert [one.cookie for one in layout.PlacementRecord.unpack_all(raw, packed)] == [1, 2, 1 << 40]
    assert [one.cookie for one in layout.PlacementRecord.unpack_all(raw, packed, 9)] == [2, 1 << 40]
    assert len(list(layout.PlacementRecord.unpack_all(raw, packed, closed=True))) == 4
    if sys.byteorder == "little":
        assert list(layout.PlacementRecord.cookies(raw, udp)) == [2, 1 << 40]
        assert list(layout.PlacementRecord.cookies(raw, tcp)) == [1]
