# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Compiles the eBPF programs on the control node, where it can, so that hosts need no compiler.

It can as root, with the distribution's bcc and kernel headers, for hosts of its own machine and Python. A release
(`release_file`) goes before that. Never is one host's bytecode given to another.
"""

from __future__ import annotations

import glob
import os
import platform
import subprocess
from pathlib import Path

PYTHON = "/usr/bin/python3"  # the one that the distribution's bcc is for
SHIPPED = Path("skedge") / "bpf" / "shipped.bytecode"
NEEDS = "msgspec"  # all that the loader imports beside the standard library
_VERSIONS = "import sys, bcc; print(bcc.__version__, '%d.%d' % sys.version_info[:2])"
_HEADERS = "/usr/src/linux-headers-*/include", f"/lib/modules/{platform.release()}/build/include"


class BytecodeError(Exception):
    """It does not compile here; the text is one sentence."""


def compiler(python: str, machine: str) -> str:
    """Return what compiles here for such hosts, as a word; empty where nothing can."""
    if os.geteuid() != 0 or platform.machine() != machine or not any(map(glob.glob, _HEADERS)):
        return ""
    try:
        done = subprocess.run([PYTHON, "-c", _VERSIONS], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    version, _, here = done.stdout.strip().partition(" ")
    return f"bcc {version}" if done.returncode == 0 and here == python else ""


def build(source: Path, site: Path, cache: Path) -> None:
    """Compile the programs of a copy of the project into it; ``site`` has the loader's needs. Raises BytecodeError."""
    environment = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{site}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [PYTHON, "-m", "skedge.loader.loader", "build", "--bytecode", str(SHIPPED), "--cache", str(cache)]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = next(reversed(done.stderr.splitlines()), f"the loader ended with {done.returncode}")
        raise BytecodeError(f"the control node cannot compile the eBPF programs ({last}); each host does it for itself")
