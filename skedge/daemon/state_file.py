"""What survives a restart on disk: incarnation, endpoint ports, drains, the boots of this host and of other sites.

Everything else is read from the kernel.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import NamedTemporaryFile

import msgspec

from skedge.core.drains import Drains
from skedge.core.errors import ApiError
from skedge.core.linkstate.boots import Boot

log = logging.getLogger("skedge.daemon")

DRAINS = "drains.json"  # a file of its own: a controller of an older version leaves it alone


@dataclass(frozen=True)
class SavedState:
    """Content of ``state.json``. ``incarnation`` is the one last used; ``ports`` maps connector to endpoint port.

    ``boots`` maps each other site to the boot that it said last; ``boot`` is this host's.
    """

    incarnation: int = 0
    ports: Mapping[str, int] = field(default_factory=dict)
    boots: Mapping[str, str] = field(default_factory=dict)
    boot: Boot = field(default_factory=Boot)


def load(directory: Path) -> SavedState:
    """Return what was remembered; a missing or damaged file is no memory (a neighbour's copy then corrects us)."""
    try:
        return msgspec.json.decode((directory / "state.json").read_bytes(), type=SavedState)
    except (FileNotFoundError, msgspec.DecodeError):
        return SavedState()


def save(directory: Path, saved: SavedState) -> None:
    """Replace the file atomically, so that a crash leaves the old or the new content."""
    text = json.dumps(msgspec.to_builtins(saved), indent=1)
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
    """The file of one life: what the life before left, and what is written for the next.

    ``boot`` names the host's boot: that it was seen before is remembered.
    """

    def __init__(self, directory: Path, boot: str = "") -> None:
        self._directory = directory
        self.last = load(directory)
        if self.last.boot.identity != boot:
            self.last = replace(self.last, boot=Boot(boot, time.monotonic()))
        self.drains = load_drains(directory)

    def save(self, incarnation: int, ports: Mapping[str, int]) -> None:
        """Write anew for this life; a file that cannot be written is an error in the log."""
        self._write(replace(self.last, incarnation=incarnation, ports=dict(ports)))

    def save_boots(self, boots: Mapping[str, str]) -> None:
        """Write down what boots other sites said, where that is news."""
        if boots != self.last.boots:
            self._write(replace(self.last, boots=dict(boots)))

    def _write(self, saved: SavedState) -> None:
        self.last = saved
        try:
            save(self._directory, self.last)
        except OSError as error:
            log.error("op=remember path=%s failed=%r", self._directory, error.strerror)

    def save_drains(self, drains: Drains) -> None:
        """Write what is drained by command. Raises ApiError."""
        save_drains(self._directory, drains)
        self.drains = drains
