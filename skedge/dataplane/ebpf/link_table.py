"""The table of link devices that the packet programs ask by interface index (bpf/common/link_maps.h).

An array, so that a packet costs no hash: a device has the slot of its index, or one of the next three.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.core.model import LinkId
from skedge.dataplane.bpf import syscall

TABLE_MAP = "link_table_v2"
ENTRY = struct.Struct("=16s16s6sHI2I")
ENTRIES, PROBES = 1024, 4
_ENTRY = struct.Struct("=I")


def pack_entry(own: bytes, peer: bytes, peer_mac: bytes, flags: int, index: int, programs: Sequence[int]) -> bytes:
    """Return an entry; ``programs`` are the ids of the attached programs, ingress and egress (0: none)."""
    return ENTRY.pack(own, peer, peer_mac, flags, index, *programs)


def path_number(link: LinkId) -> int:
    """Return the number of a link among those that packets of a site may come by: made of its name, 0 to 31."""
    return zlib.crc32(str(link).encode()) & 31


def path_bit(link: LinkId) -> int:
    """Return the bit of a link in a set of them, as `path_bit` of bpf/common/packet.h."""
    return 1 << path_number(link)


class LinkTable:
    """Entries by interface index, on the pinned map."""

    def __init__(self, pin: Path) -> None:
        self._pin = pin

    def _map(self) -> syscall.Fd:
        return syscall.Fd(syscall.obj_get(str(self._pin)))

    def get(self, index: int) -> bytes | None:
        """Return an interface's entry, None when it has none."""
        with self._map() as fd:
            return next((raw for _, raw in _entries(fd, index) if _index(raw) == index), None)

    def programs(self, index: int) -> Sequence[int]:
        """Return the remembered program ids of an interface, zeros when it has no entry."""
        raw = self.get(index)
        return ENTRY.unpack(raw)[5:7] if raw else (0, 0)

    def put(self, index: int, entry: bytes) -> None:
        """Create or replace an interface's entry. Raises DataplaneError when all its slots are taken."""
        with self._map() as fd:
            found = list(_entries(fd, index))
            place = next((place for place, raw in found if _index(raw) == index), None)
            if place is None:
                place = next((place for place, raw in found if _index(raw) == 0), None)
            if place is None:
                raise DataplaneError(
                    f"interface {index}: the packet check has no room for another link device with such an index;"
                    " make the device anew"
                )
            syscall.map_update(fd, _ENTRY.pack(place), entry)

    def delete(self, index: int) -> None:
        """Remove an interface's entry, if it has one."""
        with self._map() as fd:
            for place, raw in _entries(fd, index):
                if _index(raw) == index:
                    syscall.map_update(fd, _ENTRY.pack(place), bytes(ENTRY.size))


def _index(raw: bytes) -> int:
    return int(ENTRY.unpack(raw)[4])


def _entries(fd: int, index: int) -> Iterator[tuple[int, bytes]]:
    """Yield the slots that an interface may have, with what is in them."""
    for place in ((index + i) % ENTRIES for i in range(PROBES)):
        yield place, syscall.map_lookup(fd, _ENTRY.pack(place), ENTRY.size) or bytes(ENTRY.size)
