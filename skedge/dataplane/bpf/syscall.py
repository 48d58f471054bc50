"""The bpf(2) system call through ctypes: pins, maps and test runs, without libbpf or bcc.

File descriptors are plain integers owned by the caller; `Fd` closes one at the end of a ``with`` block. Keys and
values are raw bytes in the machine's byte order. Every refusal is a `BpfError` with the operation and the errno text.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from types import TracebackType

from skedge.core.errors import DataplaneError

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_LIBC = ctypes.CDLL(None, use_errno=True)


class Cmd(IntEnum):
    """Commands of bpf(2) that are used here (enum bpf_cmd of linux/bpf.h)."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_ATTACH = 8
    PROG_DETACH = 9
    PROG_TEST_RUN = 10
    OBJ_GET_INFO_BY_FD = 15
    PROG_QUERY = 16
    BTF_LOAD = 18
    BTF_GET_FD_BY_ID = 19
    MAP_LOOKUP_BATCH = 24
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_DETACH = 34


class MapFlag(IntFlag):
    """Flags of map operations."""

    ANY = 0
    NOEXIST = 1
    EXIST = 2
    LOCK = 4


class BpfError(DataplaneError):
    """bpf(2) refused; ``errno`` says why."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what}: {os.strerror(code)} ({errno.errorcode.get(code, code)})")
        self.errno = code


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str


@dataclass(frozen=True, slots=True)
class TestRun:
    """Outcome of one BPF_PROG_TEST_RUN: return value, packet and context afterwards, mean duration in ns."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    retval: int
    data: bytes
    ctx: bytes
    duration_ns: int


class Fd:
    """Owns one file descriptor; closes it at the end of the ``with`` block or when collected."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; closing twice is allowed."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def release(self) -> int:
        """Give the descriptor away: it is the caller's now."""
        fd, self.fd = self.fd, -1
        return fd

    def __del__(self) -> None:
        self.close()


def call(what: str, cmd: Cmd, attr: bytes | bytearray) -> tuple[int, bytes]:
    """Call bpf(2); return its result and the attributes as the kernel left them. Raises BpfError with ``what``."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise BpfError(what, errno.ENOSYS)
    buffer = (ctypes.c_char * len(attr)).from_buffer_copy(attr)
    while True:
        result = int(_LIBC.syscall(number, int(cmd), ctypes.byref(buffer), len(attr)))
        if result >= 0:
            return result, bytes(buffer.raw)
        code = ctypes.get_errno()
        if code not in (errno.EINTR, errno.EAGAIN):
            raise BpfError(what, code)


def _address(buffer: ctypes.Array[ctypes.c_char] | None) -> int:
    """Return the buffer's address, 0 for none."""
    return 0 if buffer is None else ctypes.addressof(buffer)


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    """Return a buffer with exactly these bytes."""
    return ctypes.create_string_buffer(data, max(len(data), 1))


# ---- pins -------------------------------------------------------------------------------------------------------


def obj_get(path: str) -> int:
    """Open a pinned map, program or link. Raises BpfError (ENOENT when there is none)."""
    name = _buffer(path.encode() + b"\0")
    return call(f"open pin {path}", Cmd.OBJ_GET, struct.pack("=QII", _address(name), 0, 0))[0]


def obj_pin(fd: int, path: str) -> None:
    """Pin a map, program or link under a bpffs path. Raises BpfError (EEXIST when the path is taken)."""
    name = _buffer(path.encode() + b"\0")
    call(f"pin {path}", Cmd.OBJ_PIN, struct.pack("=QII", _address(name), fd, 0))


# ---- maps -------------------------------------------------------------------------------------------------------


def map_info(fd: int) -> MapInfo:
    """Return type, sizes and name of a map."""
    info = ctypes.create_string_buffer(88)
    call("map info", Cmd.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, len(info), _address(info)))
    kind, ident, key, value, entries, flags, name = struct.unpack_from("=6I16s", info.raw)
    return MapInfo(kind, ident, key, value, entries, flags, name.split(b"\0")[0].decode())


