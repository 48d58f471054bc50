"""eBPF instructions without the machine they came from: references to maps by name, kernel constants to be filled in.

Pure. A reference is a 16-byte load (``lddw``); in an image its operand is zero, and its place and name stand beside.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

from skedge.core.errors import DataplaneError

SIZE = 8  # bytes of an instruction; a 64-bit load takes two
_LDDW = 0x18
_MAP_FD = 1  # BPF_PSEUDO_MAP_FD in the source register's place
CONSTANT_MARK = 0x736BC057  # upper half of a constant that is filled in at loading; the lower half says which
_ONE = struct.Struct("=BBhI")

References = tuple[tuple[int, str], ...]  # (index of the instruction, name)


def constant_marker(index: int) -> int:
    """Return the 64-bit number that stands for a constant in what the compiler makes."""
    return CONSTANT_MARK << 32 | index


def _loads(code: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield (index, source register, lower half, upper half) of each 64-bit load. Raises DataplaneError."""
    if len(code) % SIZE or not code:
        raise DataplaneError(f"{len(code)} bytes are no eBPF instructions")
    index, count = 0, len(code) // SIZE
    while index < count:
        operation, registers, _, low = _ONE.unpack_from(code, index * SIZE)
        if operation != _LDDW:
            index += 1
            continue
        if index + 1 == count:
            raise DataplaneError("the last eBPF instruction is cut off")
        yield index, registers >> 4, low, _ONE.unpack_from(code, (index + 1) * SIZE)[3]
        index += 2


def _fill(code: bytearray, index: int, value: int) -> None:
    for at, half in ((index, value & 0xFFFFFFFF), (index + 1, value >> 32)):
        struct.pack_into("=I", code, at * SIZE + 4, half)


def lift(code: bytes, maps: Mapping[int, str], constants: Sequence[str]) -> tuple[bytes, References, References]:
    """Take out what holds in one process only.

    Args:
        code: instructions as the compiler made them.
        maps: name of each map by its file descriptor in that process.
        constants: names of the constants, by the number in their markers.

    Returns:
        The instructions with zeros in the place of references, the references to maps, those to constants.

    Raises:
        DataplaneError: a reference to something that is not known.
    """
    lifted, to_maps, to_constants = bytearray(code), [], []
    for index, source, low, high in _loads(code):
        if source == _MAP_FD:
            if low not in maps:
                raise DataplaneError(f"instruction {index} uses a map that is not known (descriptor {low})")
            to_maps.append((index, maps[low]))
        elif source:
            raise DataplaneError(f"instruction {index}: a load of kind {source} has no form in an image")
        elif high == CONSTANT_MARK:
            if low >= len(constants):
                raise DataplaneError(f"instruction {index} uses constant {low}, and there are {len(constants)}")
            to_constants.append((index, constants[low]))
        else:
            continue
        _fill(lifted, index, 0)
    return bytes(lifted), tuple(to_maps), tuple(to_constants)


def link(
    code: bytes, to_maps: References, to_constants: References, maps: Mapping[str, int], constants: Mapping[str, int]
) -> bytes:
    """Put this process's file descriptors and this kernel's constants in. Raises DataplaneError."""
    linked = bytearray(code)
    loads = {index: source for index, source, _, _ in _loads(code)}
    for references, values, kind in ((to_maps, maps, _MAP_FD), (to_constants, constants, 0)):
        for index, name in references:
            if loads.get(index) != kind:
                raise DataplaneError(f"instruction {index} is no reference to {name}")
            if name not in values:
                raise DataplaneError(f"nothing is known of {name}")
            _fill(linked, index, values[name])
    return bytes(linked)
