"""The layouts of listeners and of affinity in bpf/placement/types.h: packing and unpacking, nothing else."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

from skedge.core.placement.policies import SCHEDULE_SIZE
from skedge.dataplane.ebpf.layout_service import MAX_SERVICES

AFFINITY_KEY = struct.Struct("=I16s")
AFFINITY = struct.Struct("=QQ")
PRESERVES_SRC = 1


@dataclass(frozen=True, slots=True)
class ListenerValue:
    """Where a listener's connections go, by service ids (struct listener); ``schedule`` holds the turns in use."""

    service: int
    schedule: tuple[int, ...] = ()
    affinity_s: int = 0
    preserves_src: bool = False

    STRUCT: ClassVar[struct.Struct] = struct.Struct(f"=IIQII{MAX_SERVICES // 8}s{2 * SCHEDULE_SIZE}s")

    @property
    def services(self) -> frozenset[int]:
        """Return all ids that the value names."""
        return frozenset({self.service, *self.schedule})

    @classmethod
    def unpack(cls, raw: bytes) -> ListenerValue:
        """Return the value."""
        service, affinity_s, _, shares, flags, _, schedule = cls.STRUCT.unpack(raw)
        turns = struct.unpack_from(f"={min(shares, SCHEDULE_SIZE)}H", schedule)
        return cls(service, turns, affinity_s, bool(flags & PRESERVES_SRC))

    @staticmethod
    def without_position(raw: bytes) -> bytes:
        """Return the bytes that only the controller writes."""
        return raw[:8] + raw[16:]

    def pack(self) -> bytes:
        """Return the bytes of the struct, before its first turn."""
        members = sum(1 << ident for ident in set(self.schedule)).to_bytes(MAX_SERVICES // 8, "little")
        turns = struct.pack(f"={len(self.schedule)}H", *self.schedule)
        flags = PRESERVES_SRC if self.preserves_src else 0
        return self.STRUCT.pack(self.service, self.affinity_s, 0, len(self.schedule), flags, members, turns)
