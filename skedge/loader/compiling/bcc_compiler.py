"""The compiler as a program of its own, and the only file that imports bcc: a request on stdin, the unit on stdout.

LLVM never comes into another process's memory, and where it ends this one (it does, for a stack that is too large),
the loader still can say so. Exit 3: bcc is not installed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from typing import Any

import msgspec

from skedge.dataplane.bpf import creation, syscall
from skedge.loader.image import MapImage, ProgramImage, Unit
from skedge.loader.instructions import constant_marker, lift

NO_BCC = 3


class Function(msgspec.Struct, frozen=True):
    """A program of the unit: its C function, type and expected attach type (0: none)."""

    name: str
    type: int
    attach: int


class Request(msgspec.Struct, frozen=True):
    """What is to be compiled; ``constants`` are macros that stand for numbers of the kernel that will load it."""

    source: str
    digest: str
    text: str
    defines: tuple[str, ...]
    constants: tuple[str, ...]
    functions: tuple[Function, ...]


def compile_unit(bcc: Any, request: Request) -> Unit:
    """Compile, and take from the compiler's own maps and instructions what another process needs to make them anew."""
    markers = (f"{name}=kernel_constant({constant_marker(i)})" for i, name in enumerate(request.constants))
    flags = [f"-D{one}" for one in (*request.defines, *markers)]
    module = bcc.BPF(text=request.text.encode(), cflags=flags)
    lib, handle = bcc.lib, module.module
    lib.bpf_num_tables.argtypes, lib.bpf_num_tables.restype = [ctypes.c_void_p], ctypes.c_size_t
    lib.bpf_table_fd_id.argtypes = lib.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    lib.bpf_table_name.restype = ctypes.c_char_p
    names = [lib.bpf_table_name(handle, i).decode() for i in range(lib.bpf_num_tables(handle))]
    descriptors = {lib.bpf_table_fd_id(handle, i): name for i, name in enumerate(names)}
    licence = lib.bpf_module_license(handle).decode()

    def program(one: Function) -> ProgramImage:
        code, maps, constants = lift(module.dump_func(one.name.encode()), descriptors, request.constants)
        return ProgramImage(one.name, one.type, one.attach, licence, code, maps, constants)

    types = {creation.map_types(fd)[0] for fd in descriptors} - {0}
    if len(types) > 1:
        raise RuntimeError(f"{request.source}: the compiler made {len(types)} sets of type information, not one")
    return Unit(
        request.source,
        request.digest,
        f"bcc {bcc.__version__}, {platform.machine()}",
        tuple(_map(fd, name) for fd, name in descriptors.items()),
        tuple(program(one) for one in request.functions),
        creation.btf_blob(types.pop()) if types else b"",
    )


def _map(fd: int, name: str) -> MapImage:
    info, (_, key, value) = syscall.map_info(fd), creation.map_types(fd)
    return MapImage(name, info.type, info.key_size, info.value_size, info.max_entries, info.flags, key, value)


def main() -> int:
    """Serve one request; what the compiler says goes to stderr."""
    out = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no part of the answer
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Request)
    try:
        import bcc
    except ImportError as error:
        print(error, file=sys.stderr)
        return NO_BCC
    unit = compile_unit(bcc, request)
    with os.fdopen(out, "wb") as file:
        file.write(msgspec.msgpack.encode(unit))
    return 0


if __name__ == "__main__":
    sys.exit(main())
