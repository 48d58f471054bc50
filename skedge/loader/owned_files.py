"""Files that root trusts later: only root may have written them, and each is there as a whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from skedge.core.errors import HostError


def check_owner(found: os.stat_result, path: Path) -> None:
    """Raise HostError for what others than root can write."""
    if found.st_uid != 0 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise HostError(
            f"{path}: others than root can write it (owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}),"
            " so its bytecode is not loaded; chown it to root and chmod go-w"
        )


def write(path: Path, data: bytes) -> None:
    """Write a file as a whole, readable for all. Raises HostError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, 0o644)
                file.write(data)
                file.flush()
                os.fsync(fd)
            fresh.rename(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise HostError(f"write {path}: {error.strerror}") from error


def ensure_directory(path: Path) -> None:
    """Make a directory where there is none. Raises HostError for one that others can write, and OSError."""
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    check_owner(path.stat(), path)
