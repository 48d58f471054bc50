"""VXLAN: one device a link, which sends to the far end only and learns nothing."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from skedge.core.objects import LinkDevice
from skedge.dataplane.links.transports.strategy import Strategy


class Vxlan(Strategy):
    """Creates and reads VXLAN devices."""

    fixed = ("vni", "port", "remote", "local")

    def attributes(self, want: LinkDevice, underlay: int | None) -> Mapping[str, object]:
        """Return network identifier, addresses and port."""
        six = "6" if ip_address(want.remote).version == 6 else ""
        attributes: dict[str, object] = {
            "vxlan_id": want.vni,
            f"vxlan_group{six}": want.remote,
            "vxlan_port": want.port,
            "vxlan_learning": False,
        }
        if want.local:
            attributes[f"vxlan_local{six}"] = want.local
        if underlay is not None:
            attributes["vxlan_link"] = underlay
        return attributes

    def shape(self, data: Any) -> Mapping[str, object]:
        """Return network identifier, addresses and port of a device."""
        return {
            "vni": int(data.get_attr("IFLA_VXLAN_ID")),
            "port": int(data.get_attr("IFLA_VXLAN_PORT")),
            "remote": str(data.get_attr("IFLA_VXLAN_GROUP") or data.get_attr("IFLA_VXLAN_GROUP6") or ""),
            "local": str(data.get_attr("IFLA_VXLAN_LOCAL") or data.get_attr("IFLA_VXLAN_LOCAL6") or ""),
        }
