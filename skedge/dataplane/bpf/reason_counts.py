"""Counters by reason: per-CPU arrays of `MAX_REASONS` 64-bit counts, the same layout in every program that refuses."""

from __future__ import annotations

import struct

from skedge.core.reasons import Reason
from skedge.dataplane.bpf import syscall

_CODE = struct.Struct("=I")
_WORD_BYTES = 8


def read(fd: int) -> dict[Reason, int]:
    """Return what was counted, by reason; a code of another version's list is left out. Raises DataplaneError."""
    size = _WORD_BYTES * syscall.possible_cpus()
    counts = {one: sum(_words(syscall.map_lookup(fd, _CODE.pack(one), size) or b"")) for one in Reason}
    return {reason: count for reason, count in counts.items() if count}


def move(source: int, to: int) -> None:
    """Add the counts of one map to those of another, and set them to 0, so that none is added twice.

    Raises:
        DataplaneError: a map cannot be read or written.
    """
    size = _WORD_BYTES * syscall.possible_cpus()
    for key, value in syscall.map_items(source, _CODE.size, size):
        here = syscall.map_lookup(to, key, size)
        if any(value) and here is not None:
            sums = (one + other for one, other in zip(_words(here), _words(value), strict=True))
            syscall.map_update(to, key, struct.pack(f"={size // _WORD_BYTES}Q", *sums))
            syscall.map_update(source, key, bytes(size))


def _words(value: bytes) -> tuple[int, ...]:
    return struct.unpack(f"={len(value) // _WORD_BYTES}Q", value)
