"""What survives a restart on disk: incarnation, endpoint ports, drains. Everything else is read from the kernel."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile

import msgspec

from skedge.core.drains import Drains
from skedge.core.errors import ApiError

log = logging.getLogger("skedge.daemon")

DRAINS = "drains.json"  # a file of its own: a controller of an older version leaves it alone


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
    replace_file(directory / "state.json", text + "\n")


def replace_file(path: Path, text: str) -> None:
    """Write a file anew, atomically and so that it outlives a loss of power. Raises OSError."""
    with NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.stem}.", delete=False) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)


def load_drains(directory: Path) -> Drains:
    """Return what is drained by command; a missing file is nothing, a damaged one too, with an error in the log."""
    path = directory / DRAINS
    try:
        return msgspec.json.decode(path.read_bytes(), type=Drains)
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.DecodeError) as error:
        log.error("op=drain path=%s failed=%r nothing is drained by command", path, str(error))
        return ()


def save_drains(directory: Path, drains: Drains) -> None:
    """Write what is drained by command. Raises ApiError."""
    text = msgspec.json.format(msgspec.json.encode(drains), indent=1).decode()
    try:
        replace_file(directory / DRAINS, text + "\n")
    except OSError as error:
        raise ApiError(f"{directory / DRAINS}: cannot be written ({error.strerror}); nothing was changed") from error


class Memory:
    """The file of one life: what the life before left, and what is written for the next."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.last = load(directory)
        self.drains = load_drains(directory)

    def save(self, incarnation: int, ports: Mapping[str, int]) -> None:
        """Write anew; a file that cannot be written is an error in the log."""
        self.last = SavedState(incarnation, ports)
        try:
            save(self._directory, self.last)
        except OSError as error:
            log.error("op=remember path=%s failed=%r", self._directory, error.strerror)

    def save_drains(self, drains: Drains) -> None:
        """Write what is drained by command. Raises ApiError."""
        save_drains(self._directory, drains)
        self.drains = drains
