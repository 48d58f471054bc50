"""Which engine balances on this host, and why: what is configured, what serves already, what the host can.

The loader decides with root's rights and writes its verdict down; the controller reads it. An engine that is asked for
by name takes over from one that serves (daemon/kernel/handover.py); ``auto`` stays with what serves.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from skedge.core.errors import DataplaneError, HostError
from skedge.core.model import EngineKind
from skedge.dataplane.bpf import pins, programs_report
from skedge.dataplane.ipvs import procfs

VERDICT = Path("/run/skedge/engine.json")
_WAY_OUT = "to change it, give engine: ebpf"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The engine of this host, and why it is that one."""

    engine: EngineKind
    why: str


def serving(pin_dir: Path, proc: Path = procfs.PROC) -> EngineKind | None:
    """Return which engine has something of ours in this kernel."""
    if (pin_dir / pins.FIRST).exists():
        return EngineKind.EBPF
    try:
        found = procfs.parse(proc.read_text(encoding="ascii"))
    except OSError:
        return None
    return EngineKind.IPVS if found.ours else None


def has_ipvs(proc: Path = procfs.PROC) -> bool:
    """Return whether this kernel has IPVS, after loading its module where that is needed and allowed."""
    if not proc.exists():
        try:
            subprocess.run(["modprobe", "-q", "ip_vs"], capture_output=True, check=False, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return False
    return proc.exists()


def decide(
    wanted: EngineKind,
    serves: EngineKind | None,
    load: Callable[[], object],
    ipvs: Callable[[], bool] = has_ipvs,
) -> Verdict:
    """Load what the engine needs and return the verdict.

    Args:
        wanted: as configured.
        serves: as `serving` returned it.
        load: loads the programs of the engine ebpf; raises SkedgeError where this host cannot run them.
        ipvs: tells whether the kernel has IPVS.

    Raises:
        HostError: this host can run neither, or not the one that is configured.
    """
    if wanted is EngineKind.EBPF:
        load()
        return Verdict(wanted, "configured")
    if wanted is EngineKind.IPVS:
        if not ipvs():
            raise HostError("engine ipvs: this kernel has no IPVS (module ip_vs); install it, or give engine: ebpf")
        return Verdict(wanted, "configured")
    if serves is EngineKind.IPVS:
        return Verdict(serves, f"it serves already; {_WAY_OUT}")
    try:
        load()
    except (HostError, DataplaneError) as error:
        if serves is EngineKind.EBPF:
            raise
        if not ipvs():
            raise HostError(f"{error}; and this kernel has no IPVS (module ip_vs) to serve instead") from error
        return Verdict(EngineKind.IPVS, f"the engine ebpf cannot serve here: {error}")
    return Verdict(EngineKind.EBPF, "this host can run it")


def write(verdict: Verdict, path: Path = VERDICT) -> None:
    """Write the verdict for the controller, where its directory is there. Raises HostError."""
    if path.parent.is_dir():
        programs_report.replace_file(path, msgspec.json.encode(verdict) + b"\n")


def read(wanted: EngineKind, pin_dir: Path, path: Path = VERDICT) -> Verdict:
    """Return the verdict of the last loading run; without one, what is configured or serves."""
    if wanted is not EngineKind.AUTO:
        return Verdict(wanted, "configured")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Verdict)
    except (OSError, msgspec.DecodeError):
        return Verdict(serving(pin_dir) or EngineKind.EBPF, "it serves already" if serving(pin_dir) else "default")
