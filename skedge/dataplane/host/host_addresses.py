"""The host's own addresses and its devices' carrier, read over netlink."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

from skedge.core.names import PREFIX
from skedge.dataplane.host.netlink import Netlink, attributes, dump_retry, kernel_errors, request

_SCOPE_LINK = 253
_RTM_GETROUTE, _RTA_DST, _RTN_LOCAL, _RTPROT_KERNEL, _LOCAL_TABLE = 26, 1, 2, 2, 255
_TAKEN = (2, 3, 4)  # RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000


def addresses(netlink: Netlink) -> frozenset[str]:
    """Return every address, with its ``/len``, that a listener on "every address" means: all but link-local ones."""
    return frozenset(
        f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}"
        for message in netlink.dump("addr")
        if not _link_local6(message)
    )


@dump_retry
def host_prefixes() -> frozenset[str]:
    """Return the prefixes that are the host's own by a local route, beside its addresses: AnyIP, but not loopback."""
    found = set()
    with kernel_errors("read the local routes"):
        for family in (socket.AF_INET, socket.AF_INET6):
            body = struct.pack("=8BI", family, 0, 0, 0, _LOCAL_TABLE, 0, 0, 0, 0)
            for _, payload in request(_RTM_GETROUTE, body, dump=True, strict=True):
                if payload[0] == family and is_local_route(payload) and (prefix := _prefix(payload)) is not None:
                    found.add(prefix)
    return frozenset(found)


def is_local_route(payload: bytes) -> bool:
    """Return whether a message is about a route of the host to itself, which is not that of one of its addresses."""
    family, length, _, _, table, protocol, _, kind = payload[:8]
    whole = length == (32 if family == socket.AF_INET else 128)
    return table == _LOCAL_TABLE and kind == _RTN_LOCAL and length > 0 and not (whole and protocol == _RTPROT_KERNEL)


def _prefix(payload: bytes) -> str | None:
    raw = attributes(payload, 12).get(_RTA_DST)
    if raw is None:
        return None
    network = ip_network((raw, payload[1]), strict=False)
    return None if network.is_loopback or network.is_link_local else str(network)


def local(netlink: Netlink) -> frozenset[str]:
    """Return what the kernel takes in itself, as prefixes: addresses, broadcast and anycast, and local routes.

    That is its own table, which it asks before any other. Loopback, link-local and multicast addresses are left out:
    no site can announce them.
    """
    found = (
        ip_network(f"{message.get_attr('RTA_DST')}/{message['dst_len']}")
        for family in (socket.AF_INET, socket.AF_INET6)
        for message in netlink.routes(family, _LOCAL_TABLE)
        if message["type"] in _TAKEN and message.get_attr("RTA_TABLE") == _LOCAL_TABLE and message.get_attr("RTA_DST")
    )
    return frozenset(
        str(one) for one in found if not (one.is_loopback or one.network_address.is_link_local or one.is_multicast)
    )


def _link_local6(message: Any) -> bool:
    return bool(message["family"] == socket.AF_INET6 and message["scope"] == _SCOPE_LINK)


def carriers(netlink: Netlink) -> Mapping[str, bool]:
    """Return for each link device of ours whether it is up and has a carrier."""
    return {
        str(link.get_attr("IFLA_IFNAME")): running(link["flags"])
        for link in netlink.dump("links")
        if str(link.get_attr("IFLA_IFNAME")).startswith(PREFIX)
    }


def running(flags: int) -> bool:
    """Return whether flags of a device say that it is up and has a carrier."""
    return bool(flags & _IFF_UP and flags & _IFF_LOWER_UP)
