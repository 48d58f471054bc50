"""Takes everything of skedge out of the kernel, by the commands of the data plane that do it as root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from skedge.cli.client import NotRunning, ask
from skedge.config import load
from skedge.core.api.documents import VERSION, Request
from skedge.core.errors import ApiError, ConfigError, HostError
from skedge.core.names import overlay_prefix6

CONFIG_PATH = "/etc/skedge/skedge.yaml"
TIMEOUT_S = 120


class Step(msgspec.Struct, frozen=True):
    """One command: what it takes away, whether it succeeded, and what it said."""

    what: str
    done: bool
    output: str


class PurgeReport(msgspec.Struct, frozen=True):
    """JSON document of `purge`."""

    steps: list[Step]
    version: int = VERSION


def refuse_unless_possible(socket_path: str) -> None:
    """Raise HostError unless this user is root and no controller runs, which would put everything back."""
    if os.geteuid() != 0:
        raise HostError("only root can change the kernel; run: sudo skedge purge")
    try:
        ask(Request("status"), socket_path)
    except NotRunning:
        return
    except ApiError as error:
        raise HostError(f"a controller runs but is not well ({error}); stop it: systemctl stop skedge") from error
    raise HostError("the controller runs and would put everything back; stop it first: systemctl stop skedge")


def commands(config_path: str = CONFIG_PATH) -> list[tuple[str, list[str]]]:
    """Return the steps: listeners go first, so that new connections find the host's own sockets; then links, so that
    none is ever up without the packet check that the loader holds.
    """
    loader = Path(sys.executable).parent / "skedge-loader"
    overlay = [word for network in _overlay(config_path) for word in ("--overlay", network)]
    return [
        ("listeners", [str(loader), "withdraw"]),
        ("links, routes and addresses", [sys.executable, "-m", "skedge.dataplane.purge", *overlay]),
        ("programs and maps", [str(loader), "unload"]),
    ]


def _overlay(config_path: str) -> list[str]:
    """Return the overlay's networks: a kernel that cannot mark addresses as ours needs them to recognise ours."""
    try:
        config = load(config_path)
    except ConfigError:
        return []
    return [config.overlay_cidr, overlay_prefix6(config.network)]


def run() -> PurgeReport:
    """Run every step, also after one that failed."""
    return PurgeReport([_step(what, command) for what, command in commands()])


def _step(what: str, command: list[str]) -> Step:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
    except OSError as error:
        return Step(what, False, f"{command[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Step(what, False, f"not done after {TIMEOUT_S} s")
    said = done.stdout if done.returncode == 0 else done.stderr or done.stdout
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return Step(what, done.returncode == 0, ", ".join(lines) if done.returncode == 0 else "".join(lines[-1:]))
