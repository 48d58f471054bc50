"""The packet programs on a device through tcx (Linux 6.6 and later): no qdisc, no filter, a third of the cost of tc's.

A program has no name there, and only root may open one by its id: which of the attached ones is ours is told by the
ids that the caller remembers. One is replaced without a gap: the new one is attached before the old one is detached.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Collection, Mapping
from functools import cache

from skedge.dataplane.bpf import syscall

TYPES = {"ingress": 46, "egress": 47}  # BPF_TCX_INGRESS, BPF_TCX_EGRESS of linux/bpf.h
_BEFORE, _AFTER, _RELATIVE_ID = 0x08, 0x10, 0x20
_PROGRAMS_MAX = 64  # on one device and direction, a limit of the kernel
_LOOPBACK = 1


@cache
def supported() -> bool:
    """Return whether this kernel has tcx (and this process may use it)."""
    try:
        programs(_LOOPBACK, TYPES["ingress"])
    except syscall.BpfError:
        return False
    return True


def attached(index: int, ours: Collection[int]) -> Mapping[str, tuple[int, ...]]:
    """Return the ids of our programs by direction, in the order of running, among those in ``ours``."""
    found: dict[str, tuple[int, ...]] = {}
    for direction, kind in TYPES.items():
        ids = tuple(ident for ident in _programs(index, kind) if ident in ours)
        if ids:
            found[direction] = ids
    return found


def everything(index: int) -> tuple[int, ...]:
    """Return the ids of all programs on an interface, a 0 between the directions; none when it is gone."""
    return (*_programs(index, TYPES["ingress"]), 0, *_programs(index, TYPES["egress"]))


def _programs(index: int, kind: int) -> list[int]:
    try:
        return programs(index, kind)
    except syscall.BpfError as error:
        if error.errno in (errno.ENODEV, errno.ENOENT):
            return []
        raise


def attach(index: int, direction: str, prog_fd: int, old: Collection[int] = ()) -> None:
    """Attach the program, once, and detach those of ``old`` (ids). Raises BpfError."""
    kind, new = TYPES[direction], syscall.prog_id(prog_fd)
    before = next((ident for ident in _programs(index, kind) if ident in old and ident != new), 0)
    if new not in _programs(index, kind):
        _attach(index, kind, prog_fd, before)
    while before:
        ids = _programs(index, kind)
        follower = ids[ids.index(new) + 1 : ids.index(new) + 2]
        if not follower or follower[0] not in old:
            return
        _detach(index, kind, after=new)


def detach(index: int, direction: str, prog_fd: int) -> None:
    """Detach the program; one that is not attached is success. Raises BpfError."""
    kind = TYPES[direction]
    if syscall.prog_id(prog_fd) in _programs(index, kind):
        _detach(index, kind, prog_fd)


# ---- system calls ---------------------------------------------------------------------------------------------------


def programs(index: int, kind: int) -> list[int]:
    """Return the ids of all programs attached to an interface, in the order of running. Raises BpfError."""
    ids = ctypes.create_string_buffer(4 * _PROGRAMS_MAX)
    attr = struct.pack("=IIIIQII4Q", index, kind, 0, 0, ctypes.addressof(ids), _PROGRAMS_MAX, 0, 0, 0, 0, 0)
    _, after = syscall.call(f"programs of interface {index}", syscall.Cmd.PROG_QUERY, attr)
    count = struct.unpack_from("=I", after, 24)[0]
    return list(struct.unpack_from(f"={count}I", ids.raw))


def _attach(index: int, kind: int, prog_fd: int, before: int) -> None:
    """Attach a program right before the one with the id ``before``, or before all others (0)."""
    flags = _BEFORE | (_RELATIVE_ID if before else 0)
    attr = struct.pack("=6IQ", index, prog_fd, kind, flags, 0, before, 0)
    syscall.call(f"attach to interface {index}", syscall.Cmd.PROG_ATTACH, attr)


def _detach(index: int, kind: int, prog_fd: int = 0, after: int = 0) -> None:
    """Detach this program, or the one right after that id: one that nobody can open is named by its place."""
    flags = _AFTER | _RELATIVE_ID if after else 0
    attr = struct.pack("=6IQ", index, prog_fd, kind, flags, 0, after, 0)
    syscall.call(f"detach from interface {index}", syscall.Cmd.PROG_DETACH, attr)
