"""Where fields lie in the running kernel's structs, from its own type information (/sys/kernel/btf/vmlinux).

Format: Documentation/bpf/btf.rst of the kernel. Only what is needed to find a member of a struct is decoded.
"""

from __future__ import annotations

import functools
import platform
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from skedge.core.errors import HostError

VMLINUX = "/sys/kernel/btf/vmlinux"
_MAGIC = 0xEB9F
_STRUCT, _UNION, _FUNCTION = 4, 5, 12
_UNSUPPORTED = f"this kernel ({platform.release()}) is not supported"
# Bytes that follow the 12-byte header of a type: fixed, and per member (vlen).
_TAIL = {
    1: (4, 0),
    3: (12, 0),
    _STRUCT: (0, 12),
    _UNION: (0, 12),
    6: (0, 8),
    13: (0, 8),
    14: (4, 0),
    15: (0, 12),
    17: (4, 0),
    19: (0, 12),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member begins: bytes from the start of its struct, and the lowest bit within that byte."""

    byte: int
    bit: int


def member_places(wanted: Mapping[str, Iterable[str]], path: str = VMLINUX) -> Mapping[tuple[str, str], Place]:
    """Return where members lie, by (struct, member); members of nested anonymous structs belong to the outer one.

    Raises:
        HostError: the kernel has no type information, or it lacks one of the members.
    """
    types = _types(path)
    found: dict[tuple[str, str], Place] = {}
    for name, members in wanted.items():
        places = types.members(name)
        for member in members:
            if member not in places:
                raise HostError(
                    f"{path}: struct {name} has no member {member}; this kernel ({platform.release()}) is not supported"
                )
            found[name, member] = Place(places[member] // 8, places[member] % 8)
    return found


def function_ids(names: Iterable[str], path: str = VMLINUX) -> Mapping[str, int]:
    """Return the type id of each of these functions of the kernel. Raises HostError."""
    wanted = set(names)
    if not wanted:
        return {}
    found = _types(path).functions(wanted)
    for name in sorted(wanted - found.keys()):
        raise HostError(f"{path}: no function {name}; {_UNSUPPORTED}")
    return found


@functools.lru_cache(maxsize=1)
def _types(path: str) -> _Types:
    """Read the types once a process: the loader, which lives for a second, asks twice."""
    return _Types(_read(path))


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise HostError(
            f"{path}: {error.strerror}; skedge needs a kernel with BTF (CONFIG_DEBUG_INFO_BTF), as Debian 11+,"
            " Ubuntu 20.10+ and RHEL 8.2+ have"
        ) from error


class _Types:
    """All types of a BTF blob: their headers' offsets by type id, and the ids of structs and functions by name."""

    def __init__(self, blob: bytes) -> None:
        magic, _, _, header, type_offset, type_size, text_offset, text_size = struct.unpack_from("=HBBIIIII", blob)
        if magic != _MAGIC:
            raise HostError(f"{VMLINUX}: not BTF of this machine's byte order")
        self._blob = blob
        self._text = blob[header + text_offset : header + text_offset + text_size]
        self._starts = starts = [0]  # type id 0 is void
        self._named: dict[int, int] = {}  # type ids by name offset and kind: one pass, as there are some 100,000 types
        at, end = header + type_offset, header + type_offset + type_size
        head_of, tail_of, nothing = struct.Struct("=II").unpack_from, _TAIL.get, (0, 0)
        while at < end:
            name, info = head_of(blob, at)
            kind = info >> 24 & 0x1F
            if kind == _FUNCTION or (kind == _STRUCT and info & 0xFFFF):
                self._named.setdefault(name << 5 | kind, len(starts))
            starts.append(at)
            fixed, each = tail_of(kind, nothing)
            at += 12 + fixed + each * (info & 0xFFFF)

    def _name(self, offset: int) -> str:
        return self._text[offset : self._text.index(b"\0", offset)].decode()

    def _ident(self, name: str, kind: int) -> int | None:
        offset = self._text.find(b"\0" + name.encode() + b"\0") + 1
        return self._named.get(offset << 5 | kind) if offset else None

    def members(self, name: str) -> Mapping[str, int]:
        """Return the bit offset of each member of the struct."""
        ident = self._ident(name, _STRUCT)
        if ident is None:
            raise HostError(f"{VMLINUX}: no struct {name}; {_UNSUPPORTED}")
        return dict(self._flat(self._starts[ident], 0))

    def functions(self, names: Collection[str]) -> Mapping[str, int]:
        """Return the type id of each of these functions that there is."""
        found = ((name, self._ident(name, _FUNCTION)) for name in names)
        return {name: ident for name, ident in found if ident is not None}

    def _flat(self, start: int, base: int) -> Iterable[tuple[str, int]]:
        info = struct.unpack_from("=I", self._blob, start + 4)[0]
        for i in range(info & 0xFFFF):
            name_offset, kind, offset = struct.unpack_from("=III", self._blob, start + 12 + 12 * i)
            bits = base + (offset & 0xFFFFFF if info >> 31 else offset)
            if name_offset:
                yield self._name(name_offset), bits
            elif struct.unpack_from("=I", self._blob, self._starts[kind] + 4)[0] >> 24 & 0x1F in (_STRUCT, _UNION):
                yield from self._flat(self._starts[kind], bits)
