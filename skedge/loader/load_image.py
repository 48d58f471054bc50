"""Phase one of loading: maps and programs are made in the kernel from bytecode, and nothing that runs sees them.

Everything is verified here. What fails leaves no trace: maps and programs go with their descriptors.
"""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.dataplane.bpf import btf, creation, links, pins, syscall
from skedge.dataplane.bpf.programs import TCP, Program
from skedge.loader.image import MapImage, ProgramImage, Unit
from skedge.loader.instructions import link
from skedge.loader.refusals import Refused

_RESIZED = "pick_log_v2"  # a debugging aid, the only map that may change its size
_ITERATOR = "bpf_iter__"
_PASSING = (errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.EPERM, errno.ENFILE, errno.EMFILE)  # none of the verifier's

Members = Sequence[tuple[Unit, Sequence[Program]]]  # units, and which of their programs are wanted


@dataclass(slots=True)
class Loaded:
    """Descriptors of what is in the kernel: maps by name, programs and iterators' links by pin.

    ``fresh``: the maps that were not there before. Closes everything at the end of a ``with`` block.
    """

    maps: dict[str, int] = field(default_factory=dict)
    programs: dict[str, int] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def own(self, fd: int) -> int:
        """Close the descriptor with the rest; return it."""
        return self._open.enter_context(syscall.Fd(fd))


def load(members: Members, pin_dir: Path, sizes: Mapping[str, int], constants: Mapping[str, int]) -> Loaded:
    """Make and verify everything.

    Args:
        members: units and their wanted programs.
        pin_dir: maps that are pinned there are used as they are.
        sizes: entries of maps that are sized by configuration, where they are made.
        constants: what is put into the instructions.

    Raises:
        HostError: this kernel lacks something that the programs look at.
        Refused: the verifier refuses a program, with its last line.
        DataplaneError: the kernel refuses a map, or a program for another reason.
    """
    loaded = Loaded()
    try:
        wanted = [program for _, programs in members for program in programs]
        targets = btf.function_ids(_target(one.function) for one in wanted if one.iterates)
        # all maps first: one that does not fit is found before the verifier's work
        maps_of = [_maps(loaded, unit, pin_dir, sizes) for unit, _ in members]
        for (unit, programs), maps in zip(members, maps_of, strict=True):
            for program in programs:
                image = unit.program(program.function)
                fd = _program(image, maps, constants, targets.get(_target(program.function), 0))
                loaded.own(fd)
                if program.iterates:
                    fd = loaded.own(_iterator(fd, program, maps))
                loaded.programs[program.pin] = fd
    except BaseException:
        loaded.__exit__()
        raise
    return loaded


def _iterator(fd: int, program: Program, maps: Mapping[str, int]) -> int:
    return links.create_iter(fd) if program.iterates == TCP else links.create_map_iter(fd, maps[program.iterates])


def _target(function: str) -> str:
    """Return the kernel function that an iterator attaches to; what follows two underscores is our own."""
    return f"bpf_iter_{function.removeprefix(_ITERATOR).partition('__')[0]}"


def _maps(loaded: Loaded, unit: Unit, pin_dir: Path, sizes: Mapping[str, int]) -> Mapping[str, int]:
    """Return the descriptors of a unit's maps by name; those with a version in their name are shared among units."""
    found: dict[str, int] = {}
    types = -1
    for image in unit.maps:
        shared = pins.OURS.fullmatch(image.name) is not None
        if shared and image.name in loaded.maps:
            found[image.name] = loaded.maps[image.name]
            _compare(image, found[image.name], f"another unit than {unit.source}")
            continue
        fd = _pinned(image, pin_dir / image.name) if shared else None
        if fd is None:
            if types < 0 and image.value_type:
                types = loaded.own(creation.btf_load(unit.types))
            fd = _create(image, sizes.get(image.name, image.max_entries), types)
            if shared:
                loaded.fresh.append(image.name)
        found[image.name] = loaded.own(fd)
        if shared:
            loaded.maps[image.name] = fd
    return found


def _pinned(image: MapImage, pin: Path) -> int | None:
    """Open the pinned map of this name, None where a new one must take its place."""
    if not pin.exists():
        return None
    fd = syscall.Fd(syscall.obj_get(str(pin)))
    if image.name == _RESIZED and syscall.map_info(fd.fd).max_entries != image.max_entries:
        return None
    _compare(image, fd.fd, "what is pinned")
    return fd.release()


def _compare(image: MapImage, fd: int, other: str) -> None:
    info = syscall.map_info(fd)
    if (info.type, info.key_size, info.value_size) != (image.type, image.key_size, image.value_size):
        raise DataplaneError(
            f"map {image.name}: {other} has another layout of it (values of {info.value_size} bytes,"
            f" not {image.value_size}); `skedge-loader unload` takes away what is pinned"
        )


def _create(image: MapImage, entries: int, types: int) -> int:
    described = (types, image.key_type, image.value_type) if image.value_type else (0, 0, 0)
    sizes = (image.key_size, image.value_size, entries)
    try:
        return creation.map_create(image.name, image.type, *sizes, image.flags, described)
    except syscall.BpfError as error:
        why = os.strerror(error.errno)
        raise DataplaneError(f"kernel {platform.release()} refuses the map {image.name}: {why}") from error


def _program(image: ProgramImage, maps: Mapping[str, int], constants: Mapping[str, int], target: int) -> int:
    code = link(image.instructions, image.maps, image.constants, maps, constants)
    try:
        return creation.prog_load(image.function, image.type, code, image.licence, image.attach, target)
    except creation.Refused as error:
        why = error.said or os.strerror(error.errno)
        of_policy = error.errno == errno.EACCES and not error.said
        kind = DataplaneError if of_policy or error.errno in _PASSING else Refused
        raise kind(f"kernel {platform.release()} refuses the program {image.function}: {why}") from error
