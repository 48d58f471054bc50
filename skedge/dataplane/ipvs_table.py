"""The kernel's IPVS table: virtual services of ours, known by their firewall mark, and their real servers.

Written with pyroute2, read from ``/proc/net/ip_vs``: one small file has services, servers, weights and counts, and is
read fifty times a second. Services without a mark of ours are others' and only looked at for their addresses.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, Protocol

from pyroute2 import IPVS, IPVSDest, IPVSService
from pyroute2.netlink.exceptions import NetlinkError

from skedge.core.errors import DataplaneError
from skedge.core.state import Target
from skedge.dataplane.netlink import kernel_errors

MARK = 0x5CED0000  # the upper half of every mark of ours
MARK_MASK = 0xFFFF0000
IDS = 1 << 15
SCHEDULER = "wlc"
PROC = Path("/proc/thread-self/net/ip_vs")  # of the network namespace of the thread that opens it
CONNECTIONS = Path("/proc/thread-self/net/ip_vs_conn")
_MASQUERADE = 0
_PERSISTENT = 1


def mark_of(ident: int, family: int) -> int:
    """Return the mark of a virtual service: each has one a family (4 or 6)."""
    return MARK | ident << 1 | (family == 6)


def ident_of(mark: int) -> tuple[int, int]:
    """Return identity and family of a mark of ours."""
    return (mark & ~MARK_MASK) >> 1, 6 if mark & 1 else 4


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
    """Everything in the table: services of ours by mark, and the addresses of others (protocol, address, port)."""

    ours: Mapping[int, VirtualService] = field(default_factory=dict)
    foreign: frozenset[tuple[str, str, int]] = frozenset()


class Table(Protocol):
    """What the engine needs of IPVS; every change that is there already, or gone already, is success."""

    def read(self) -> Found:
        """Return the table. Raises DataplaneError."""
        ...

    def put_service(self, mark: int, persistent_s: int) -> None:
        """Create or change a virtual service."""
        ...

    def delete_service(self, mark: int) -> None:
        """Remove a virtual service; its connections end."""
        ...

    def put_server(self, mark: int, target: Target, weight: int) -> None:
        """Create a real server or set its weight."""
        ...

    def delete_server(self, mark: int, target: Target) -> None:
        """Remove a real server; its connections end."""
        ...

    def chosen(self, mark: int) -> Mapping[Target, int]:
        """Return how many connections each real server of a service was given since it was made."""
        ...


class KernelTable:
    """`Table` of this network namespace; one netlink socket a thread."""

    def __init__(self) -> None:
        self._thread = threading.local()

    @property
    def _ipvs(self) -> Any:
        if not hasattr(self._thread, "ipvs"):
            try:
                self._thread.ipvs = IPVS()
                next(iter(self._thread.ipvs.service("dump")), None)  # the module is loaded by the first question
            except (NetlinkError, OSError) as error:
                raise DataplaneError(
                    "this kernel has no IPVS (module ip_vs); load or install it, or give engine: ebpf"
                ) from error
        return self._thread.ipvs

    def read(self) -> Found:
        """Return the table. Raises DataplaneError."""
        try:
            return parse(PROC.read_text(encoding="ascii"))
        except FileNotFoundError:
            self._ipvs  # noqa: B018  (loads the module, or says that there is none)
        with kernel_errors(f"read {PROC}"):
            return parse(PROC.read_text(encoding="ascii"))

    def put_service(self, mark: int, persistent_s: int) -> None:
        """Create or change a virtual service."""
        flags = {"flags": _PERSISTENT if persistent_s else 0, "mask": 0xFFFFFFFF}
        wanted = {"sched_name": SCHEDULER, "timeout": persistent_s, "flags": flags}
        with kernel_errors(f"virtual service {mark:#x}"):
            try:
                self._ipvs.service("add", service=_service(mark, **wanted))
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
                self._ipvs.service("set", service=_service(mark, **wanted))  # not "update": that deletes

    def delete_service(self, mark: int) -> None:
        """Remove a virtual service; its connections end."""
        with kernel_errors(f"remove virtual service {mark:#x}"), _gone_is_success():
            self._ipvs.service("del", service=_service(mark))

    def put_server(self, mark: int, target: Target, weight: int) -> None:
        """Create a real server or set its weight."""
        with kernel_errors(f"real server {target.address}:{target.port} of {mark:#x}"):
            try:
                self._ipvs.dest("set", service=_service(mark), dest=_server(target, weight))
            except NetlinkError as error:
                if error.code != errno.ENOENT:
                    raise
                self._ipvs.dest("add", service=_service(mark), dest=_server(target, weight))

    def delete_server(self, mark: int, target: Target) -> None:
        """Remove a real server; its connections end."""
        with kernel_errors(f"remove real server {target.address}:{target.port} of {mark:#x}"), _gone_is_success():
            self._ipvs.dest("del", service=_service(mark), dest=_server(target, 0))

    def chosen(self, mark: int) -> Mapping[Target, int]:
        """Return how many connections each real server of a service was given since it was made."""
        with kernel_errors(f"read real servers of {mark:#x}"):
            found: dict[Target, int] = {}
            for message in self._ipvs.dest("dump", service=_service(mark)):
                server = message.get_attr("IPVS_CMD_ATTR_DEST")
                stats = server.get_attr("IPVS_DEST_ATTR_STATS64") or server.get_attr("IPVS_DEST_ATTR_STATS")
                target = Target(
                    str(server.get_attr("IPVS_DEST_ATTR_ADDR")), int(server.get_attr("IPVS_DEST_ATTR_PORT"))
                )
                found[target] = int(stats.get_attr("IPVS_STATS_ATTR_CONNS"))
            return found


class _gone_is_success:
    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        return isinstance(error, NetlinkError) and error.code in (errno.ENOENT, errno.ESRCH)


def _service(mark: int, **attributes: object) -> Any:
    _, family = ident_of(mark)
    if family == 4:
        return IPVSService(af=socket.AF_INET, fwmark=mark, netmask="255.255.255.255", **attributes)
    # For IPv6 this word is the length of a prefix, in the host's own order of bytes.
    length = socket.inet_ntoa(struct.pack("=I", 128))
    return IPVSService(af=socket.AF_INET6, fwmark=mark, netmask=length, **attributes)


def _server(target: Target, weight: int) -> Any:
    return IPVSDest(addr=target.address, port=target.port, fwd_method=_MASQUERADE, weight=weight)


# ---- /proc/net/ip_vs ---------------------------------------------------------------------------------------------


def parse(text: str) -> Found:
    """Return what the file says; a line of another shape belongs to no service of ours.

    Services with several hundred servers come in several reads of the kernel's, each right by itself.
    """
    ours: dict[int, VirtualService] = {}
    foreign: set[tuple[str, str, int]] = set()
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
        elif words[0] in ("TCP", "UDP", "SCTP"):
            target = parse_target(words[1])
            foreign.add((words[0].lower(), target.address, target.port))
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
