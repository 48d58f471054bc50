"""The layouts of services and their slots in bpf/placement/types.h: packing and unpacking, nothing else."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import ClassVar

from skedge.core.objects import Target

MAX_SERVICES = 1024
MAX_WORKLOADS = 256
SIZES = (8, 32, 256)
FIRST_CHOICE = 256
U32 = (1 << 32) - 1
USED, IN, T4, T6, ANY, OWN_SITE, OFF_HOST, PRESERVES_SRC = (1 << bit for bit in range(8))
OUT_SHIFT = 8
IN_FLAGS = {
    "own_site": OWN_SITE,
    "off_host": OFF_HOST,
    "preserves_src": PRESERVES_SRC,
}  # fields of a candidate as they are -> their bits
APPLY_CONTROL, APPLY_OTHERS, APPLY_RESET, APPLY_RESUME, APPLY_DELTA, APPLY_NAT = (1 << bit for bit in range(6))


@dataclass(frozen=True, slots=True)
class Slot:
    """One workload's slot (struct slot)."""

    path_cost: int
    capacity: int
    others: int
    flags: int
    mine: int
    last: int
    chosen: int
    refused: int
    suspended: int
    addr4: bytes
    port4: bytes
    port6: bytes
    addr6: bytes
    generation: int
    nat: int

    @property
    def target4(self) -> Target | None:
        """Return where an IPv4 connection goes."""
        return Target(socket.inet_ntoa(self.addr4), int.from_bytes(self.port4)) if self.flags & T4 else None

    @property
    def target6(self) -> Target | None:
        """Return where an IPv6 connection goes."""
        return Target(str(IPv6Address(self.addr6)), int.from_bytes(self.port6)) if self.flags & T6 else None


@dataclass(frozen=True, slots=True)
class Service:
    """One service's value (struct service); ``slots`` holds those that are scanned."""

    size: int
    version: int
    epoch: int
    choices: int
    stale: int
    underflow: int
    slots: tuple[Slot, ...]

    HEADER: ClassVar[struct.Struct] = struct.Struct("=II7Q")
    SLOT: ClassVar[struct.Struct] = struct.Struct("=4I3QII4s2s2s16sII")
    SIZE: ClassVar[int] = HEADER.size + MAX_WORKLOADS * SLOT.size
    CONTROL: ClassVar[tuple[slice, ...]] = (slice(0, 8), slice(12, 16), slice(48, 76))  # of a slot

    @classmethod
    def control(cls, raw: bytes, slots: Iterable[int]) -> bytes:
        """Return the size, and of these slots what only the controller writes, but for the load of other sites."""
        starts = [cls.HEADER.size + index * cls.SLOT.size for index in sorted(slots)]
        parts = [raw[start + part.start : start + part.stop] for start in starts for part in cls.CONTROL]
        return raw[4:8] + b"".join(parts)

    @classmethod
    def unpack(cls, raw: bytes) -> Service:
        """Return the value; a size that is not set yet is the smallest."""
        _, size, version, epoch, choices, stale, underflow, _, _ = cls.HEADER.unpack_from(raw)
        size = size or SIZES[0]
        end = cls.HEADER.size + size * cls.SLOT.size
        fields = cls.SLOT.iter_unpack(raw[cls.HEADER.size : end])
        return cls(size, version, epoch, choices, stale, underflow, tuple(Slot(*one) for one in fields))


@dataclass(frozen=True, slots=True)
class StagedSlot:
    """What the apply program shall take over for one slot (struct staged_slot)."""

    apply: int = 0
    path_cost: int = 0
    capacity: int = 1
    others: int = 0
    flags: int = 0
    target4: Target | None = None
    target6: Target | None = None
    generation: int = 0
    rank: int = 0
    delta: int = 0

    STRUCT: ClassVar[struct.Struct] = struct.Struct("=5I4s2s2s16sIIi")

    def pack(self) -> bytes:
        """Return the bytes of the struct."""
        four, six = self.target4 or Target("0.0.0.0", 0), self.target6 or Target("::", 0)  # noqa: S104
        return self.STRUCT.pack(
            *(self.apply, self.path_cost, self.capacity, self.others, self.flags),
            *(socket.inet_aton(four.address), four.port.to_bytes(2), six.port.to_bytes(2)),
            *(IPv6Address(six.address).packed, self.generation, self.rank, self.delta),
        )


@dataclass(frozen=True, slots=True)
class Staged:
    """One service's table on its way (struct staged); version 0 leaves version and size as they are."""

    service: int
    slots: dict[int, StagedSlot]
    size: int = 0
    version: int = 0

    HEADER: ClassVar[struct.Struct] = struct.Struct("=IIQ")
    SIZE: ClassVar[int] = HEADER.size + MAX_WORKLOADS * StagedSlot.STRUCT.size

    def pack(self) -> bytes:
        """Return the bytes of the struct."""
        raw = bytearray(self.SIZE)
        self.HEADER.pack_into(raw, 0, self.service, self.size, self.version)
        for index, slot in self.slots.items():
            at = self.HEADER.size + index * StagedSlot.STRUCT.size
            raw[at : at + StagedSlot.STRUCT.size] = slot.pack()
        return bytes(raw)