def possible_cpus() -> int:
    """Return the number of possible processors: a per-CPU map's value is that many blocks of 8-byte multiples."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        last = file.read().strip().split(",")[-1]
    return int(last.split("-")[-1]) + 1


def map_lookup(fd: int, key: bytes, value_size: int, flags: MapFlag = MapFlag.ANY) -> bytes | None:
    """Return the value of a key, None when absent. ``value_size`` in bytes (per-CPU maps: all blocks)."""
    key_buffer, value = _buffer(key), ctypes.create_string_buffer(value_size)
    try:
        call(
            "map lookup",
            Cmd.MAP_LOOKUP_ELEM,
            struct.pack("=IIQQQ", fd, 0, _address(key_buffer), _address(value), flags),
        )
    except BpfError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.raw


def map_update(fd: int, key: bytes, value: bytes, flags: MapFlag = MapFlag.ANY) -> None:
    """Set the value of a key."""
    key_buffer, value_buffer = _buffer(key), _buffer(value)
    call(
        "map update",
        Cmd.MAP_UPDATE_ELEM,
        struct.pack("=IIQQQ", fd, 0, _address(key_buffer), _address(value_buffer), flags),
    )


def map_delete(fd: int, key: bytes) -> bool:
    """Delete a key; return whether it was there."""
    key_buffer = _buffer(key)
    try:
        call("map delete", Cmd.MAP_DELETE_ELEM, struct.pack("=IIQQQ", fd, 0, _address(key_buffer), 0, 0))
    except BpfError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def map_next_key(fd: int, key: bytes | None, key_size: int) -> bytes | None:
    """Return the key after ``key`` (None: the first one), None at the end."""
    key_buffer = None if key is None else _buffer(key)
    following = ctypes.create_string_buffer(key_size)
    try:
        call(
            "map next key",
            Cmd.MAP_GET_NEXT_KEY,
            struct.pack("=IIQQQ", fd, 0, _address(key_buffer), _address(following), 0),
        )
    except BpfError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return following.raw


def map_items(fd: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield all entries of a map, one call an entry; entries deleted meanwhile are left out."""
    key = map_next_key(fd, None, key_size)
    while key is not None:
        value = map_lookup(fd, key, value_size)
        if value is not None:
            yield key, value
        key = map_next_key(fd, key, key_size)


def map_lookup_batch(
    fd: int, key_size: int, value_size: int, chunk: int = 64, flags: MapFlag = MapFlag.ANY
) -> Iterator[tuple[bytes, bytes]]:
    """Yield all entries of an array or hash map, ``chunk`` entries a system call."""
    keys, values = ctypes.create_string_buffer(key_size * chunk), ctypes.create_string_buffer(value_size * chunk)
    token, following = ctypes.create_string_buffer(max(key_size, 8)), ctypes.create_string_buffer(max(key_size, 8))
    start, more = 0, True
    while more:
        attr = struct.pack(
            "=QQQQIIQQ", start, _address(following), _address(keys), _address(values), chunk, fd, flags, 0
        )
        count, more = _batch(attr)
        for i in range(count):
            yield keys.raw[i * key_size : (i + 1) * key_size], values.raw[i * value_size : (i + 1) * value_size]
        token.raw = following.raw
        start = _address(token)


def _batch(attr: bytes) -> tuple[int, bool]:
    """Do one batch lookup; return how many entries came and whether there may be more."""
    buffer = (ctypes.c_char * len(attr)).from_buffer_copy(attr)
    number = _SYSCALL.get(platform.machine(), -1)
    result = int(_LIBC.syscall(number, int(Cmd.MAP_LOOKUP_BATCH), ctypes.byref(buffer), len(attr)))
    code = 0 if result >= 0 else ctypes.get_errno()
    if code not in (0, errno.ENOENT):
        raise BpfError("map batch lookup", code)
    return int(struct.unpack_from("=I", buffer.raw, 32)[0]), code == 0


# ---- programs ---------------------------------------------------------------------------------------------------


def prog_id(fd: int) -> int:
    """Return the kernel's id of a program."""
    info = ctypes.create_string_buffer(16)
    call("program info", Cmd.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, len(info), _address(info)))
    return int(struct.unpack_from("=II", info.raw)[1])


def prog_test_run(
    fd: int, data: bytes, ctx: bytes = b"", repeat: int = 1, data_out: int | None = None, flags: int = 0
) -> TestRun:
    """Run a packet program (tc, XDP) on ``data`` (at least 14 bytes: an Ethernet header) and return what it did.

    ``ctx`` is a struct __sk_buff (or empty); ``data_out`` is how many bytes of the packet may come back; ``flags`` are
    the kernel's own (BPF_F_TEST_*).
    """
    room = len(data) + 256 if data_out is None else data_out
    data_in, out = _buffer(data), ctypes.create_string_buffer(max(room, 1))
    ctx_in, ctx_out = _buffer(ctx), ctypes.create_string_buffer(max(len(ctx), 1))
    attr = struct.pack(
        "=IIIIQQIIIIQQIII",
        *(fd, 0, len(data), room, _address(data_in), _address(out), repeat, 0),
        *(len(ctx), len(ctx), _address(ctx_in) if ctx else 0, _address(ctx_out) if ctx else 0, flags, 0, 0),
    ) + bytes(4)
    _, after = call("program test run", Cmd.PROG_TEST_RUN, attr)
    retval, size, duration = (struct.unpack_from("=I", after, offset)[0] for offset in (4, 12, 36))
    return TestRun(retval, out.raw[:size], ctx_out.raw[: len(ctx)], duration)
