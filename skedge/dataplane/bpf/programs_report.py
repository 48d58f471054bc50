"""What the last loading run says to the controller: where the programs came from, and why newer ones do not run."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from skedge.core.errors import HostError
from skedge.core.observed import ProgramsReport

NAME = "programs.json"  # beside the engine's verdict


def write(report: ProgramsReport, directory: Path) -> None:
    """Write the report for the controller, where its directory is there. Raises HostError."""
    path = directory / NAME
    if directory.is_dir():
        replace_file(path, msgspec.json.encode(report) + b"\n")


def read(directory: Path) -> ProgramsReport:
    """Return the report of the last loading run, an empty one where there is none."""
    try:
        return msgspec.json.decode((directory / NAME).read_bytes(), type=ProgramsReport)
    except (OSError, msgspec.DecodeError):
        return ProgramsReport()


def replace_file(path: Path, data: bytes) -> None:
    """Write a file that all may read into the controller's own directory, as root. Raises HostError."""
    try:
        path.unlink(missing_ok=True)
        # The directory is the controller's own, and this is root: no link of its making is followed.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o644)
            file.write(data)
    except OSError as error:
        raise HostError(f"write {path}: {error.strerror}") from error
