"""Source ports that the kernel must not give to other programs: whether they are reserved, and what undid it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from skedge.core.model import Protocol, SiteConfig

KEY = "net.ipv4.ip_local_reserved_ports"
_PROC = Path("/proc/sys/net/ipv4")
_FOLDERS = ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d")
_LAST = "etc/sysctl.conf"  # read after all of them, by sysctl --system and (as 99-sysctl.conf) by systemd


def needed(config: SiteConfig) -> frozenset[int]:
    """Return the ports that no other program's source port may be: of endpoints, of NAT, of UDP listeners."""
    ranges = [config.endpoint_ports, *([config.lan.ports] if config.lan.devices else [])]
    ports = {port for first, last in ranges for port in range(first, last + 1)}
    return frozenset(ports | {one.port for one in config.listeners if one.protocol is Protocol.UDP})


def complaint(config: SiteConfig, proc: Path = _PROC, root: Path = Path("/")) -> str:
    """Return what is wrong and the way out as one sentence; "" where nothing is, or it cannot be read."""
    try:
        low, high = (int(word) for word in (proc / "ip_local_port_range").read_text(encoding="ascii").split())
        reserved = _parsed((proc / "ip_local_reserved_ports").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return ""
    lacking = {port for port in needed(config) if low <= port <= high} - reserved
    if not lacking:
        return ""
    file = _winner(root)
    cause = f"{file} sets it last: add them there" if file else "a program has changed it"
    return (
        f"{KEY} lacks {_ranges(lacking)}, so other programs get them as source ports and may meet what comes "
        f"for endpoints and listeners; {cause}, and run the deploy playbook"
    )


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


def _winner(root: Path) -> str:
    """Return the file whose line for the key holds at boot, "" for ours or none: as sysctl.d(5) orders them."""
    by_name: dict[str, Path] = {}
    for folder in _FOLDERS:
        for path in sorted((root / folder).glob("*.conf")):
            by_name.setdefault(path.name, path)
    last = ""
    for path in [*(by_name[name] for name in sorted(by_name)), root / _LAST]:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        if any(line.split("=")[0].strip().lstrip("-").replace("/", ".") == KEY for line in lines):
            last = "" if path.name == "60-skedge.conf" else "/" + str(path.relative_to(root))
    return last
