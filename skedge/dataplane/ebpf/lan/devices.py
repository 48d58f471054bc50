"""The LAN devices of the host: where clients and workloads that are not processes of the host come in.

A LAN device is any device that is not ours, not lo and not a port of a bridge or bond (the bridge itself is it), or
those that the operator names. Devices in a VRF are named as what is not served: routes are looked up in the host's own
tables. Packets of flows are looked up as from lo, whose forwarding flag alone is set (`host.sysctls`): the host does
not become a router for its LAN.
"""

from __future__ import annotations

import socket
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from skedge.core.errors import DataplaneError, Waiting
from skedge.core.model import ANY_DEVICE
from skedge.core.names import PREFIX
from skedge.dataplane.bpf import syscall, tc
from skedge.dataplane.host.netlink import Netlink

DIRECTION = "ingress"
LOOPBACK = "lo"
_LOOPBACK_INDEX = 1
PIN, PIN_L3, PIN_LOOP = "lan_ingress_v1", "lan_ingress_l3_v1", "lan_loop_v1"
_ARPHRD_ETHER = 1


@dataclass(frozen=True, slots=True)
class LanDevice:
    """One LAN device (key: its name); ``l3``: packets have no Ethernet header (WireGuard, TUN); ``vrf``: its master."""

    l3: bool = False
    loop: bool = False
    vrf: str = ""

    @property
    def pin(self) -> str:
        """Return the pin of the program that belongs on it."""
        return PIN_LOOP if self.loop else PIN_L3 if self.l3 else PIN


class LanDriver:
    """Driver[str, LanDevice]: the program on each LAN device."""

    def __init__(self, pin_dir: str, netlink: Netlink) -> None:
        self._pins = Path(pin_dir)
        self._netlink = netlink

    def devices(self, named: Iterable[str] = (ANY_DEVICE,)) -> Mapping[str, LanDevice]:
        """Return the named devices that the host has now, ``*`` for every LAN device; with any of them, lo too."""
        wanted = frozenset(named)
        if not wanted:
            return {}
        found = {str(link.get_attr("IFLA_IFNAME")): link for link in self._netlink.dump("links")}
        vrfs = {link["index"]: name for name, link in found.items() if _is_vrf(link)}
        lan = {
            name: LanDevice(l3=link["ifi_type"] != _ARPHRD_ETHER, vrf=vrfs.get(link.get_attr("IFLA_MASTER"), ""))
            for name, link in found.items()
            if link["index"] not in vrfs and (_is_lan(name, link, vrfs) if ANY_DEVICE in wanted else name in wanted)
        }
        return {**lan, LOOPBACK: LanDevice(loop=True)}

    def read(self) -> Mapping[str, LanDevice]:
        """Return the devices that have the program of now on them."""
        kinds = {self._program(one.pin): one for one in (LanDevice(), LanDevice(l3=True), LanDevice(loop=True))}
        found = {}
        for index, name in self._netlink.names().items():
            if name.startswith(PREFIX):
                continue
            kind = kinds.get(tc.attached(index).get(DIRECTION, 0))
            if kind is not None:
                found[name] = kind
        return found

    def _program(self, pin: str) -> int:
        with syscall.Fd(syscall.obj_get(str(self._pins / pin))) as fd:
            return syscall.prog_id(fd)

    def put(self, key: str, value: LanDevice) -> None:
        """Put the program onto a device; another version of ours is replaced without a gap.

        Raises:
            Waiting: the device is in a VRF.
            DataplaneError: there is no such device, or the kernel refused.
        """
        if value.vrf:
            detach(self._netlink, key)
            raise Waiting(
                f"its clients are not served, as it is in the VRF {value.vrf}, whose routes are not the host's own;"
                " take it out of the VRF, or name in skedge_lan_devices those that are to be served"
            )
        index = self._netlink.index(key)
        if index is None:
            raise DataplaneError(f"LAN device {key}: there is none of that name")
        with syscall.Fd(syscall.obj_get(str(self._pins / value.pin))) as fd:
            if tc.attached(index).get(DIRECTION) != syscall.prog_id(fd):
                tc.attach(self._netlink, index, DIRECTION, fd)

    def delete(self, key: str) -> None:
        """Take the program off a device; flows through it no longer work. A device that is gone is success."""
        detach(self._netlink, key)


def attached(netlink: Netlink) -> list[str]:
    """Return the devices that have a LAN program of ours on them, of whatever version (no pin is needed)."""
    names = netlink.names().items()
    return [name for index, name in names if not name.startswith(PREFIX) and DIRECTION in tc.attached(index)]


def looped() -> bool:
    """Return whether a program of ours is on lo: its settings are ours then."""
    return DIRECTION in tc.attached(_LOOPBACK_INDEX)


def detach(netlink: Netlink, name: str) -> None:
    """Take our program off a device."""
    index = netlink.index(name)
    if index is None:
        return
    if DIRECTION in tc.attached(index):
        tc.detach(netlink, index, DIRECTION)


def source_towards(netlink: Netlink, address: str) -> str | None:
    """Return the address of this host that its route towards another one is sent from; None without a route."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        (route,) = netlink.ipr.route("get", family=family, dst=address)
    except (NetlinkError, ValueError):
        return None
    source = route.get_attr("RTA_PREFSRC")
    return None if source is None else str(source)


def _is_vrf(link: Any) -> bool:
    about = link.get_attr("IFLA_LINKINFO")
    return about is not None and about.get_attr("IFLA_INFO_KIND") == "vrf"


def _is_lan(name: str, link: Any, vrfs: Container[int]) -> bool:
    master = link.get_attr("IFLA_MASTER")
    return name != LOOPBACK and not name.startswith(PREFIX) and (not master or master in vrfs)
