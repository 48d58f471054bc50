"""Where fields lie in the running kernel's structs, from its own type information (/sys/kernel/btf/vmlinux).

Format: Documentation/bpf/btf.rst of the kernel. Only what is needed to find a member of a struct is decoded.
"""

from __future__ import annotations

import functools
import platform
import struct
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from skedge.core.errors import HostError

VMLINUX = "/sys/kernel/btf/vmlinux"
_MAGIC = 0xEB9F
_STRUCT, _UNION, _ENUM, _FUNCTION = 4, 5, 6, 12
_UNSUPPORTED = f"this kernel ({platform.release()}) is not supported"
# Words (32 bits) that follow the three of a type's header: fixed, and per member (vlen).
_TAIL = {
    1: (1, 0),
    3: (3, 0),
    _STRUCT: (0, 3),
    _UNION: (0, 3),
    _ENUM: (0, 2),
    13: (0, 2),
    14: (1, 0),
    15: (0, 3),
    17: (1, 0),
    19: (0, 3),
}
_FIXED = tuple(3 + _TAIL.get(kind, (0, 0))[0] for kind in range(32))
_EACH = tuple(_TAIL.get(kind, (0, 0))[1] for kind in range(32))


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


def enumerators(names: Collection[str], path: str = VMLINUX) -> Mapping[str, int]:
    """Return the numbers of these constants of one enumeration, in their order; nothing where the kernel lacks any.

    Raises HostError: the kernel has no type information.
    """
    found = _types(path).enumerators(names)
    return {name: found[name] for name in names} if len(found) == len(set(names)) else {}


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
    """All types of a BTF blob: where they start, in words, by type id."""

    def __init__(self, blob: bytes) -> None:
        magic, _, _, header, type_offset, type_size, text_offset, text_size = struct.unpack_from("=HBBIIIII", blob)
        if magic != _MAGIC:
            raise HostError(f"{VMLINUX}: not BTF of this machine's byte order")
        self._text = blob[header + text_offset : header + text_offset + text_size]
        self._types = blob[header + type_offset : header + type_offset + type_size]
        self._words = words = array("I", self._types)  # all fields are 32-bit words, or pairs of them
        self._starts = starts = [0]  # type id 0 is void
        at, end = 0, len(words)
        while at < end:  # some 100,000 times: what is asked for is looked up later
            starts.append(at)
            info = words[at + 1]
            kind = info >> 24 & 0x1F
            at += _FIXED[kind] + _EACH[kind] * (info & 0xFFFF)

    def _name(self, offset: int) -> str:
        return self._text[offset : self._text.index(b"\0", offset)].decode()

    def _ident(self, name: str, kind: int) -> int | None:
        """Return the type id of a function, or of a struct that is more than declared; None where there is none."""
        text = self._text.find(b"\0" + name.encode() + b"\0") + 1
        wanted, at = struct.pack("=I", text), 0
        while text and (at := self._types.find(wanted, at)) >= 0:
            ident = bisect_left(self._starts, at // 4, 1)
            if not at % 4 and ident < len(self._starts) and self._starts[ident] == at // 4:
                info = self._words[at // 4 + 1]
                if info >> 24 & 0x1F == kind and (kind == _FUNCTION or info & 0xFFFF):
                    return ident
            at += 1
        return None

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

    def enumerators(self, names: Collection[str]) -> Mapping[str, int]:
        """Return the numbers of those of these constants that there are, wherever each is."""
        texts = {self._text.find(b"\0" + name.encode() + b"\0") + 1: name for name in names}
        texts.pop(0, None)
        found: dict[str, int] = {}
        for start in self._starts[1:] if texts else ():
            info = self._words[start + 1]
            if info >> 24 & 0x1F == _ENUM:
                for at in range(start + 3, start + 3 + 2 * (info & 0xFFFF), 2):
                    if self._words[at] in texts:
                        found[texts[self._words[at]]] = self._words[at + 1]
        return found

    def _flat(self, start: int, base: int) -> Iterable[tuple[str, int]]:
        info = self._words[start + 1]
        for at in range(start + 3, start + 3 + 3 * (info & 0xFFFF), 3):
            name_offset, kind, offset = self._words[at : at + 3]
            bits = base + (offset & 0xFFFFFF if info >> 31 else offset)
            if name_offset:
                yield self._name(name_offset), bits
            elif self._words[self._starts[kind] + 1] >> 24 & 0x1F in (_STRUCT, _UNION):
                yield from self._flat(self._starts[kind], bits)
