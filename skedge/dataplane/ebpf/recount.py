"""Compare what services count with what is stored, exactly, while connections come and go (bpf/placement/recount.h).

The kernel adds up: it walks through all placements in calls in which the interpreter is free, and the engine's lock is
held for moments only. So `run` may be called on a thread of its own.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from skedge.core.observed import FlowSums
from skedge.dataplane.bpf import grace
from skedge.dataplane.ebpf import layout_service as layout
from skedge.dataplane.ebpf import views
from skedge.dataplane.ebpf.maps import Maps

WALKS = 4  # at most; what one walk misses at its pauses, which are moments, the next one finds

Missing = tuple[int, int]
"""What a slot counts too much: open connections, and those of them that hold a NAT port."""


@dataclass(frozen=True, slots=True)
class Recount:
    """How far one service is (struct recount): of each slot its generation at the beginning, and what is not found."""

    generations: tuple[int, ...]
    missing: tuple[Missing, ...]

    STRUCT: ClassVar[struct.Struct] = struct.Struct(f"=2I{layout.MAX_WORKLOADS}I{2 * layout.MAX_WORKLOADS}i")
    _FOUND: ClassVar[int] = 4 * (2 + layout.MAX_WORKLOADS)  # bytes before what is to be found

    @classmethod
    def is_over(cls, raw: bytes) -> bool:
        """Return whether everything is found."""
        return not any(raw[cls._FOUND :])

    @classmethod
    def unpack(cls, raw: bytes) -> Recount:
        """Return the value."""
        _, _, *slots = cls.STRUCT.unpack(raw)
        generations, mine, nat = (
            slots[at : at + layout.MAX_WORKLOADS] for at in range(0, len(slots), layout.MAX_WORKLOADS)
        )
        return cls(tuple(generations), tuple(zip(mine, nat, strict=True)))


def corrections(found: Recount, slots: Iterable[layout.Slot]) -> dict[int, Missing]:
    """Return by slot what is to be taken off its counters; not of one that another workload has by now."""
    return {
        index: missing
        for index, (slot, generation, missing) in enumerate(zip(slots, found.generations, found.missing, strict=False))
        if any(missing) and slot.generation == generation
    }


class Recounting:
    """Runs recounts of all services."""

    def __init__(
        self, maps: Maps, lock: threading.RLock, wait: Callable[[], None] = grace.wait_for_programs, walks: int = WALKS
    ) -> None:
        self._maps, self._lock, self._wait, self._walks = maps, lock, wait, walks
        self._running = threading.Lock()

    def run(self, idents: Iterable[int], sweep_before: int = 0) -> int:
        """Recount these services, repair what is wrong, return the sum of differences.

        Args:
            idents: ids of services.
            sweep_before: UDP flows of sockets are ended that had no datagram since (ns since boot).
        """
        with self._running:
            open_ = set(idents)
            for ident in open_:
                self._maps.recount_begin(ident)
            left: dict[int, Recount] = {}
            for _ in range(self._walks):
                self._walk(sweep_before)
                left = self._left(open_)
                open_ = set(left)
                if not left:
                    break
            return sum(self._repair(ident, found) for ident, found in left.items())

    def sweep(self) -> FlowSums:
        """End the flows of the LAN that were idle for too long; return what there is."""
        with self._running:
            self._maps.flows.sweep()
            return views.sums(self._maps.flows.totals())

    def sweep_udp(self, before: int) -> None:
        """End the UDP flows of sockets that had no datagram since (ns since boot)."""
        with self._running:
            for pin in self._maps.recounts():
                self._walk_sockets(pin, before)

    def _walk(self, sweep_before: int) -> None:
        """Find all that is stored, in the order in which words move: from flows to sockets, from old storage to new."""
        self._wait()
        self._maps.flows.sweep()
        for pin in self._maps.recounts():
            self._wait()
            self._walk_sockets(pin, sweep_before)
        self._wait()

    def _walk_sockets(self, pin: str, sweep_before: int) -> None:
        self._set_sweep(sweep_before)
        try:
            self._maps.walk(pin)
        finally:
            self._set_sweep(0)

    def _set_sweep(self, before: int) -> None:
        with self._lock:
            self._maps.set_config(self._maps.config().replace(sweep_before=before))

    def _left(self, idents: Iterable[int]) -> dict[int, Recount]:
        found = {ident: self._maps.recount(ident, Recount.STRUCT.size) for ident in idents}
        return {ident: Recount.unpack(raw) for ident, raw in found.items() if not Recount.is_over(raw)}

    def _repair(self, ident: int, found: Recount) -> int:
        apply = layout.APPLY_DELTA | layout.APPLY_NAT
        with self._lock:
            wrong: Mapping[int, Missing] = corrections(found, self._maps.service(ident).slots)
            staged = {
                index: layout.StagedSlot(apply, delta=-mine, rank=-nat & layout.U32)
                for index, (mine, nat) in wrong.items()
            }
            if staged:
                self._maps.apply(layout.Staged(ident, staged))
        return sum(abs(number) for missing in wrong.values() for number in missing)
