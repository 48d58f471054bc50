"""What the kernel says of IPVS in ``/proc/net``: services, servers, weights and counts; connections.

Services of ours are known by their firewall mark, or by an address that our memory has a mark for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol
from skedge.core.objects import ListenerKey, Target

MARK = 0x5CED0000  # the upper half of every mark of ours
MARK_MASK = 0xFFFF0000
IDS = 1 << 15
PROC = Path("/proc/thread-self/net/ip_vs")  # of the network namespace of the thread that opens it
CONNECTIONS = Path("/proc/thread-self/net/ip_vs_conn")


def mark_of(ident: int, family: int) -> int:
    """Return the mark of a virtual service: each has one a family (4 or 6)."""
    return MARK | ident << 1 | (family == 6)


def ident_of(mark: int) -> tuple[int, int]:
    """Return identity and family of a mark of ours."""
    return (mark & ~MARK_MASK) >> 1, 6 if mark & 1 else 4


def marks_at(places: Mapping[int, ListenerKey]) -> Mapping[ListenerKey, int]:
    """Return the mark of each address."""
    return {plain(at): mark_of(ident, ip_address(at.address).version) for ident, at in places.items()}


def plain(key: ListenerKey) -> ListenerKey:
    """Return the key with its address written as the table's reader writes it."""
    return ListenerKey(canonical(Target(key.address, key.port)).address, key.port, key.protocol)


@dataclass(frozen=True, slots=True)
class RealServer:
    """One real server as the kernel counts it."""

    weight: int
    active: int = 0
    inactive: int = 0


@dataclass(frozen=True, slots=True)
class VirtualService:
    """One virtual service of ours; ``persistent``: a client keeps its server (the time is in jiffies, so not read)."""

    persistent: bool = False
    servers: Mapping[Target, RealServer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """Everything in the table: services of ours by mark, and the addresses of others."""

    ours: Mapping[int, VirtualService] = field(default_factory=dict)
    foreign: frozenset[ListenerKey] = frozenset()


# ---- /proc/net/ip_vs ---------------------------------------------------------------------------------------------


def parse(text: str, places: Mapping[ListenerKey, int] | None = None) -> Found:
    """Return what the file says; a line of another shape belongs to no service of ours.

    ``places``: the marks that our memory has for services which the kernel knows by their address.

    Services with several hundred servers come in several reads of the kernel's, each right by itself.
    """
    ours: dict[int, VirtualService] = {}
    foreign: set[ListenerKey] = set()
    servers: dict[Target, RealServer] | None = None
    for words in _lines(text):
        if words[0] == "->":
            if servers is not None and len(words) == 6:
                servers[parse_target(words[1])] = RealServer(*(int(word) for word in words[3:6]))
            continue
        servers = None
        if words[0] == "FWM":
            mark = int(words[1], 16)
            if mark & MARK_MASK == MARK:
                servers = {}
                ours[mark] = VirtualService("persistent" in words, servers)
        elif words[0] in ("TCP", "UDP"):
            target = parse_target(words[1])
            key = ListenerKey(target.address, target.port, Protocol(words[0].lower()))
            if (at := (places or {}).get(key)) is None:
                foreign.add(key)
            else:
                servers = {}
                ours[at] = VirtualService("persistent" in words, servers)
    return Found(ours, frozenset(foreign))


def _lines(text: str) -> Iterator[list[str]]:
    for line in text.splitlines()[2:]:
        words = line.split()
        if len(words) >= 2 and words[1] != "RemoteAddress:Port":
            yield words


def parse_target(word: str) -> Target:
    """Return an address and port as IPVS writes them: ``0A000005:1F90``, ``[fd00:0000:…]:EE48``."""
    address, _, port = word.rpartition(":")
    return Target(parse_address(address.strip("[]")), int(port, 16))


def parse_address(word: str) -> str:
    """Return an address as IPVS writes it: eight hexadecimal digits, or IPv6 in full."""
    return str(IPv6Address(word)) if ":" in word else str(IPv4Address(int(word, 16)))


# ---- /proc/net/ip_vs_conn ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection of the kernel's table; ``expires_s``: it ends so long after its last packet, less what passed."""

    protocol: str
    client: Target
    virtual: Target
    server: Target
    state: str
    expires_s: int


def connections() -> Iterable[Connection]:
    """Yield the connections that IPVS has, others' too. Raises DataplaneError."""
    try:
        with CONNECTIONS.open(encoding="ascii") as lines:
            yield from parse_connections(lines)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataplaneError(f"read {CONNECTIONS}: {os.strerror(error.errno or 0)}") from error


def parse_connections(lines: Iterable[str]) -> Iterator[Connection]:
    """Yield the connections of the file's lines; templates of persistence are none."""
    for line in lines:
        words = line.split()
        if len(words) < 9 or words[0] not in ("TCP", "UDP") or words[7] == "NONE":
            continue
        client, virtual, server = (Target(parse_address(words[i]), int(words[i + 1], 16)) for i in (1, 3, 5))
        yield Connection(words[0].lower(), client, virtual, server, words[7], int(words[8]))


@lru_cache(maxsize=8192)
def canonical(target: Target) -> Target:
    """Return a target with its address written as the table's reader writes it."""
    return Target(str(ip_address(target.address)), target.port)
