"""Bytecode as files: what the compiler made of one C unit, for any kernel and any process. Pure.

A file is a header (big-endian) and a deflated msgpack document:

    8 bytes  magic "skedgeBC"
    u16      version of the format
    u8       byte order of the instructions, 1 little, 2 big; then a spare byte
    u32      length of what follows the header
    32 bytes SHA-256 of what follows the header
"""

from __future__ import annotations

import hashlib
import struct
import sys
import zlib
from collections.abc import Sequence

import msgspec

from skedge.core.errors import HostError
from skedge.loader.instructions import SIZE, References

VERSION = 1
_MAGIC = b"skedgeBC"
_HEADER = struct.Struct(">8sHBxI32s")
_ORDERS = {"little": 1, "big": 2}
_UNPACKED_MAX = 64 << 20  # bytes


class MapImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A map to be made: numbers as bpf(2) takes them; type ids (0: none) are of the unit's type information."""

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    key_type: int = 0
    value_type: int = 0


class ProgramImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A program: its C function, and its instructions with zeros where ``maps`` and ``constants`` are to be put."""

    function: str
    type: int
    attach: int
    licence: str
    instructions: bytes
    maps: References
    constants: References


class Unit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one compilation made; ``digest`` is of everything that it was made from, ``compiler`` says what made it."""

    source: str
    digest: str
    compiler: str
    maps: tuple[MapImage, ...]
    programs: tuple[ProgramImage, ...]
    types: bytes = b""

    def program(self, function: str) -> ProgramImage:
        """Return a program by its C function. Raises HostError."""
        for one in self.programs:
            if one.function == function:
                return one
        raise HostError(f"the bytecode of {self.source} has no program {function}")


def encode(units: Sequence[Unit]) -> bytes:
    """Return units as the bytes of a file."""
    packed = zlib.compress(msgspec.msgpack.encode(units), 6)
    order = _ORDERS[sys.byteorder]
    return _HEADER.pack(_MAGIC, VERSION, order, len(packed), hashlib.sha256(packed).digest()) + packed


def decode(data: bytes, name: str) -> tuple[Unit, ...]:
    """Return the units of a file; ``name`` is how errors call it. Raises HostError."""
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise HostError(f"{name}: not bytecode of skedge, or cut off in its first bytes; copy it again")
    _, version, order, length, digest = _HEADER.unpack_from(data)
    packed = data[_HEADER.size :]
    if version != VERSION:
        raise HostError(f"{name}: format {version}, and this skedge reads {VERSION}; take that of the same release")
    if order != _ORDERS[sys.byteorder]:
        raise HostError(f"{name}: made for the other byte order; build it on a {sys.byteorder}-endian machine")
    if len(packed) != length:
        raise HostError(f"{name}: {len(packed)} of {length} bytes; it was cut off or added to: copy it again")
    if hashlib.sha256(packed).digest() != digest:
        raise HostError(f"{name}: its digest is wrong; it was changed or damaged: copy it again")
    try:
        inflate = zlib.decompressobj()
        document = inflate.decompress(packed, _UNPACKED_MAX)
        if inflate.unconsumed_tail:
            raise HostError(f"{name}: more than {_UNPACKED_MAX >> 20} MiB when inflated; build it again")
        units = msgspec.msgpack.decode(document, type=tuple[Unit, ...])
    except (zlib.error, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise HostError(f"{name}: no bytecode inside ({error}); build it again") from error
    for unit in units:
        _check(unit, name)
    return units


def _check(unit: Unit, name: str) -> None:
    """Check what the schema cannot: that references lead somewhere."""
    known = {one.name for one in unit.maps}
    for program in unit.programs:
        count = len(program.instructions) // SIZE
        strangers = sorted({to for _, to in program.maps} - known)
        if strangers or any(not 0 <= index < count for index, _ in (*program.maps, *program.constants)):
            what = f"a map {strangers[0]} that is not in it" if strangers else "a place outside of its instructions"
            raise HostError(f"{name}: {program.function} refers to {what}; build it again")
