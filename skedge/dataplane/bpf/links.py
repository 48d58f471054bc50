"""Links and iterators of bpf(2): what holds a program where it runs. Descriptors are integers, as in `syscall`."""

from __future__ import annotations

import struct
from ctypes import addressof, create_string_buffer

from skedge.dataplane.bpf.syscall import Cmd, call


def create(prog_fd: int, target_fd: int, attach_type: int, flags: int = 0) -> int:
    """Attach a program to a cgroup (or other target) through a link; return the link's descriptor."""
    attr = struct.pack("=IIII", prog_fd, target_fd, attach_type, flags)
    return call("link create", Cmd.LINK_CREATE, attr)[0]


def create_map_iter(prog_fd: int, map_fd: int) -> int:
    """Attach an iterator program (BPF_TRACE_ITER) to a map; return the link's descriptor."""
    info = create_string_buffer(struct.pack("=I", map_fd), 4)
    attr = struct.pack("=IIIIQI", prog_fd, 0, 28, 0, addressof(info), 4) + bytes(4)
    return call("iterator link create", Cmd.LINK_CREATE, attr)[0]


def create_iter(prog_fd: int) -> int:
    """Attach an iterator program to what it iterates over by itself; return the link's descriptor."""
    return call("iterator link create", Cmd.LINK_CREATE, struct.pack("=IIII", prog_fd, 0, 28, 0))[0]


def update(link_fd: int, prog_fd: int) -> None:
    """Put another program in the place of a link's program, atomically."""
    call("link update", Cmd.LINK_UPDATE, struct.pack("=IIII", link_fd, prog_fd, 0, 0))


def detach(link_fd: int) -> None:
    """Detach a link's program now, whoever else holds the link."""
    call("link detach", Cmd.LINK_DETACH, struct.pack("=I", link_fd))


def _info(link_fd: int) -> bytes:
    info = create_string_buffer(48)
    call("link info", Cmd.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", link_fd, len(info), addressof(info)))
    return info.raw


def prog_id(link_fd: int) -> int:
    """Return the id of the program that a link holds."""
    return int(struct.unpack_from("=III", _info(link_fd))[2])


def cgroup_id(link_fd: int) -> int:
    """Return the id (inode number) of the cgroup that a cgroup link is attached to, 0 when it is detached."""
    return int(struct.unpack_from("=Q", _info(link_fd), 16)[0])
