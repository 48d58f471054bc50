"""Everything that is pinned in one directory: who may use it, and its taking away, first of what makes placements."""

from __future__ import annotations

import grp
import os
import re
from collections.abc import Sequence
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.dataplane.bpf import links, syscall
from skedge.dataplane.bpf.programs import Program

FIRST = "config_v1"  # by it the engine is known to be here
OURS = re.compile(r"[a-z0-9_]+_v\d+")


def share(directory: Path, group: str, mode: int = 0o750) -> None:
    """Give the pins to the controller's group: root's own 0600 would keep it out."""
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        gid = 0
    for path, bits in ((directory, mode), *((pin, 0o660) for pin in directory.iterdir())):
        os.chown(path, 0, gid)
        os.chmod(path, bits)


def lend(directory: Path, group: str) -> None:
    """Let the controller take the pins away once nothing needs them: another engine serves now."""
    if (directory / FIRST).exists():
        share(directory, group, 0o770)
    elif directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()


def remove_all(directory: Path, programs: Sequence[Program]) -> None:
    """Detach the programs that are at a cgroup and remove all pins of ours. Raises DataplaneError."""
    for program in reversed(programs):
        pin = directory / program.link_pin
        if program.cgroup and pin.exists():
            with syscall.Fd(syscall.obj_get(str(pin))) as link:
                links.detach(link)
            _unlink(pin)
    for pin in sorted(directory.iterdir(), key=lambda one: one.name == FIRST):
        if OURS.fullmatch(pin.name):
            _unlink(pin)


def _unlink(pin: Path) -> None:
    try:
        pin.unlink()
    except OSError as error:
        raise DataplaneError(f"remove {pin}: {error.strerror}; `skedge-loader unload` does it as root") from error
