"""Bytecode as files, and instructions without the process they came from."""

from __future__ import annotations

import struct
import sys
import zlib
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skedge.core.errors import DataplaneError, HostError
from skedge.loader import image
from skedge.loader.image import MapImage, ProgramImage, Unit
from skedge.loader.instructions import constant_marker, lift, link

CONSTANTS = ("OFF_A", "OFF_B")
MAPS = {7: "config_v1", 9: "drops_v1"}
EXIT = struct.pack("=BBhi", 0x95, 0, 0, 0)


def load64(value: int, source: int = 0, register: int = 1) -> bytes:
    first = struct.pack("=BBhI", 0x18, source << 4 | register, 0, value & 0xFFFFFFFF)
    return first + struct.pack("=BBhI", 0, 0, 0, value >> 32)


PLAIN = st.binary(min_size=7, max_size=7).map(lambda tail: b"\xb7" + tail)  # a move, whatever its operand
PIECES = st.one_of(
    PLAIN,
    st.sampled_from(sorted(MAPS)).map(lambda fd: load64(fd, source=1)),
    st.sampled_from(range(len(CONSTANTS))).map(lambda i: load64(constant_marker(i))),
    st.integers(0, 2**62).map(load64),
)


def unit(**changes: object) -> Unit:
    code, maps, constants = lift(load64(7, source=1) + load64(constant_marker(1)) + EXIT, MAPS, CONSTANTS)
    program = ProgramImage("skedge_x", 3, 0, "GPL", code, maps, constants)
    plain = Unit("x.c", "ab" * 32, "bcc 0", (MapImage("config_v1", 2, 4, 8, 1, 0),), (program,), b"types")
    return msgspec.structs.replace(plain, **changes)


@given(st.lists(PIECES, max_size=30).map(b"".join).map(lambda code: code + EXIT))
def test_lifted_code_is_linked_to_what_it_was(code: bytes) -> None:
    lifted, maps, constants = lift(code, MAPS, CONSTANTS)
    markers = {name: constant_marker(i) for i, name in enumerate(CONSTANTS)}
    assert link(lifted, maps, constants, {name: fd for fd, name in MAPS.items()}, markers) == code
    assert len(lifted) == len(code)
    elsewhere = link(lifted, maps, constants, {"config_v1": 70, "drops_v1": 90}, {"OFF_A": 5, "OFF_B": 2**33 + 6})
    again = lift(elsewhere, {70: "config_v1", 90: "drops_v1"}, CONSTANTS)
    assert again[1] == maps, "the maps' places are the same"
    for index, name in constants:
        low, high = (struct.unpack_from("=I", elsewhere, at * 8 + 4)[0] for at in (index, index + 1))
        assert high << 32 | low == {"OFF_A": 5, "OFF_B": 2**33 + 6}[name]


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(DataplaneError, match="a map that is not known"):
        lift(load64(8, source=1) + EXIT, MAPS, CONSTANTS)
    with pytest.raises(DataplaneError, match="uses constant 2"):
        lift(load64(constant_marker(2)) + EXIT, MAPS, CONSTANTS)
    with pytest.raises(DataplaneError, match="kind 4"):
        lift(load64(8, source=4) + EXIT, MAPS, CONSTANTS)
    for broken in (b"", EXIT[:7], load64(5)[:8]):
        with pytest.raises(DataplaneError):
            lift(broken, MAPS, CONSTANTS)
    code, maps, constants = lift(load64(7, source=1) + EXIT, MAPS, CONSTANTS)
    with pytest.raises(DataplaneError, match="nothing is known of config_v1"):
        link(code, maps, constants, {}, {})
    with pytest.raises(DataplaneError, match="no reference to config_v1"):
        link(code, ((2, "config_v1"),), (), {"config_v1": 3}, {})


def test_a_file_is_read_as_it_was_written() -> None:
    units = (unit(), unit(source="y.c", types=b""))
    assert image.decode(image.encode(units), "f") == units


def packed(document: object) -> bytes:
    """A file with a right digest, whatever is in it."""
    data = zlib.compress(msgspec.msgpack.encode(document))
    return image._HEADER.pack(b"skedgeBC", 1, image._ORDERS[sys.byteorder], len(data), sha256(data).digest()) + data


def test_a_file_that_is_not_right_is_refused_in_one_sentence() -> None:
    good = image.encode([unit()])
    program = unit().programs[0]
    stray = unit(programs=(msgspec.structs.replace(program, maps=((99, "config_v1"),)),))
    for data, said in (
        (b"", "not bytecode"),
        (good[:30], "cut off"),
        (b"x" + good[1:], "not bytecode"),
        (good[:-1], "cut off"),
        (good + b"x", "added to"),
        (good[:-1] + bytes([good[-1] ^ 1]), "digest is wrong"),
        (good[:8] + b"\0\2" + good[10:], "format 2"),
        (good[:10] + bytes([3 - good[10]]) + good[11:], "byte order"),
        (packed({"a": 1}), "no bytecode inside"),
        (packed([{"source": "x"}]), "no bytecode inside"),
        (packed([unit(maps=())]), "a map config_v1 that is not in it"),
        (packed([stray]), "outside of its instructions"),
    ):
        with pytest.raises(HostError, match=said) as error:
            image.decode(data, "/place")
        assert str(error.value).startswith("/place: ")
        assert "\n" not in str(error.value)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_damaged_byte_goes_unnoticed(at: int, change: int) -> None:
    good = image.encode([unit()])
    at %= len(good)
    if at == 11:  # a spare byte
        return
    with pytest.raises(HostError):
        image.decode(good[:at] + bytes([good[at] ^ change]) + good[at + 1 :], "f")
