"""Which file sets a sysctl last when the host boots: as sysctl.d(5) orders them."""

from __future__ import annotations

import functools
from pathlib import Path

OURS = "60-skedge.conf"  # written by the role
_FOLDERS = ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d")
_LAST = "etc/sysctl.conf"  # read after all of them, by sysctl --system and (as 99-sysctl.conf) by systemd

Stamps = tuple[tuple[Path, int, int], ...]


def last_setting(key: str, root: Path = Path("/")) -> tuple[str, str]:
    """Return the file whose line for a key (with dots) holds at boot, and its value; "" and "" for none."""
    return _last_setting(key, root, _stamps(root))


def _stamps(root: Path) -> Stamps:
    """Return the files in the order in which they are read, each with when it was changed, and its size."""
    by_name: dict[str, Path] = {}
    for folder in _FOLDERS:
        for path in sorted((root / folder).glob("*.conf")):
            by_name.setdefault(path.name, path)
    found = []
    for path in [*(by_name[name] for name in sorted(by_name)), root / _LAST]:
        try:
            told = path.stat()
        except OSError:  # gone, or a link to nowhere
            continue
        found.append((path, told.st_mtime_ns, told.st_size))
    return tuple(found)


@functools.lru_cache(maxsize=16)
def _last_setting(key: str, root: Path, stamps: Stamps) -> tuple[str, str]:
    last = "", ""
    for path, *_ in stamps:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition("=")
            if name.strip().lstrip("-").replace("/", ".") == key:
                last = "/" + str(path.relative_to(root)), value.strip()
    return last
