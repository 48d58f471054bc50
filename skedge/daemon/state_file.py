"""What survives a restart on disk: the incarnation and the endpoint ports. Everything else is read from the kernel."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile

import msgspec

log = logging.getLogger("skedge.daemon")


@dataclass(frozen=True)
class SavedState:
    """Content of ``state.json``. ``incarnation`` is the one last used; ``ports`` maps connector to endpoint port."""

    incarnation: int = 0
    ports: Mapping[str, int] = field(default_factory=dict)


def load(directory: Path) -> SavedState:
    """Return what was remembered; a missing or damaged file is no memory (a neighbour's copy then corrects us)."""
    try:
        return msgspec.json.decode((directory / "state.json").read_bytes(), type=SavedState)
    except (FileNotFoundError, msgspec.DecodeError):
        return SavedState()


def save(directory: Path, saved: SavedState) -> None:
    """Replace the file atomically, so that a crash leaves the old or the new content."""
    text = json.dumps({"incarnation": saved.incarnation, "ports": dict(saved.ports)}, indent=1)
    with NamedTemporaryFile("w", dir=directory, prefix=".state.", delete=False) as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(directory / "state.json")


class Memory:
    """The file of one life: what the life before left, and what is written for the next."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.last = load(directory)

    def save(self, incarnation: int, ports: Mapping[str, int]) -> None:
        """Write anew; a file that cannot be written is an error in the log."""
        self.last = SavedState(incarnation, ports)
        try:
            save(self._directory, self.last)
        except OSError as error:
            log.error("op=remember path=%s failed=%r", self._directory, error.strerror)
