"""What survives a restart on disk: the incarnation, the endpoint ports, the boots of this host and of other sites.
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

from skedge.core.linkstate.boots import Boot

log = logging.getLogger("skedge.daemon")


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
    with NamedTemporaryFile("w", dir=directory, prefix=".state.", delete=False) as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(directory / "state.json")


class Memory:
    """The file of one life: what the life before left, and what is written for the next.

    ``boot`` names the host's boot: that it was seen before is remembered.
    """

    def __init__(self, directory: Path, boot: str = "") -> None:
        self._directory = directory
        self.last = load(directory)
        if self.last.boot.identity != boot:
            self.last = replace(self.last, boot=Boot(boot, time.monotonic()))

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
