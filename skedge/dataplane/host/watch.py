"""What the kernel announces of this host: addresses, carriers, devices, and changes of objects of ours.

Two netlink sockets, rtnetlink and nfnetlink, behind one descriptor. Our own changes are announced like those of others:
who reads must compare, not believe.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from skedge.core.names import NFT_TABLE, PREFIX
from skedge.dataplane.host.host_addresses import is_local_route, running
from skedge.dataplane.host.netlink import (
    LAST_METRIC,
    MAIN,
    PROTOCOL,
    TABLES,
    attributes,
    kernel_errors,
    split_messages,
)

_SOL_NETLINK, _ADD_MEMBERSHIP, _NETLINK_NETFILTER = 270, 1, 12
# RTNLGRP_*: LINK, NEIGH, TC, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE, the NETCONFs
_GROUPS = (1, 3, 4, 5, 7, 8, 9, 11, 19, 24, 25)
_NFTABLES_GROUP = 7  # NFNLGRP_NFTABLES
_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE, _NEWNETCONF = 16, 17, 20, 21, 24, 25, 80
_NEIGH, _RULES, _TC = (28, 29), (32, 33), (36, 37, 44, 45, 100, 101, 102, 103)
_IFLA_IFNAME, _IFLA_MASTER = 3, 10
_NETCONFA_IFINDEX, _NETCONFA_FORWARDING = 1, 2
_RTA_PRIORITY, _RTA_TABLE = 6, 15
_ALL = -1  # NETCONFA_IFINDEX_ALL
_NFTA_TABLE = 1  # the name of the table, whatever the message is about


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened since the last read. ``lost``: the kernel dropped news, so addresses and carriers are read anew.

    ``devices``: a device that is not ours came, went, or got another name or master. ``forwarding``: the host's own
    switch changed, and with it the setting of every device. ``objects``: a rule, a route of ours, a filter, or
    something on a link device changed; ``nftables``: something in our table.
    """

    addresses: bool = False
    devices: bool = False
    carriers: Mapping[str, bool] | None = None
    lost: bool = False
    forwarding: bool = False
    objects: bool = False
    nftables: bool = False

    @property
    def compare(self) -> bool:
        """Whether the kernel must be compared with what it should hold."""
        news = (self.addresses, self.devices, self.forwarding, self.objects, self.nftables)
        return self.lost or any(news)


class HostWatch:
    """Follows the kernel's announcements. ``fileno`` is for an event loop's reader; `read` never blocks."""

    def __init__(self) -> None:
        with kernel_errors("watch addresses and links"):
            self._route = _listen(socket.NETLINK_ROUTE, *_GROUPS)
            self._poll = select.epoll()
            self._poll.register(self._route, select.EPOLLIN)
        self._nft: socket.socket | None = None
        with suppress(OSError):  # a kernel without nftables announces nothing, and has no table of ours
            self._nft = _listen(_NETLINK_NETFILTER, _NFTABLES_GROUP)
            self._poll.register(self._nft, select.EPOLLIN)
        self._others: dict[int, tuple[bytes, bytes]] = {}  # index -> name, master; those that had news

    def fileno(self) -> int:
        """Return the descriptor that becomes readable on a change."""
        return self._poll.fileno()

    def read(self) -> Changes:
        """Return the changes that are waiting; a device of ours that went has no carrier."""
        messages, lost = _waiting(self._route)
        found = dict.fromkeys(("addresses", "devices", "forwarding", "objects"), False)
        up: dict[str, bool] = {}
        for kind, payload in messages:
            found["addresses"] |= kind in (_NEWADDR, _DELADDR)
            found["forwarding"] |= kind == _NEWNETCONF and _is_switch(payload)
            found["objects"] |= kind in _RULES or kind in _TC or _is_ours(kind, payload)
            if kind in (_NEWLINK, _DELLINK):
                name = _device_name(payload)
                if name.startswith(PREFIX):
                    up[name] = kind == _NEWLINK and running(struct.unpack_from("=I", payload, 8)[0])
                    found["objects"] = True
                else:
                    found["devices"] |= self._other_device(kind, payload)
        tables, missed = _waiting(self._nft) if self._nft is not None else ([], False)
        nftables = missed or any(_of_our_table(payload) for _, payload in tables)
        return Changes(carriers=up or None, lost=lost, nftables=nftables, **found)

    def _other_device(self, kind: int, payload: bytes) -> bool:
        """Take note of a device that is not ours; return whether it is another one than was known."""
        if payload[0] != socket.AF_UNSPEC:  # a bridge's own news of its ports
            return False
        index = struct.unpack_from("=i", payload, 4)[0]
        found = attributes(payload, 16)
        known = self._others.get(index)
        if kind == _DELLINK:
            self._others.pop(index, None)
        else:
            self._others[index] = found.get(_IFLA_IFNAME, b""), found.get(_IFLA_MASTER, b"")
        return self._others.get(index) != known or kind == _DELLINK

    def close(self) -> None:
        """Stop watching."""
        self._poll.close()
        self._route.close()
        if self._nft is not None:
            self._nft.close()


def _listen(protocol: int, *groups: int) -> socket.socket:
    found = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    found.setblocking(False)
    found.bind((0, 0))
    for group in groups:
        found.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    return found


def _waiting(source: socket.socket) -> tuple[list[tuple[int, bytes]], bool]:
    """Return the messages that are waiting, and whether the kernel dropped some."""
    found: list[tuple[int, bytes]] = []
    lost = False
    while True:
        try:
            found += split_messages(source.recv(1 << 17))
        except BlockingIOError:
            return found, lost
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            lost = True


def _is_ours(kind: int, payload: bytes) -> bool:
    """Return whether a message is about a route (ours, or the host's to itself), a neighbour on a link device, or
    settings of one or of lo.
    """
    if kind in (_NEWROUTE, _DELROUTE):
        return payload[5] == PROTOCOL or is_local_route(payload) or _replaces(payload)  # rtm_protocol
    if kind in _NEIGH:
        return _named(struct.unpack_from("=i", payload, 4)[0]).startswith(PREFIX)
    if kind == _NEWNETCONF:
        name = _named(struct.unpack("=i", attributes(payload, 4).get(_NETCONFA_IFINDEX, bytes(4)))[0])
        return name.startswith(PREFIX) or name == "lo"
    return False


def _replaces(payload: bytes) -> bool:
    """Return whether a route of somebody else has a place that is ours: of one that replaces, nothing else is told."""
    found = attributes(payload, 12)
    table = struct.unpack("=I", found.get(_RTA_TABLE, bytes(4)))[0]
    metric = struct.unpack("=I", found.get(_RTA_PRIORITY, bytes(4)))[0]
    return table in TABLES or (table == MAIN and metric == LAST_METRIC)


def _named(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except (OSError, OverflowError):
        return ""


def _of_our_table(payload: bytes) -> bool:
    return attributes(payload, 4).get(_NFTA_TABLE, b"").rstrip(b"\0") == NFT_TABLE.encode()


def _is_switch(payload: bytes) -> bool:
    """Return whether a message about settings tells that the host's switch for forwarding changed."""
    found = attributes(payload, 4)
    index = struct.unpack("=i", found.get(_NETCONFA_IFINDEX, bytes(4)))[0]
    return index == _ALL and _NETCONFA_FORWARDING in found


def _device_name(payload: bytes) -> str:
    """Return IFLA_IFNAME of a link message's payload."""
    return attributes(payload, 16).get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
