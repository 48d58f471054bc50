"""The host's settings of IPVS that the engine needs, and their taking back.

``conntrack``: else connections that leave over a link cannot be given the site's own address. ``expire_nodest_conn``
and ``expire_quiescent_template``: else a client stays with a server that is gone, or drained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from skedge.core.errors import DataplaneError

DIRECTORY = Path("/proc/sys/net/ipv4/vs")  # of the network namespace of the thread that opens it
WANTED: Mapping[str, str] = {"conntrack": "1", "expire_nodest_conn": "1", "expire_quiescent_template": "1"}


class SettingDriver:
    """Driver[str, str]: the settings of `WANTED`. ``before`` notes what they were; ``save_names`` writes it down."""

    def __init__(
        self, before: dict[str, str], save_names: Callable[[], None] = lambda: None, directory: Path = DIRECTORY
    ) -> None:
        self._before, self._save, self._directory = before, save_names, directory

    def read(self) -> Mapping[str, str]:
        """Return the settings as they are. Raises DataplaneError."""
        return {name: self._value(name) for name in WANTED}

    def put(self, key: str, value: str) -> None:
        """Set one, and note first what it was. Raises DataplaneError."""
        if key not in self._before:
            self._before[key] = self._value(key)
            self._save()
        self._write(key, value)

    def delete(self, key: str) -> None:
        """Set one back, if it is still ours. Raises DataplaneError."""
        undo({key: self._before[key]} if key in self._before else {}, self._directory)

    def _value(self, name: str) -> str:
        path = self._directory / name
        try:
            return path.read_text(encoding="ascii").strip()
        except OSError as error:
            raise DataplaneError(f"read {path}: {error.strerror}") from error

    def _write(self, name: str, value: str) -> None:
        path = self._directory / name
        try:
            path.write_text(f"{value}\n", encoding="ascii")
        except OSError as error:
            raise DataplaneError(
                f"set {path} to {value}: {error.strerror}; is /proc/sys writable for skedge?"
            ) from error


def undo(before: dict[str, str], directory: Path = DIRECTORY) -> list[str]:
    """Set back what is still ours; return what was. Raises DataplaneError."""
    done = []
    for name, value in before.items():
        path = directory / name
        try:
            if name in WANTED and path.exists() and path.read_text(encoding="ascii").strip() == WANTED[name]:
                path.write_text(f"{value}\n", encoding="ascii")
                done.append(name)
        except OSError as error:
            raise DataplaneError(f"set {path} to {value}: {error.strerror}") from error
    return done
