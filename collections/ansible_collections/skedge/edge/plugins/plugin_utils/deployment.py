# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""This run of ansible-playbook, as marks on hosts name it, and whether another one of this machine still lives."""

from __future__ import annotations

import getpass
import os
import platform
from pathlib import Path

MARK = ".deploying"  # beside the authority


def here() -> str:
    """Return what tells this machine's processes from any other's: two containers of one machine are two."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{platform.node()}/{boot}/{Path('/proc/self/ns/pid').readlink()}"


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; "" when there is none of that number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def owner(pid: int | None = None) -> dict[str, str]:
    """Return who this run is. Tasks run in children of ansible-playbook, whose number is ``pid``."""
    pid = pid or os.getppid()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        user = str(os.getuid())
    return {"id": f"{here()}#{pid}#{_started(pid)}", "who": f"{user}@{platform.node()} (process {pid})"}


def gone(identity: str) -> bool:
    """Return whether a run was one of this machine, and is no more."""
    place, _, process = identity.partition("#")
    pid, _, started = process.partition("#")
    return place == here() and pid.isdigit() and _started(int(pid)) != started


def sentence(where: str, held: dict[str, object]) -> str:
    """Return what to do about another's mark."""
    return (
        f"{where}: another deployment, of {held['who']}, is under way there since {held['for_s']} s; wait for its end, "
        f"and deploy again. If it was broken off, its mark ends in {held['left_s']} s; -e skedge_seize_lease=true "
        "takes it now"
    )
