"""What a link device's netlink message says: whether it is ours, which link it is, of which transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from skedge.core.model import LinkId
from skedge.core.names import PREFIX
from skedge.core.objects import LinkDevice
from skedge.core.transports import Transport
from skedge.dataplane.ebpf.packet_check import link_mac

ALIAS = "skedge"
_TRANSPORTS = {kind: transport for transport in Transport for kind in transport.facts.kinds}
IFF_UP = 1
ADDR_GEN_NONE = 1
# IPV4_DEVCONF_*: transit without the host's global switch; asymmetric paths are normal with several links; replies of
# workloads on 127.0.0.1 leave here (the check lets no packet to or from 127/8 through); without carrier, alternates.
LINKDOWN = "ignore_routes_with_linkdown"  # pyroute2 cannot read it
DEVCONF4 = {"forwarding": (1, 1), "accept_redirects": (4, 0), "send_redirects": (6, 0), "rp_filter": (8, 2),
             "route_localnet": (26, 1), LINKDOWN: (29, 1)}  # fmt: skip


def mac_text(device: LinkDevice, link_local: str) -> str:
    """Return the MAC address of the site with this link-local address on the link, as text.

    "" without an address, and on devices that have none (wireguard).
    """
    if not link_local or device.transport.facts.layer3:
        return ""
    return link_mac(device, link_local).hex(":")


def alias_of(device: LinkDevice) -> str:
    """Return the alias that makes the device ours; `` auto`` at the end: the MTU follows the underlay."""
    link = device.link
    alias = f"{ALIAS} {link.a} {link.b} {link.name}" + ("" if device.mtu else " auto")
    if device.transport.facts.roaming and device.remote:
        alias += f" at {device.remote} {device.remote_port}"  # as configured: the device itself knows where it is now
    return alias


@dataclass(frozen=True, slots=True)
class Alias:
    """What an alias says; a nameless link for one that was not set yet."""

    link: LinkId
    auto_mtu: bool
    remote: str = ""
    remote_port: int = 0


def parse_alias(alias: str) -> Alias:
    """Return which link a device is, whether its MTU follows the underlay, and its remote as configured."""
    words = alias.split()
    if len(words) < 4 or words[0] != ALIAS:
        return Alias(LinkId("", ""), auto_mtu=False)
    link, rest = LinkId(words[1], words[2], words[3]), words[4:]
    auto = rest[:1] == ["auto"]
    where = rest[1:] if auto else rest
    if len(where) == 3 and where[0] == "at" and where[2].isdecimal():
        return Alias(link, auto, where[1], int(where[2]))
    return Alias(link, auto)


def kind(link: Any) -> str:
    """Return the kind of a device (vxlan, macvlan, …), "" for hardware."""
    info = link.get_attr("IFLA_LINKINFO")
    return str(info.get_attr("IFLA_INFO_KIND")) if info else ""


def transport_of(link: Any) -> Transport | None:
    """Return the transport whose devices are of this kind, None for no link device."""
    return _TRANSPORTS.get(kind(link))


def is_ours(link: Any) -> bool:
    """Return whether a device is ours: by prefix, kind, alias (none on one that put did not finish, and left down)."""
    if not str(link.get_attr("IFLA_IFNAME")).startswith(PREFIX) or transport_of(link) is None:
        return False
    alias = link.get_attr("IFLA_IFALIAS")
    return str(alias).startswith(f"{ALIAS} ") if alias else not link["flags"] & IFF_UP


def devconf_right(link: Any) -> bool:
    """Return whether the IPv4 settings of the device are ours, and the kernel makes it no address of its own."""
    spec = link.get_attr("IFLA_AF_SPEC")
    conf, six = (spec.get_attr("AF_INET"), spec.get_attr("AF_INET6")) if spec else (None, None)
    if conf is None or (six is not None and six.get_attr("IFLA_INET6_ADDR_GEN_MODE") != ADDR_GEN_NONE):
        return False
    return all(conf[name] == value for name, (_, value) in DEVCONF4.items() if name != LINKDOWN)
