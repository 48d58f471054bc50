"""Link devices ``sk-*``: WireGuard and VXLAN tunnels, and for ``direct`` links a macvlan on the operator's device.

A direct link gets a device of its own (macvlan, mode private), never the operator's device itself: so the packet
check, addresses and neighbours of ours touch none of its other traffic, and ownership is seen by the name as with
tunnels. Device MAC addresses follow from the link and the site, so both ends know both: neighbour entries are
permanent, and several direct links on one segment do not answer for each other. WireGuard devices have none; their
neighbour entries only stand for the one far end. What is one
transport's own is in `links.transports`.

A device of ours is known by its name's prefix and its alias ``skedge <site> <site> <link name>``. It is under the
packet check (`Check`) before it is up.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Hashable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pyroute2.netlink.exceptions import NetlinkError

from skedge.core.errors import DataplaneError
from skedge.core.names import GATEWAY4, PREFIX
from skedge.core.objects import LinkDevice
from skedge.dataplane.host.netlink import (
    Netlink,
    device_settings,
    kernel_errors,
    per_device_forwarding6,
    read_sysctl4,
    read_sysctl6,
    set_devconf4,
    set_sysctl6,
)
from skedge.dataplane.links.create import create, shape, wanted_shape
from skedge.dataplane.links.device import (
    ADDR_GEN_NONE,
    DEVCONF4,
    IFF_UP,
    LINKDOWN,
    alias_of,
    devconf_right,
    is_ours,
    mac_text,
    parse_alias,
    transport_of,
)
from skedge.dataplane.links.mtu import MTU_MIN, mtu_of
from skedge.dataplane.links.transports.strategies import strategies
from skedge.dataplane.links.transports.strategy import used
from skedge.dataplane.links.transports.wireguard import WireGuardLinks
from skedge.dataplane.nftables.tunnel_guard import TunnelPeer

LOOPBACK = "lo"
_NUD_PERMANENT = 0x80
_NODAD = 0x02
_SCOPE_LINK = 253
_SYSCTL6 = {"disable_ipv6": 0, "accept_ra": 0, "forwarding": 1, LINKDOWN: 1}


class Check(Protocol):
    """The packet check that each device is under (`packet_check.PacketCheck`)."""

    def protect(self, index: int, device: LinkDevice) -> None:
        """Put the interface under the check."""

    def protected(self, index: int, device: LinkDevice) -> bool:
        """Return whether it is, with the programs of now."""

    def forget(self, index: int) -> None:
        """Forget an interface that goes."""

    def glance(self, indexes: Iterable[int]) -> Hashable:
        """Return what changes with every change of the check that the kernel does not announce."""


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
    gateways: Mapping[int, tuple[str, str]]
    guarded: Mapping[str, TunnelPeer]


class LinkDriver:
    """Driver[str, LinkDevice]: device name -> device."""

    def __init__(self, netlink: Netlink, check: Check, guard: Guard, wireguard: WireGuardLinks) -> None:
        self._netlink = netlink
        self._check = check
        self._guard = guard
        self._transports = strategies(wireguard)

    def read(self) -> Mapping[str, LinkDevice]:
        """Return our devices. One that is not whole (down, unchecked, unguarded) has no ``link_local``."""
        kernel = self._dump()
        return {name: self._device(name, kernel) for name in kernel.links if is_ours(kernel.links[name])}

    def put(self, key: str, value: LinkDevice) -> None:
        """Create the device or bring it in line; it is made anew only when what it is (its tunnel) changes."""
        _refuse(key, value)
        self._transports[value.transport].refuse(value)
        what = f"link {value.link}: device {key}"
        with kernel_errors(what):
            link = self._find(key)
            if link is not None and not is_ours(link):
                raise DataplaneError(f"{what} exists already and is not ours; rename or remove it")
            if link is not None and self._remade(link, value):
                self.delete(key)
                link = None
            if link is None:
                create(self._netlink, key, value, self._transports[value.transport])
            self._configure(key, value)
        self._transports[value.transport].refuse_unresolved(value)

    def remakes(self, key: str, value: LinkDevice) -> bool:
        """Return whether `put` would take the device away first: its tunnel or its MAC address is another one."""
        link = self._find(key)
        return link is not None and is_ours(link) and self._remade(link, value)

    def _remade(self, link: Any, value: LinkDevice) -> bool:
        return shape(link, self._netlink.names(), self._transports) != wanted_shape(value, self._transports)

    def delete(self, key: str) -> None:
        """Remove the device and its guard, if it is ours."""
        link = self._find(key)
        transport = None if link is None else transport_of(link)
        if link is not None and transport is not None and is_ours(link):
            with kernel_errors(f"remove device {key}"):
                try:
                    self._netlink.ipr.link("del", index=link["index"])
                except NetlinkError as error:
                    if error.code != errno.ENODEV:
                        raise
            self._check.forget(link["index"])
            self._transports[transport].forget(key)
        if key.startswith(PREFIX) and (link is None or (transport is not None and transport.facts.guarded)):
            self._guard.delete(key)

    def glance(self) -> Hashable:
        """Return what changes with the settings of our devices and of lo, and with the check on them."""
        settings = device_settings(lambda name: name.startswith(PREFIX) or name == LOOPBACK)
        ours = sorted(name for name in settings if name != LOOPBACK)
        indexes = [index for name in ours if (index := self._netlink.index(name)) is not None]
        return tuple(sorted(settings.items())), self._check.glance(indexes)

    def far_ends(self, name: str, device: LinkDevice) -> frozenset[str]:
        """Return the addresses at which the far end of a device may be, as far as they are known."""
        return self._transports[device.transport].far_ends(name, device)

    # ---- reading ------------------------------------------------------------------------------------------------

    def _find(self, name: str) -> Any:
        index = self._netlink.index(name)
        found = [] if index is None else self._netlink.dump("links", index=index)
        return next((link for link in found if link["index"] == index), None)

    def _dump(self) -> _Kernel:
        links = {str(link.get_attr("IFLA_IFNAME")): link for link in self._netlink.dump("links")}
        ours = {link["index"] for name, link in links.items() if is_ours(link)}
        addresses: dict[int, str] = {}
        for message in self._netlink.dump("addr", family=socket.AF_INET6):
            if (index := message["index"]) in ours and message["scope"] == _SCOPE_LINK:
                addresses[index] = "" if index in addresses else _link_local(message)  # with another one it is not ours
        neighbours = self._neighbours(socket.AF_INET6, ours)
        gateways = self._neighbours(socket.AF_INET, ours)
        transports = {transport_of(link) for link in links.values() if is_ours(link)}
        guarded = self._guard.read() if any(one is not None and one.facts.guarded for one in transports) else {}
        names = {link["index"]: name for name, link in links.items()}
        return _Kernel(links, names, addresses, neighbours, gateways, guarded)

    def _neighbours(self, family: int, indexes: Set[int]) -> Mapping[int, tuple[str, str]]:
        """Return address and MAC address of the permanent neighbour on each of these interfaces."""
        return {
            message["ifindex"]: (str(message.get_attr("NDA_DST")), str(message.get_attr("NDA_LLADDR") or ""))
            for message in (self._netlink.dump("neighbours", family=family) if indexes else [])
            if message["ifindex"] in indexes and message["state"] & _NUD_PERMANENT
        }

    def _device(self, name: str, kernel: _Kernel) -> LinkDevice:
        """Return the device as `put` was given it, with an empty ``link_local`` when something of it is missing."""
        link = kernel.links[name]
        index = link["index"]
        peer, peer_mac = kernel.neighbours.get(index, ("", ""))
        alias = parse_alias(str(link.get_attr("IFLA_IFALIAS") or ""))
        form = shape(link, kernel.names, self._transports)
        device = LinkDevice(
            link=alias.link, peer_link_local=peer, link_local=kernel.addresses.get(index, ""), **form["model"]
        )
        device, right = self._transports[device.transport].read(name, link, device)
        mtu = int(link.get_attr("IFLA_MTU"))
        device = replace(device, mtu=0 if alias.auto_mtu and self._mtu(name, device) in (None, mtu) else mtu)
        whole = (
            bool(link["flags"] & IFF_UP)
            and right
            and bool(device.link_local and peer)
            and peer_mac == mac_text(device, peer)
            and kernel.gateways.get(index) == _gateway(device, peer)
            and form["mac"] == mac_text(device, device.link_local)
            and kernel.guarded.get(name) == TunnelPeer.of(device)
            and devconf_right(link)
            and read_sysctl4(name, LINKDOWN) == "1"
            and all(read_sysctl6(name, setting) == str(value) for setting, value in _settings6().items())
            and self._check.protected(index, device)
        )
        return device if whole else replace(device, link_local="")

    def _mtu(self, name: str, device: LinkDevice) -> int | None:
        """Return the MTU that the underlay leaves for the device, None while that is not known."""
        remote = self._transports[device.transport].underlay(name, device)
        return mtu_of(self._netlink, replace(device, remote=remote))

    # ---- writing ------------------------------------------------------------------------------------------------

    def _configure(self, name: str, want: LinkDevice) -> None:
        """Set everything that may change on a living device; the check and the guard come before it is up."""
        link = self._find(name)
        if link is None:
            raise DataplaneError(f"link {want.link}: device {name} went away")
        index, ipr = link["index"], self._netlink.ipr
        self._transports[want.transport].put(name, link, want)
        mtu = want.mtu or self._mtu(name, want)
        if mtu is not None and mtu < MTU_MIN:
            raise DataplaneError(
                f"link {want.link}: its MTU would be {mtu}, IPv6 needs {MTU_MIN}; raise the underlay's"
            )
        ipr.link("set", index=index, IFLA_IFALIAS=alias_of(want), **({} if mtu is None else {"mtu": mtu}))
        none = [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", ADDR_GEN_NONE)]})]
        ipr.link("set", index=index, IFLA_AF_SPEC={"attrs": none})
        set_devconf4(index, dict(DEVCONF4.values()))
        for setting, value in _settings6().items():
            set_sysctl6(name, setting, value)
        self._check.protect(index, want)
        peer = TunnelPeer.of(want)
        if peer is not None:
            self._guard.put(name, peer)
        try:
            ipr.link("set", index=index, state="up")
        except NetlinkError as error:
            if error.code == errno.EADDRINUSE:
                raise used(want) from error
            raise
        self._set_addresses(index, want)

    def _set_addresses(self, index: int, want: LinkDevice) -> None:
        """Give the device its link-local address and its one neighbour, and take others of that kind away."""
        ipr = self._netlink.ipr
        ipr.addr("replace", index=index, address=want.link_local, prefixlen=64, flags=_NODAD, scope=_SCOPE_LINK)
        for message in self._netlink.dump("addr", family=socket.AF_INET6, index=index):
            address = str(message.get_attr("IFA_ADDRESS"))
            if message["index"] == index and message["scope"] == _SCOPE_LINK and address != want.link_local:
                ipr.addr("del", index=index, address=address, prefixlen=message["prefixlen"])
        hardware = {"lladdr": mac} if (mac := mac_text(want, want.peer_link_local)) else {}
        for family, neighbour in ((socket.AF_INET6, want.peer_link_local), (socket.AF_INET, GATEWAY4)):
            if family == socket.AF_INET6 or _gateway(want, want.peer_link_local):
                ipr.neigh("replace", family=family, ifindex=index, dst=neighbour, state=_NUD_PERMANENT, **hardware)
        for message in self._netlink.dump("neighbours", family=socket.AF_INET6, ifindex=index):
            other = str(message.get_attr("NDA_DST"))
            if message["ifindex"] == index and message["state"] & _NUD_PERMANENT and other != want.peer_link_local:
                ipr.neigh("del", family=socket.AF_INET6, ifindex=index, dst=other)


def _link_local(message: Any) -> str:
    return str(message.get_attr("IFA_ADDRESS")) if message["prefixlen"] == 64 else ""


def _gateway(device: LinkDevice, peer: str) -> tuple[str, str] | None:
    """Return the IPv4 neighbour of a device; one without MAC addresses has no use for it."""
    return None if device.transport.facts.layer3 else (GATEWAY4, mac_text(device, peer))


def _settings6() -> dict[str, int]:
    """Return the IPv6 settings of our devices: with forwarding of their own where the kernel has that."""
    return _SYSCTL6 | ({"force_forwarding": 1} if per_device_forwarding6() else {})


def _refuse(key: str, value: LinkDevice) -> None:
    """Raise DataplaneError when the device cannot be made as it is asked for."""
    if not key.startswith(PREFIX):
        raise DataplaneError(f"link {value.link}: device {key} has not the prefix {PREFIX} of our devices")
    if value.transport.facts.device and not value.underlay:
        raise DataplaneError(f"link {value.link}: a {value.transport} link needs its device")
    if value.transport.facts.remote and not value.remote:
        raise DataplaneError(f"link {value.link}: a {value.transport} link needs its remote address")
