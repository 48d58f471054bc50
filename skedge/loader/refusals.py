"""What was refused, so that a service that is started again and again does not compile or verify it again and again.

A refusal counts for one boot, and so for one kernel. It goes by the digest of what was refused: another version's
programs are tried at once, and `skedge-loader load --again` tries the same ones.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from skedge.core.errors import DataplaneError, HostError
from skedge.loader import owned_files

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SUFFIX = ".refused"


class Refused(DataplaneError):
    """Under the same conditions it will be refused again, unlike what failed for want of memory."""


class RefusedBefore(Refused):
    """It was not tried; the sentence is that of the time when it was."""


class Refusals:
    """The refusals in a directory; without one, nothing is remembered. ``again``: whatever was refused is tried."""

    def __init__(self, directory: Path | None, *, again: bool = False) -> None:
        self._directory, self._again = directory, again

    def check(self, digest: str) -> None:
        """Raise RefusedBefore where this was refused since the host started."""
        if self._directory is None or self._again:
            return
        with suppress(OSError, UnicodeDecodeError):
            boot, _, why = self._path(self._directory, digest).read_text(encoding="utf-8").partition("\n")
            if boot == _boot():
                raise RefusedBefore(why.strip())

    def note(self, digest: str, why: str) -> None:
        """Remember a refusal, and forget those of earlier boots; a full disk is no reason not to serve."""
        if self._directory is None:
            return
        with suppress(HostError, OSError):
            owned_files.ensure_directory(self._directory)
            for old in self._directory.glob(f"*{_SUFFIX}"):
                if not old.read_text(encoding="utf-8", errors="replace").startswith(f"{_boot()}\n"):
                    old.unlink(missing_ok=True)
            owned_files.write(self._path(self._directory, digest), f"{_boot()}\n{why}\n".encode())

    def forget(self, digest: str) -> None:
        """Forget a refusal: it was tried again, and went."""
        if self._directory is not None:
            with suppress(OSError):
                self._path(self._directory, digest).unlink(missing_ok=True)

    @staticmethod
    def _path(directory: Path, digest: str) -> Path:
        return directory / f"{digest}{_SUFFIX}"


def digest_of(*parts: object) -> str:
    """Return what a refusal of something that is made of these parts goes by."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _boot() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()
