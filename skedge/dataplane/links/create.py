"""Makes link devices: what cannot be changed on them later."""

from __future__ import annotations

import errno
from ipaddress import ip_address
from pathlib import Path

from pyroute2.netlink.exceptions import NetlinkError

from skedge.core.errors import DataplaneError
from skedge.core.model import Transport
from skedge.core.objects import LinkDevice
from skedge.dataplane.host.netlink import Netlink
from skedge.dataplane.links.device import KINDS, mac_text

TUN = Path("/dev/net/tun")


def create(netlink: Netlink, name: str, want: LinkDevice) -> None:
    """Make the device, down. Raises DataplaneError, NetlinkError."""
    attributes: dict[str, object] = {"ifname": name, "kind": KINDS[want.transport][0]}
    if mac := mac_text(want, want.link_local):
        attributes["address"] = mac
    underlay = netlink.index(want.underlay) if want.underlay else None
    if want.underlay and underlay is None:
        raise DataplaneError(f"link {want.link}: this host has no device {want.underlay}; correct the link's device")
    if want.transport is Transport.DIRECT:
        attributes |= {"link": underlay, "macvlan_mode": "private"}
    elif want.transport is Transport.VXLAN:
        attributes |= _vxlan(want)
        if underlay is not None:
            attributes["vxlan_link"] = underlay
    try:
        netlink.ipr.link("add", **attributes)
    except NetlinkError as error:
        if error.code == errno.EOPNOTSUPP:
            raise DataplaneError(f"link {want.link}: {_lacking(name, want)}") from error
        raise


def _vxlan(want: LinkDevice) -> dict[str, object]:
    six = "6" if ip_address(want.remote).version == 6 else ""
    attributes: dict[str, object] = {
        "vxlan_id": want.vni,
        f"vxlan_group{six}": want.remote,
        "vxlan_port": want.port,
        "vxlan_learning": False,
    }
    if want.local:
        attributes[f"vxlan_local{six}"] = want.local
    return attributes


def _lacking(name: str, want: LinkDevice) -> str:
    if want.transport is Transport.WIREGUARD:
        if not TUN.exists():
            return (
                f"this kernel has no WireGuard, and wireguard-go needs {TUN}, which is not there; "
                "load or install the module tun, or give the link transport: vxlan"
            )
        unit = f"skedge-wireguard@{name}.service"
        return (
            f"this kernel has no WireGuard, and wireguard-go does not run for the link (systemctl status {unit}); "
            "run deploy.yml for this host, or give the link transport: vxlan"
        )
    return f"this kernel has no {KINDS[want.transport][0]} devices; load or install the module"
