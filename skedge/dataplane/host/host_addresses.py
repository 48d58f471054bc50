"""The host's own addresses and its devices' carrier, read and followed over netlink."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skedge.core.names import PREFIX
from skedge.dataplane.host.netlink import Netlink, attributes, kernel_errors, split_messages

_SCOPE_LINK = 253
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
# RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR; RTNLGRP_IPV4_NETCONF and IPV6_NETCONF are 24 and 25
_GROUPS = 0x1 | 0x10 | 0x100 | 1 << 23 | 1 << 24
_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWNETCONF = 16, 17, 20, 21, 80
_IFLA_IFNAME, _IFLA_MASTER = 3, 10
_NETCONFA_IFINDEX, _NETCONFA_FORWARDING = 1, 2
_ALL = -1  # NETCONFA_IFINDEX_ALL


def addresses(netlink: Netlink) -> frozenset[str]:
    """Return every address, with its ``/len``, that a listener on "every address" means: all but link-local ones."""
    return frozenset(
        f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}"
        for message in netlink.dump("addr")
        if not _link_local6(message)
    )


def _link_local6(message: Any) -> bool:
    return bool(message["family"] == socket.AF_INET6 and message["scope"] == _SCOPE_LINK)


def carriers(netlink: Netlink) -> Mapping[str, bool]:
    """Return for each link device of ours whether it is up and has a carrier."""
    return {
        str(link.get_attr("IFLA_IFNAME")): _running(link["flags"])
        for link in netlink.dump("links")
        if str(link.get_attr("IFLA_IFNAME")).startswith(PREFIX)
    }


def _running(flags: int) -> bool:
    return bool(flags & _IFF_UP and flags & _IFF_LOWER_UP)


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened since the last read. ``lost``: the kernel dropped news, so addresses and carriers are read anew.

    ``devices``: a device that is not ours came, went, or got another name or master. ``forwarding``: the host's own
    switch changed, and with it the setting of every device.
    """

    addresses: bool = False
    devices: bool = False
    carriers: Mapping[str, bool] | None = None
    lost: bool = False
    forwarding: bool = False


class HostWatch:
    """Follows addresses and carriers. ``fileno`` is for an event loop's reader; `read` never blocks."""

    def __init__(self) -> None:
        with kernel_errors("watch addresses and links"):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            self._socket.setblocking(False)
            self._socket.bind((0, _GROUPS))
        self._others: dict[int, tuple[bytes, bytes]] = {}  # index -> name, master; those that had news

    def fileno(self) -> int:
        """Return the descriptor that becomes readable on a change."""
        return self._socket.fileno()

    def read(self) -> Changes:
        """Return the changes that are waiting; a device of ours that went has no carrier."""
        changed, lost, devices, forwarding = False, False, False, False
        running: dict[str, bool] = {}
        while True:
            try:
                data = self._socket.recv(1 << 17)
            except BlockingIOError:
                return Changes(changed, devices, running or None, lost, forwarding)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            for kind, payload in split_messages(data):
                changed |= kind in (_NEWADDR, _DELADDR)
                forwarding |= kind == _NEWNETCONF and _is_switch(payload)
                if kind in (_NEWLINK, _DELLINK):
                    name = _device_name(payload)
                    if name.startswith(PREFIX):
                        flags = struct.unpack_from("=I", payload, 8)[0]
                        running[name] = kind == _NEWLINK and _running(flags)
                    else:
                        devices |= self._other_device(kind, payload)

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
        self._socket.close()


def _is_switch(payload: bytes) -> bool:
    """Return whether a message about settings tells that the host's switch for forwarding changed."""
    found = attributes(payload, 4)
    index = struct.unpack("=i", found.get(_NETCONFA_IFINDEX, bytes(4)))[0]
    return index == _ALL and _NETCONFA_FORWARDING in found


def _device_name(payload: bytes) -> str:
    """Return IFLA_IFNAME of a link message's payload."""
    return attributes(payload, 16).get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
