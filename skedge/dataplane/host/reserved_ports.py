"""Source ports that the kernel must not give to other programs: whether they are reserved, and what undid it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from skedge.core.model import Protocol, SiteConfig
from skedge.dataplane.host.sysctl_files import OURS, last_setting

KEY = "net.ipv4.ip_local_reserved_ports"
_PROC = Path("/proc/sys/net/ipv4")
_NAMES = ("ip_local_port_range", "ip_local_reserved_ports")
_RANGE = "net.ipv4.ip_local_port_range"
_HARM = "so other programs get them as source ports and may meet what comes for endpoints and listeners"


def needed(config: SiteConfig) -> frozenset[int]:
    """Return the ports that no other program's source port may be: of endpoints, of NAT, of UDP listeners."""
    ranges = [config.endpoint_ports, *([config.lan.ports] if config.lan.devices else [])]
    ports = {port for first, last in ranges for port in range(first, last + 1)}
    return frozenset(ports | {one.port for one in config.listeners if one.protocol is Protocol.UDP})


def complaint(config: SiteConfig, proc: Path = _PROC, root: Path = Path("/")) -> str:
    """Return what is wrong now and the way out as one sentence; "" where nothing is, or it cannot be read."""
    try:
        lacking = _lacking(config, *((proc / name).read_text(encoding="ascii") for name in _NAMES))
    except (OSError, ValueError):
        return ""
    if not lacking:
        return ""
    file = _foreign(root)[0]
    cause = f"{file} sets it last: add them there" if file else "a program has changed it"
    return f"{KEY} lacks {_ranges(lacking)}, {_HARM}; {cause}, and run the deploy playbook"


def at_next_boot(config: SiteConfig, proc: Path = _PROC, root: Path = Path("/")) -> str:
    """Return the same of what will be wrong when the host boots, by its files."""
    file, reserved = _foreign(root)
    try:
        ephemeral = last_setting(_RANGE, root)[1] or (proc / _NAMES[0]).read_text(encoding="ascii")
        lacking = _lacking(config, ephemeral, reserved) if file else set()
    except (OSError, ValueError):
        return ""
    return f"{file} sets {KEY} without {_ranges(lacking)} at the next boot, {_HARM}; add them there" if lacking else ""


def _foreign(root: Path) -> tuple[str, str]:
    """Return file and value of the last setting at boot where that file is not ours, else two times ""."""
    file, value = last_setting(KEY, root)
    return ("", "") if file.rpartition("/")[2] == OURS else (file, value)


def _lacking(config: SiteConfig, ephemeral: str, reserved: str) -> set[int]:
    """Return the needed ports that the kernel gives to others, by both settings as text. Raises ValueError."""
    low, high = (int(word) for word in ephemeral.split())
    return {port for port in needed(config) if low <= port <= high} - _parsed(reserved)


def _parsed(text: str) -> set[int]:
    ports: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            ports.update(range(int(first), int(last or first) + 1))
    return ports


def _ranges(ports: Iterable[int]) -> str:
    found: list[list[int]] = []
    for port in sorted(ports):
        if found and found[-1][1] == port - 1:
            found[-1][1] = port
        else:
            found.append([port, port])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
