"""The host's own addresses and its devices' carrier, read over netlink."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from skedge.core.names import PREFIX
from skedge.dataplane.host.netlink import Netlink

_SCOPE_LINK = 253
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000


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
        str(link.get_attr("IFLA_IFNAME")): running(link["flags"])
        for link in netlink.dump("links")
        if str(link.get_attr("IFLA_IFNAME")).startswith(PREFIX)
    }


def running(flags: int) -> bool:
    """Return whether flags of a device say that it is up and has a carrier."""
    return bool(flags & _IFF_UP and flags & _IFF_LOWER_UP)
