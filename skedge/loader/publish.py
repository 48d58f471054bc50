"""Phase two of loading: what is verified takes the place of what runs, and all of it, or nothing.

Each step is undone where a later one fails: programs come back into their pins, tables and cgroups.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.dataplane.bpf import links, syscall
from skedge.dataplane.bpf.programs import PROGRAM_TABLE, Program
from skedge.loader import map_migration, old_placements
from skedge.loader.load_image import Loaded


class Publication:
    """Puts what is loaded under one pin directory and at one cgroup; a ``with`` block that fails takes it all back."""

    def __init__(self, pin_dir: Path, cgroup: Path) -> None:
        self._pins = pin_dir
        self._cgroup = cgroup
        self._undo = ExitStack()
        self._keep = ExitStack()  # descriptors of what ran before, for as long as it may have to come back

    def __enter__(self) -> Publication:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._undo.pop_all()
        with self._keep, self._undo:
            pass

    def publish(self, loaded: Loaded, programs: tuple[Program, ...]) -> None:
        """Pin maps, carry over what older ones hold, pin programs, attach. Raises DataplaneError."""
        for name in loaded.fresh:
            self._pin(loaded.maps[name], name)
        map_migration.carry_over(self._pins)
        for name in old_placements.BLIND:
            self._hide(name)
        before = {one.pin: self._previous(one.pin) for one in programs}
        for one in programs:
            self._pin(loaded.programs[one.pin], one.pin)
            if one.entry is not None:
                self._enter(one.entry, loaded.programs[one.pin], before[one.pin])
        target = os.open(self._cgroup, os.O_RDONLY | os.O_DIRECTORY)
        self._keep.callback(os.close, target)
        for one in programs:
            if one.cgroup:
                self._attach(one, loaded.programs[one.pin], before[one.pin], target)

    def _previous(self, name: str) -> int | None:
        pin = self._pins / name
        return self._keep.enter_context(syscall.Fd(syscall.obj_get(str(pin)))) if pin.exists() else None

    def _pin(self, fd: int, name: str) -> None:
        previous = self._previous(name)
        pin(fd, self._pins / name)
        if previous is None:
            self._undo.callback((self._pins / name).unlink, missing_ok=True)
        else:
            self._undo.callback(pin, previous, self._pins / name)

    def _hide(self, name: str) -> None:
        previous = self._previous(name)
        if previous is not None:
            (self._pins / name).unlink()
            self._undo.callback(pin, previous, self._pins / name)

    def _enter(self, entry: int, fd: int, previous: int | None) -> None:
        """Put a part into the table that the other packet programs call it by."""
        table = self._keep.enter_context(syscall.Fd(syscall.obj_get(str(self._pins / PROGRAM_TABLE))))
        key = entry.to_bytes(4, sys.byteorder)
        syscall.map_update(table, key, fd.to_bytes(4, sys.byteorder))
        if previous is None:
            self._undo.callback(syscall.map_delete, table, key)
        else:
            self._undo.callback(syscall.map_update, table, key, previous.to_bytes(4, sys.byteorder))

    def _attach(self, program: Program, fd: int, previous: int | None, target: int) -> None:
        pinned = self._previous(program.link_pin)
        if pinned is not None:
            try:
                if links.cgroup_id(pinned) == self._cgroup.stat().st_ino:
                    links.update(pinned, fd)
                    if previous is not None:
                        self._undo.callback(links.update, pinned, previous)
                    return
                links.detach(pinned)
            except syscall.BpfError as error:
                if error.errno != errno.ENOLINK:  # its cgroup is gone
                    raise
        made = self._keep.enter_context(syscall.Fd(links.create(fd, target, program.attach or 0)))
        self._undo.callback(links.detach, made)
        self._pin(made, program.link_pin)


def pin(fd: int, path: Path) -> None:
    """Pin under the path, atomically in the place of an older one. Raises DataplaneError."""
    fresh = path.with_name(f"new_{path.name}")  # no dot: bpffs reserves names with one
    try:
        fresh.unlink(missing_ok=True)
        syscall.obj_pin(fd, str(fresh))
        fresh.rename(path)
    except OSError as error:
        raise DataplaneError(f"pin {path}: {error.strerror}") from error
