"""Making kernel objects by bpf(2): type information, maps and programs. Descriptors are integers, the caller's."""

from __future__ import annotations

import struct
from ctypes import addressof, create_string_buffer

from skedge.dataplane.bpf.syscall import BpfError, Cmd, Fd, call

_LOG_SIZE = 1 << 20
_LOG_STATS = 4  # errors, and no trace of each instruction
_STATISTICS = ("processed ", "verification time", "stack depth")


class Refused(BpfError):
    """The kernel does not take a program; ``said`` is the verifier's last line, empty where it said nothing."""

    def __init__(self, what: str, code: int, said: str) -> None:
        super().__init__(what, code)
        self.said = said


def last_words(log: str) -> str:
    """Return the last line of a verifier's log that is no statistics, empty when there is none."""
    lines = (line.strip() for line in log.splitlines())
    return next(reversed([line for line in lines if line and not line.startswith(_STATISTICS)]), "")


def btf_load(blob: bytes) -> int:
    """Load type information. Raises BpfError."""
    data = create_string_buffer(blob, len(blob))
    return call("load type information", Cmd.BTF_LOAD, struct.pack("=QQIII4x", addressof(data), 0, len(blob), 0, 0))[0]


def map_create(
    name: str,
    kind: int,
    key_size: int,
    value_size: int,
    max_entries: int,
    flags: int = 0,
    btf: tuple[int, int, int] = (0, 0, 0),
) -> int:
    """Create a map; sizes in bytes, ``btf`` is (descriptor, type id of the key, of the value). Raises BpfError."""
    head = struct.pack("=7I16sI3I", kind, key_size, value_size, max_entries, flags, 0, 0, _name(name), 0, *btf)
    return call(f"create map {name}", Cmd.MAP_CREATE, head + bytes(12))[0]


def map_types(fd: int) -> tuple[int, int, int]:
    """Return of a map the id of its type information (0: none) and the type ids of key and value."""
    info = create_string_buffer(88)
    call("map info", Cmd.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, len(info), addressof(info)))
    ident, key, value = struct.unpack_from("=3I", info.raw, 64)
    return ident, key, value


def btf_blob(ident: int) -> bytes:
    """Return the type information that has this id in the kernel. Raises BpfError."""
    fd, _ = call("type information", Cmd.BTF_GET_FD_BY_ID, struct.pack("=II", ident, 0))
    with Fd(fd):
        size = struct.unpack_from("=QI", _btf_info(fd, 0, 0))[1]
        data = create_string_buffer(size)
        _btf_info(fd, addressof(data), size)
    return data.raw


def _btf_info(fd: int, address: int, size: int) -> bytes:
    info = create_string_buffer(struct.pack("=QII", address, size, 0), 16)
    call("type information", Cmd.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, len(info), addressof(info)))
    return info.raw


def prog_load(
    name: str, kind: int, instructions: bytes, licence: str, attach_type: int = 0, attach_btf_id: int = 0
) -> int:
    """Verify and load a program of 8-byte instructions.

    Raises:
        Refused: the kernel does not take it, with the verifier's last line.
    """
    what = f"load program {name}"
    code, text = create_string_buffer(instructions, len(instructions)), create_string_buffer(licence.encode())
    log = create_string_buffer(_LOG_SIZE)

    def attempt(level: int) -> int:
        attr = struct.pack(
            "=IIQQIIQII16sII",
            *(kind, len(instructions) // 8, addressof(code), addressof(text)),
            *(level, len(log) if level else 0, addressof(log) if level else 0, 0, 0, _name(name), 0, attach_type),
        ) + struct.pack("=IIQIIQIIII", 0, 0, 0, 0, 0, 0, 0, attach_btf_id, 0, 0)
        return call(what, Cmd.PROG_LOAD, attr)[0]

    try:
        return attempt(0)
    except BpfError:
        try:
            return attempt(_LOG_STATS)
        except BpfError as error:
            said = last_words(log.value.decode(errors="replace"))
            raise Refused(what, error.errno, said) from error


def _name(name: str) -> bytes:
    """Return what the kernel takes as a name: 15 bytes."""
    return name.encode()[:15]
