"""Creates link devices: what cannot be changed on them later, wanted and as read."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from skedge.core.errors import DataplaneError
from skedge.core.objects import LinkDevice
from skedge.core.transports import Transport
from skedge.dataplane.host.netlink import Netlink
from skedge.dataplane.links.device import mac_text, transport_of
from skedge.dataplane.links.transports.strategy import Strategy

Strategies = Mapping[Transport, Strategy]


def create(netlink: Netlink, name: str, want: LinkDevice, strategy: Strategy) -> None:
    """Create the device, down. Raises DataplaneError, NetlinkError."""
    attributes: dict[str, object] = {"ifname": name, "kind": want.transport.facts.kinds[0]}
    if mac := mac_text(want, want.link_local):
        attributes["address"] = mac
    underlay = netlink.index(want.underlay) if want.underlay else None
    if want.underlay and underlay is None:
        raise DataplaneError(f"link {want.link}: this host has no device {want.underlay}; correct the link's device")
    attributes |= strategy.attributes(want, underlay)
    try:
        netlink.ipr.link("add", **attributes)
    except NetlinkError as error:
        if error.code == errno.EOPNOTSUPP:
            raise DataplaneError(f"link {want.link}: {strategy.lacking(name, str(attributes['kind']))}") from error
        raise


def shape(link: Any, names: Mapping[int, str], strategies: Strategies) -> dict[str, Any]:
    """Return what cannot be changed on a living device of ours: its tunnel or underlay, and its MAC address."""
    transport = transport_of(link)
    if transport is None:
        raise ValueError(f"{link.get_attr('IFLA_IFNAME')} is no link device")
    data = link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    underlay = names.get(link.get_attr("IFLA_LINK") or 0, "")
    mac = "" if transport.facts.layer3 else str(link.get_attr("IFLA_ADDRESS"))
    return {"mac": mac, "model": {"transport": transport, "underlay": underlay, **strategies[transport].shape(data)}}


def wanted_shape(value: LinkDevice, strategies: Strategies) -> dict[str, Any]:
    """Return the shape that `shape` reads from a right device."""
    model: dict[str, Any] = {"transport": value.transport, "underlay": value.underlay}
    for field in strategies[value.transport].fixed:
        model[field] = _canonical(getattr(value, field))
    return {"mac": mac_text(value, value.link_local), "model": model}


def _canonical(value: object) -> object:
    """Return a value as the kernel would print it; text is an address, or nothing."""
    return str(ip_address(value)) if isinstance(value, str) and value else value
