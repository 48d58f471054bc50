"""Waiting for programs that run: an RCU grace period, as every program of ours runs inside of an RCU read side."""

from __future__ import annotations

import ctypes
import platform
import time

_SYSCALL = {"x86_64": 324, "aarch64": 283}
_GLOBAL = 1  # MEMBARRIER_CMD_GLOBAL is synchronize_rcu()
_LIBC = ctypes.CDLL(None, use_errno=True)
OTHERWISE_S = 0.5  # a kernel with processors that never tick (nohz_full) refuses


def wait_for_programs() -> None:
    """Return when all programs that run now are through. The interpreter is free meanwhile."""
    if _LIBC.syscall(_SYSCALL.get(platform.machine(), -1), _GLOBAL, 0, 0) != 0:
        time.sleep(OTHERWISE_S)
