"""Link devices ``sk-*``: VXLAN tunnels, and for ``direct`` links a macvlan on the operator's device.

A direct link gets a device of its own (macvlan, mode private), never the operator's device itself: so the packet
check, addresses and neighbours of ours touch none of its other traffic, and ownership is seen by the name as with
tunnels. Device MAC addresses follow from the link and the site, so both ends know both: neighbour entries are
permanent, and several direct links on one segment do not answer for each other.

A device of ours is known by its name's prefix and its alias ``skedge <site> <site> <link name>``. It is under the
packet check (`Check`) before it is up.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, Protocol

from pyroute2.netlink.exceptions import NetlinkError

from skedge.core.errors import DataplaneError
from skedge.core.model import LinkId, Transport
from skedge.core.names import PREFIX
from skedge.core.state import LinkDevice
from skedge.dataplane.linkfilter import link_mac
from skedge.dataplane.netlink import Netlink, kernel_errors, set_devconf4, set_sysctl6
from skedge.dataplane.tunnel_guard import TunnelPeer
from skedge.dataplane.underlay import mtu_of

ALIAS = "skedge"
_KINDS = {Transport.VXLAN: "vxlan", Transport.DIRECT: "macvlan"}
_IFF_UP = 1
_NUD_PERMANENT = 0x80
_NODAD = 0x02
_ADDR_GEN_NONE = 1
_SCOPE_LINK = 253
# IPV4_DEVCONF_*: transit without the host's global switch; asymmetric paths are normal with several links; replies of
# workloads on 127.0.0.1 leave here (the check lets no packet to or from 127/8 through).
_DEVCONF4 = {"forwarding": (1, 1), "accept_redirects": (4, 0), "send_redirects": (6, 0), "rp_filter": (8, 2),
             "route_localnet": (26, 1)}  # fmt: skip
_SYSCTL6 = {"disable_ipv6": 0, "accept_ra": 0, "forwarding": 1}
MTU_MIN = 1280  # IPv6 is switched off on a device with less


class Check(Protocol):
    """The packet check that each device is under (`linkfilter.LinkFilter`)."""

    def protect(self, index: int, device: LinkDevice) -> None:
        """Put the interface under the check."""

    def protected(self, index: int, device: LinkDevice) -> bool:
        """Return whether it is, with the programs of now."""

    def forget(self, index: int) -> None:
        """Forget an interface that goes."""


class Guard(Protocol):
    """Who may send tunnel packets (`tunnel_guard.TunnelGuard`)."""

    def read(self) -> Mapping[str, TunnelPeer]:
        """Return the guarded devices."""

    def put(self, device: str, peer: TunnelPeer) -> None:
        """Guard a device."""

    def delete(self, device: str) -> None:
        """End it."""


@dataclass(frozen=True, slots=True)
class _Kernel:
    """One dump of everything that `LinkDriver.read` needs."""

    links: Mapping[str, Any]
    names: Mapping[int, str]
    addresses: Mapping[int, str]
    neighbours: Mapping[int, tuple[str, str]]
    guarded: Mapping[str, TunnelPeer]


class LinkDriver:
    """Driver[str, LinkDevice]: device name -> device. A transport that is not built yet is refused by `put`."""

    def __init__(self, netlink: Netlink, check: Check, guard: Guard) -> None:
        self._netlink = netlink
        self._check = check
        self._guard = guard

    def read(self) -> Mapping[str, LinkDevice]:
        """Return our devices. One that is not whole (down, unchecked, unguarded) has no ``link_local``."""
        kernel = self._dump()
        return {name: self._device(name, kernel) for name in kernel.links if is_ours(kernel.links[name])}

    def put(self, key: str, value: LinkDevice) -> None:
        """Create the device or bring it in line; it is made anew only when what it is (its tunnel) changes."""
        _refuse(key, value)
        what = f"link {value.link}: device {key}"
        with kernel_errors(what):
            link = self._find(key)
            if link is not None and not is_ours(link):
                raise DataplaneError(f"{what} exists already and is not ours; rename or remove it")
            if link is not None and self._shape(link, self._netlink.names()) != _wanted_shape(value):
                self.delete(key)
                link = None
            if link is None:
                self._create(key, value)
            self._configure(key, value)

    def delete(self, key: str) -> None:
        """Remove the device and its guard, if it is ours."""
        link = self._find(key)
        if link is not None and is_ours(link):
            with kernel_errors(f"remove device {key}"):
                try:
                    self._netlink.ipr.link("del", index=link["index"])
                except NetlinkError as error:
                    if error.code != errno.ENODEV:
                        raise
            self._check.forget(link["index"])
        if key.startswith(PREFIX) and (link is None or _kind(link) == "vxlan"):
            self._guard.delete(key)

    # ---- reading ------------------------------------------------------------------------------------------------

    def _find(self, name: str) -> Any:
        index = self._netlink.index(name)
        found = [] if index is None else self._netlink.dump("links", index=index)
        return next((link for link in found if link["index"] == index), None)

    def _dump(self) -> _Kernel:
        links = {str(link.get_attr("IFLA_IFNAME")): link for link in self._netlink.dump("links")}
        ours = {link["index"] for name, link in links.items() if is_ours(link)}
        addresses = {
            message["index"]: str(message.get_attr("IFA_ADDRESS"))
            for message in self._netlink.dump("addr", family=socket.AF_INET6)
            if message["index"] in ours and message["scope"] == _SCOPE_LINK and message["prefixlen"] == 64
        }
        neighbours = {
            message["ifindex"]: (str(message.get_attr("NDA_DST")), str(message.get_attr("NDA_LLADDR")))
            for message in (self._netlink.dump("neighbours", family=socket.AF_INET6) if ours else [])
            if message["ifindex"] in ours and message["state"] & _NUD_PERMANENT
        }
        guarded = (
            self._guard.read() if any(_kind(links[name]) == "vxlan" for name in links if is_ours(links[name])) else {}
        )
        names = {link["index"]: name for name, link in links.items()}
        return _Kernel(links, names, addresses, neighbours, guarded)

    def _device(self, name: str, kernel: _Kernel) -> LinkDevice:
        """Return the device as `put` was given it, with an empty ``link_local`` when something of it is missing."""
        link = kernel.links[name]
        index = link["index"]
        peer, peer_mac = kernel.neighbours.get(index, ("", ""))
        link_id, auto_mtu = _parse_alias(str(link.get_attr("IFLA_IFALIAS") or ""))
        shape = self._shape(link, kernel.names)
        device = LinkDevice(
            link=link_id, peer_link_local=peer, link_local=kernel.addresses.get(index, ""), **shape["model"]
        )
        mtu = int(link.get_attr("IFLA_MTU"))
        wanted_mtu = mtu_of(self._netlink, device)
        device = replace(device, mtu=0 if auto_mtu and wanted_mtu in (None, mtu) else mtu)
        whole = (
            bool(link["flags"] & _IFF_UP)
            and bool(device.link_local and peer)
            and peer_mac == _mac(device, peer)
            and shape["mac"] == _mac(device, device.link_local)
            and kernel.guarded.get(name) == (TunnelPeer.of(device) if device.remote else None)
            and _devconf_right(link)
            and self._check.protected(index, device)
        )
        return device if whole else replace(device, link_local="")

    def _shape(self, link: Any, names: Mapping[int, str]) -> dict[str, Any]:
        """Return what cannot be changed on a living device: its tunnel or underlay, and its MAC address."""
        info = link.get_attr("IFLA_LINKINFO")
        data = info.get_attr("IFLA_INFO_DATA")
        underlay = names.get(link.get_attr("IFLA_LINK") or 0, "")
        mac = str(link.get_attr("IFLA_ADDRESS"))
        if _kind(link) == "macvlan":
            return {"mac": mac, "model": {"transport": Transport.DIRECT, "underlay": underlay}}
        group = data.get_attr("IFLA_VXLAN_GROUP") or data.get_attr("IFLA_VXLAN_GROUP6") or ""
        local = data.get_attr("IFLA_VXLAN_LOCAL") or data.get_attr("IFLA_VXLAN_LOCAL6") or ""
        model = {
            "transport": Transport.VXLAN,
            "vni": int(data.get_attr("IFLA_VXLAN_ID")),
            "port": int(data.get_attr("IFLA_VXLAN_PORT")),
            "remote": str(group),
            "local": str(local),
            "underlay": underlay,
        }
        return {"mac": mac, "model": model}

    # ---- writing ------------------------------------------------------------------------------------------------

    def _create(self, name: str, want: LinkDevice) -> None:
        """Make the device, down."""
        attributes: dict[str, object] = {"ifname": name, "address": _mac(want, want.link_local)}
        underlay = self._netlink.index(want.underlay) if want.underlay else None
        if want.underlay and underlay is None:
            raise DataplaneError(
                f"link {want.link}: this host has no device {want.underlay}; correct the link's device"
            )
        if underlay is not None:
            attributes["link" if want.transport is Transport.DIRECT else "vxlan_link"] = underlay
        if want.transport is Transport.DIRECT:
            attributes |= {"kind": "macvlan", "macvlan_mode": "private"}
        else:
            six = "6" if ip_address(want.remote).version == 6 else ""
            attributes |= {
                "kind": "vxlan",
                "vxlan_id": want.vni,
                f"vxlan_group{six}": want.remote,
                "vxlan_port": want.port,
                "vxlan_learning": False,
            }
            if want.local:
                attributes[f"vxlan_local{six}"] = want.local
        try:
            self._netlink.ipr.link("add", **attributes)
        except NetlinkError as error:
            if error.code == errno.EOPNOTSUPP:
                raise DataplaneError(
                    f"link {want.link}: this kernel has no {_KINDS[want.transport]} devices; load or install the module"
                ) from error
            raise

    def _configure(self, name: str, want: LinkDevice) -> None:
        """Set everything that may change on a living device; the check and the guard come before it is up."""
        index = self._netlink.index(name)
        if index is None:
            raise DataplaneError(f"link {want.link}: device {name} went away")
        ipr = self._netlink.ipr
        mtu = want.mtu or mtu_of(self._netlink, want)
        if mtu is not None and mtu < MTU_MIN:
            raise DataplaneError(
                f"link {want.link}: its MTU would be {mtu}, IPv6 needs {MTU_MIN}; raise the underlay's"
            )
        ipr.link("set", index=index, IFLA_IFALIAS=_alias(want), **({} if mtu is None else {"mtu": mtu}))
        none = [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_NONE)]})]
        ipr.link("set", index=index, IFLA_AF_SPEC={"attrs": none})
        set_devconf4(index, dict(_DEVCONF4.values()))
        for setting, value in _SYSCTL6.items():
            set_sysctl6(name, setting, value)
        self._check.protect(index, want)
        peer = TunnelPeer.of(want)
        if peer is not None:
            self._guard.put(name, peer)
        ipr.link("set", index=index, state="up")
        self._set_addresses(index, want)

    def _set_addresses(self, index: int, want: LinkDevice) -> None:
        """Give the device its link-local address and its one neighbour, and take others of that kind away."""
        ipr = self._netlink.ipr
        ipr.addr("replace", index=index, address=want.link_local, prefixlen=64, flags=_NODAD, scope=_SCOPE_LINK)
        for message in self._netlink.dump("addr", family=socket.AF_INET6, index=index):
            address = str(message.get_attr("IFA_ADDRESS"))
            if message["index"] == index and message["scope"] == _SCOPE_LINK and address != want.link_local:
                ipr.addr("del", index=index, address=address, prefixlen=message["prefixlen"])
        ipr.neigh(
            "replace",
            family=socket.AF_INET6,
            ifindex=index,
            dst=want.peer_link_local,
            lladdr=_mac(want, want.peer_link_local),
            state=_NUD_PERMANENT,
        )
        for message in self._netlink.dump("neighbours", family=socket.AF_INET6, ifindex=index):
            other = str(message.get_attr("NDA_DST"))
            if message["ifindex"] == index and message["state"] & _NUD_PERMANENT and other != want.peer_link_local:
                ipr.neigh("del", family=socket.AF_INET6, ifindex=index, dst=other)


def _refuse(key: str, value: LinkDevice) -> None:
    """Raise DataplaneError when the device cannot be made as it is asked for."""
    if value.transport not in _KINDS:
        raise DataplaneError(f"link {value.link}: transport {value.transport} is not built yet; use vxlan or direct")
    if not key.startswith(PREFIX):
        raise DataplaneError(f"link {value.link}: device {key} has not the prefix {PREFIX} of our devices")
    if value.transport is Transport.DIRECT and not value.underlay:
        raise DataplaneError(f"link {value.link}: a direct link needs its device")
    if value.transport is Transport.VXLAN and not value.remote:
        raise DataplaneError(f"link {value.link}: a vxlan link needs its remote address")


def _wanted_shape(value: LinkDevice) -> dict[str, Any]:
    """Return the shape that `LinkDriver._shape` reads from a right device."""
    model: dict[str, Any] = {"transport": value.transport, "underlay": value.underlay}
    if value.transport is Transport.VXLAN:
        model |= {"vni": value.vni, "port": value.port, "remote": value.remote, "local": value.local}
    return {"mac": _mac(value, value.link_local), "model": model}


def _mac(device: LinkDevice, link_local: str) -> str:
    """Return the MAC address of the site with this link-local address on the link, as text ("" without an address)."""
    return link_mac(device, link_local).hex(":") if link_local else ""


def _alias(device: LinkDevice) -> str:
    """Return the alias that makes the device ours; `` auto`` at the end: the MTU follows the underlay."""
    link = device.link
    return f"{ALIAS} {link.a} {link.b} {link.name}" + ("" if device.mtu else " auto")


def _parse_alias(alias: str) -> tuple[LinkId, bool]:
    """Return link and whether the MTU follows the underlay; a nameless link for an alias that was not set yet."""
    words = alias.split()
    if len(words) not in (4, 5) or words[0] != ALIAS:
        return LinkId("", ""), False
    return LinkId(words[1], words[2], words[3]), words[4:] == ["auto"]


def _kind(link: Any) -> str:
    info = link.get_attr("IFLA_LINKINFO")
    return str(info.get_attr("IFLA_INFO_KIND")) if info else ""


def is_ours(link: Any) -> bool:
    """Return whether a device is ours: by prefix, kind, alias (none on one that put did not finish, and left down)."""
    if not str(link.get_attr("IFLA_IFNAME")).startswith(PREFIX) or _kind(link) not in _KINDS.values():
        return False
    alias = link.get_attr("IFLA_IFALIAS")
    return str(alias).startswith(f"{ALIAS} ") if alias else not link["flags"] & _IFF_UP


def _devconf_right(link: Any) -> bool:
    """Return whether the IPv4 settings of the device are ours."""
    spec = link.get_attr("IFLA_AF_SPEC")
    conf = spec.get_attr("AF_INET") if spec else None
    return conf is not None and all(conf[name] == value for name, (_, value) in _DEVCONF4.items())
