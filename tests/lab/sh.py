"""Running commands for the lab: short errors that name the command, output only when asked for."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CACHE = REPO / ".cache"
LABS = REPO / ".lab"


class LabError(Exception):
    """The lab cannot go on; the message says what to do."""


def environment_first() -> None:
    """Put the programs of this Python environment first on PATH."""
    own, path = sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != own:
        os.environ["PATH"] = f"{own}{os.pathsep}{path}"


def say(text: str) -> None:
    """Show progress, one line."""
    print(f"[lab {time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def run(*argv: str | Path, check: bool = True, stdin: str | None = None, timeout: float = 600) -> str:
    """Run a command, return its output; LabError with its last words when it fails and ``check`` is set."""
    done = subprocess.run(
        [str(a) for a in argv], input=stdin, capture_output=True, text=True, timeout=timeout, check=False
    )
    if check and done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise LabError(f"{' '.join(map(str, argv))[:300]}: exit {done.returncode}: {' | '.join(words)}")
    return done.stdout


def show(argv: Sequence[str | Path], log: Path, env: dict[str, str] | None = None, timeout: float = 900) -> None:
    """Run a long command with its output in ``log``; LabError with the end of it when it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        code = subprocess.run(
            [str(a) for a in argv],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env=env,
            timeout=timeout,
            check=False,
        ).returncode
    if code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise LabError(f"{argv[0]} failed (exit {code}); the end of {log}:\n{tail}")


def mounted(path: Path) -> bool:
    """Tell whether something is mounted exactly at ``path``, which may lead there by symbolic links."""
    escaped = str(path.resolve()).replace(" ", "\\040")
    return any(line.split()[1] == escaped for line in Path("/proc/mounts").read_text().splitlines())


def unmount(path: Path) -> None:
    """Unmount all that is at ``path``; a busy mount is detached, so that nothing keeps the name."""
    while mounted(path):
        if subprocess.run(["umount", str(path)], capture_output=True, check=False).returncode != 0:
            run("umount", "--lazy", path)
