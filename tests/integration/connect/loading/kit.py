"""What tests of loading share: bytecode that no kernel takes, and what is in the kernel."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import msgspec

from skedge.dataplane.bpf import links, syscall
from skedge.dataplane.bpf.programs import PROGRAM_TABLE
from skedge.loader.image import Unit

from ..kit import Host

NO_RESULT = struct.pack("=BBhi", 0x95, 0, 0, 0)  # exit, with no value in R0


def broken(units: Sequence[Unit], function: str) -> tuple[Unit, ...]:
    """The bytecode with one program that no kernel takes."""

    def program(one: msgspec.Struct) -> msgspec.Struct:
        if one.function != function:  # type: ignore[attr-defined]
            return one
        return msgspec.structs.replace(one, instructions=NO_RESULT, maps=(), constants=())

    return tuple(msgspec.structs.replace(one, programs=tuple(map(program, one.programs))) for one in units)


def pinned(host: Host) -> Mapping[str, object]:
    """What is pinned, attached and in the table of parts, by the kernel's ids."""
    found: dict[str, object] = {}
    for pin in sorted(host.pins.iterdir()) if host.pins.exists() else ():
        with syscall.Fd(syscall.obj_get(str(pin))) as fd:
            if pin.name.startswith("attach_"):
                found[pin.name] = (links.cgroup_id(fd), links.prog_id(fd))
            else:  # the id is at the same place for maps and programs; an iterator's link has its own
                found[pin.name] = syscall.prog_id(fd)
            if pin.name == PROGRAM_TABLE:
                found["entries"] = tuple(syscall.map_items(fd, 4, 4))
    return found
