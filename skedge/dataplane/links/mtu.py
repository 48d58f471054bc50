"""The MTU that a link's underlay leaves for it."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from skedge.core.objects import LinkDevice
from skedge.dataplane.host.netlink import Netlink, kernel_errors

MTU_MIN = 1280  # IPv6 is switched off on a device with less


def mtu_of(netlink: Netlink, device: LinkDevice) -> int | None:
    """Return the MTU for a link device: that of the underlay's route minus the overhead; None while there is none.

    ``remote`` of the device must be an address. A wireguard link has at least what IPv6 needs: its own packets may be
    cut up below.
    """
    facts = device.transport.facts
    if not facts.tunnel:
        return _device_mtu(netlink, netlink.index(device.underlay) if device.underlay else None)
    if not device.remote:
        return None
    remote = ip_address(device.remote)
    route = _route_to(netlink, device)
    if route is None:
        return None
    mtu = _device_mtu(netlink, route.get_attr("RTA_OIF"))
    configured = _configured_mtu(route)
    if configured is not None and mtu is not None:
        mtu = min(mtu, configured)
    if mtu is None:
        return None
    left = min(mtu, 65535) - facts.overhead[remote.version]
    return max(left, MTU_MIN) if facts.fragments else left


def _route_to(netlink: Netlink, device: LinkDevice) -> Any:
    source: dict[str, object] = {"mark": device.mark} if device.mark else {}
    if device.local:
        source = {"src": device.local, "src_len": ip_address(device.local).max_prefixlen}
    with kernel_errors(f"look up the route to {device.remote}"):
        for match in (source, {}):
            try:
                found = list(netlink.ipr.route("get", dst=device.remote, **match))
            except NetlinkError:
                continue
            if found:
                return found[0]
    return None


def _configured_mtu(route: Any) -> int | None:
    """Return the route's own MTU. What path MTU discovery learnt expires again, so it is no property of the link."""
    cache = route.get_attr("RTA_CACHEINFO")
    metrics = route.get_attr("RTA_METRICS")
    if metrics is None or (cache and cache["rta_expires"]):
        return None
    mtu = metrics.get_attr("RTAX_MTU")
    return int(mtu) if mtu else None


def _device_mtu(netlink: Netlink, index: int | None) -> int | None:
    found = [] if index is None else netlink.dump("links", index=index)
    return next((int(link.get_attr("IFLA_MTU")) for link in found if link["index"] == index), None)
