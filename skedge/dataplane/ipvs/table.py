"""The kernel's IPVS table: virtual services of ours, known by their firewall mark, and their real servers.

Written with pyroute2, read from ``/proc/net/ip_vs``: one small file has services, servers, weights and counts, and is
read fifty times a second. A service that is known by its address is ours if our memory has a mark for that address, or
if it has our flag; all else is others' and only looked at for its address.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable, Collection, Mapping
from ipaddress import ip_address
from typing import Any
from typing import Protocol as Interface

from pyroute2 import IPVS, IPVSDest, IPVSService
from pyroute2.netlink.exceptions import NetlinkError

from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol
from skedge.core.objects import ListenerKey, Target
from skedge.dataplane.host.netlink import kernel_errors
from skedge.dataplane.ipvs.procfs import PROC, Found, ident_of, marks_at, parse, plain

SCHEDULER = "wlc"
_NUMBERS = {Protocol.TCP: socket.IPPROTO_TCP, Protocol.UDP: socket.IPPROTO_UDP}
_PROTOCOLS = {number: protocol for protocol, number in _NUMBERS.items()}
_MASQUERADE = 0
_PERSISTENT = 1
_OURS = 0x20  # "flag-3", which a scheduler may give a meaning to; wlc gives it none
_PER_CLIENT = _OURS | _PERSISTENT


class Table(Interface):
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

    def foreign(self, keys: Collection[ListenerKey]) -> frozenset[ListenerKey]:
        """Return those of the addresses that a service of others has."""
        ...


class KernelTable:
    """`Table` of this network namespace; one netlink socket a thread.

    ``places`` returns the address of each virtual service, by identity, that is to be known by that.
    """

    def __init__(self, places: Callable[[], Mapping[int, ListenerKey]] = dict) -> None:
        self._thread = threading.local()
        self._places = places

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
        places = marks_at(self._places())
        try:
            return parse(PROC.read_text(encoding="ascii"), places)
        except FileNotFoundError:
            self._ipvs  # noqa: B018  (loads the module, or says that there is none)
        with kernel_errors(f"read {PROC}"):
            return parse(PROC.read_text(encoding="ascii"), places)

    def foreign(self, keys: Collection[ListenerKey]) -> frozenset[ListenerKey]:
        """Return those of the addresses that a service of others has."""
        found = self.read().foreign
        known = frozenset(key for key in keys if plain(key) in found)
        flagged = self.flagged() if known else frozenset()
        return frozenset(key for key in known if plain(key) not in flagged)

    def flagged(self) -> frozenset[ListenerKey]:
        """Return the addresses of services that are as ours are, with our flag; of those too that no memory knows."""
        with kernel_errors("read virtual services"):
            found = [message.get_attr("IPVS_CMD_ATTR_SERVICE") for message in self._ipvs.service("dump")]
            return frozenset(
                ListenerKey(
                    str(ip_address(one.get_attr("IPVS_SVC_ATTR_ADDR"))),
                    int(one.get_attr("IPVS_SVC_ATTR_PORT")),
                    _PROTOCOLS[one.get_attr("IPVS_SVC_ATTR_PROTOCOL")],
                )
                for one in found
                if one.get_attr("IPVS_SVC_ATTR_PROTOCOL") in _PROTOCOLS
                and one.get_attr("IPVS_SVC_ATTR_PORT")
                and one.get_attr("IPVS_SVC_ATTR_SCHED_NAME") == SCHEDULER
                and one.get_attr("IPVS_SVC_ATTR_FLAGS")["flags"] & _PER_CLIENT == _PER_CLIENT
            )

    def delete_flagged(self, at: ListenerKey) -> None:
        """Remove a virtual service by its address; its connections end."""
        with kernel_errors(f"remove virtual service {at.address}:{at.port}"), _gone_is_success():
            self._ipvs.service("del", service=_at(at))

    def _service(self, mark: int, **attributes: object) -> Any:
        ident, family = ident_of(mark)
        at = self._places().get(ident)
        return _made(family, fwmark=mark, **attributes) if at is None else _at(at, **attributes)

    def put_service(self, mark: int, persistent_s: int) -> None:
        """Create or change a virtual service."""
        flags = {"flags": _OURS | (_PERSISTENT if persistent_s else 0), "mask": 0xFFFFFFFF}
        wanted = {"sched_name": SCHEDULER, "timeout": persistent_s, "flags": flags}
        with kernel_errors(f"virtual service {mark:#x}"):
            try:
                self._ipvs.service("add", service=self._service(mark, **wanted))
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
                self._ipvs.service("set", service=self._service(mark, **wanted))  # not "update": that deletes

    def delete_service(self, mark: int) -> None:
        """Remove a virtual service; its connections end."""
        with kernel_errors(f"remove virtual service {mark:#x}"), _gone_is_success():
            self._ipvs.service("del", service=self._service(mark))

    def put_server(self, mark: int, target: Target, weight: int) -> None:
        """Create a real server or set its weight."""
        with kernel_errors(f"real server {target.address}:{target.port} of {mark:#x}"):
            try:
                self._ipvs.dest("set", service=self._service(mark), dest=_server(target, weight))
            except NetlinkError as error:
                if error.code != errno.ENOENT:
                    raise
                self._ipvs.dest("add", service=self._service(mark), dest=_server(target, weight))

    def delete_server(self, mark: int, target: Target) -> None:
        """Remove a real server; its connections end."""
        with kernel_errors(f"remove real server {target.address}:{target.port} of {mark:#x}"), _gone_is_success():
            self._ipvs.dest("del", service=self._service(mark), dest=_server(target, 0))

    def chosen(self, mark: int) -> Mapping[Target, int]:
        """Return how many connections each real server of a service was given since it was made."""
        with kernel_errors(f"read real servers of {mark:#x}"):
            found: dict[Target, int] = {}
            for message in self._ipvs.dest("dump", service=self._service(mark)):
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


def _at(place: ListenerKey, **attributes: object) -> Any:
    address = ip_address(place.address)
    number = _NUMBERS[place.protocol]
    return _made(address.version, protocol=number, addr=str(address), port=place.port, **attributes)


def _made(family: int, **attributes: object) -> Any:
    if family == 4:
        return IPVSService(af=socket.AF_INET, netmask="255.255.255.255", **attributes)
    # For IPv6 this word is the length of a prefix, in the host's own order of bytes.
    length = socket.inet_ntoa(struct.pack("=I", 128))
    return IPVSService(af=socket.AF_INET6, netmask=length, **attributes)


def _server(target: Target, weight: int) -> Any:
    return IPVSDest(addr=target.address, port=target.port, fwd_method=_MASQUERADE, weight=weight)
