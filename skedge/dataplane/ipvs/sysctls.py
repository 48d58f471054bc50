"""The host's settings of IPVS that the engine needs, and their taking back.

``conntrack``: else connections that leave over a link cannot be given the site's own address. ``expire_nodest_conn``
and ``expire_quiescent_template``: else a client stays with a server that is gone, or drained.
"""

from __future__ import annotations

from pathlib import Path

from skedge.core.errors import DataplaneError

DIRECTORY = Path("/proc/sys/net/ipv4/vs")  # of the network namespace of the thread that opens it
WANTED = {"conntrack": "1", "expire_nodest_conn": "1", "expire_quiescent_template": "1"}


def ensure(before: dict[str, str], directory: Path = DIRECTORY) -> bool:
    """Set what is not so; note in ``before`` what it was; return whether anything changed. Raises DataplaneError."""
    changed = False
    for name, value in WANTED.items():
        path = directory / name
        try:
            found = path.read_text(encoding="ascii").strip()
            if found != value:
                before.setdefault(name, found)
                path.write_text(f"{value}\n", encoding="ascii")
                changed = True
        except OSError as error:
            raise DataplaneError(
                f"set {path} to {value}: {error.strerror}; is /proc/sys writable for skedge?"
            ) from error
    return changed


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
