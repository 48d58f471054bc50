"""Removing what the engine `ipvs` has outside of our nftables table: virtual services, settings, its memory."""

from __future__ import annotations

from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol
from skedge.core.objects import ListenerKey
from skedge.dataplane.ipvs import names_file, sysctls
from skedge.dataplane.ipvs.procfs import PROC, parse
from skedge.dataplane.ipvs.table import KernelTable

_SERVICE, _SETTING, _MEMORY = "service ", "setting ", "memory"


def found(state: Path) -> list[str]:
    """Return what there is to remove. Raises DataplaneError."""
    path = state / names_file.FILE
    try:
        marks = sorted(parse(PROC.read_text(encoding="ascii")).ours)
    except OSError:  # no IPVS in this kernel, or nobody used it
        marks = []
    services = [f"{_SERVICE}{mark:#x}" for mark in marks]
    if PROC.exists():
        services += [f"{_SERVICE}{at.protocol}/{at.address}/{at.port}" for at in KernelTable().flagged()]
    settings = [f"{_SETTING}{name}" for name in sorted(names_file.load(path).settings)]
    return [*services, *settings, *([_MEMORY] if path.exists() else [])]


def remove(key: str, state: Path) -> None:
    """Remove one of them; what a setting was is in the memory, which goes last. Raises DataplaneError."""
    path = state / names_file.FILE
    if key.startswith(_SERVICE) and "/" in key:
        protocol, address, port = key.removeprefix(_SERVICE).split("/")
        KernelTable().delete_flagged(ListenerKey(address, int(port), Protocol(protocol)))
    elif key.startswith(_SERVICE):
        KernelTable().delete_service(int(key.removeprefix(_SERVICE), 16))
    elif key.startswith(_SETTING):
        name = key.removeprefix(_SETTING)
        sysctls.undo({name: names_file.load(path).settings[name]})
    else:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DataplaneError(f"remove {path}: {error.strerror}") from error
