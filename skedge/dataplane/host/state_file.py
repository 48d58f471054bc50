"""For how long what was written down about the kernel counts: one boot, one network namespace."""

from __future__ import annotations

import os
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = "/proc/thread-self/ns/net"


def where() -> str:
    """Return what changes with a boot, and with another network namespace."""
    return f"{_BOOT_ID.read_text(encoding='ascii').strip()} {os.stat(_NAMESPACE).st_ino}"
