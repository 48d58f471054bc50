"""What the packet programs on link devices know: this site's configuration, who is at each device's far end, counts.

The layouts are those of bpf/common/link_maps.h. Before a device is in the link table, its program lets nothing in.
"""

from __future__ import annotations

import hashlib
import platform
import re
import struct
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Network, ip_address, ip_network
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol, SiteConfig
from skedge.core.names import overlay_prefix6
from skedge.core.objects import LinkDevice
from skedge.core.reasons import Reason
from skedge.dataplane.bpf import reason_counts, syscall
from skedge.dataplane.bpf.attach import Hooks
from skedge.dataplane.ebpf.link_table import TABLE_MAP, LinkTable, pack_entry, path_number
from skedge.dataplane.host.host_addresses import local
from skedge.dataplane.host.netlink import Netlink

CONFIG_MAP = "link_config_v2"
DROPS_MAP = "link_drops_v2"
PINS = {"ingress": "link_ingress_v1", "egress": "link_egress_v1"}
_CONFIG = struct.Struct("=16s16s16s16s16s4HI")
_SETTINGS = Path("/proc/sys/net/ipv4")
_SYNCOOKIES = _SETTINGS / "tcp_syncookies"
PortRanges = tuple[tuple[int, int], ...]
L3, _PATH = 1, 8
SITE = "site"
_COOKIES_ALWAYS, YIELDS, LEFT, HOST_INSIDE = 1, 2, 4, 8
_EPHEMERAL_LOW, _EPHEMERAL_SPAN = 16, 24
_FLAGS = struct.Struct("=I")


def address_bytes(address: str) -> bytes:
    """Return an address as the programs hold it: 16 bytes, IPv4 in the first four. Raises ValueError."""
    return ip_address(address).packed.ljust(16, b"\0")


def link_mac(device: LinkDevice, link_local: str) -> bytes:
    """Return the MAC address that the site with this link-local address has on the link's device.

    Both ends compute both addresses, so neighbour entries are permanent and no packet waits for a resolution.
    """
    name = f"{device.link.a}\0{device.link.b}\0{device.link.name}\0{ip_address(link_local)}"
    return b"\x02" + hashlib.sha256(name.encode()).digest()[:5]


@dataclass(frozen=True, slots=True)
class PacketCheckConfig:
    """What is the same for every link of a site; ports in host order."""

    overlay4: str
    overlay6: str
    network4: str
    network6: str
    control_port: int
    load_port: int
    endpoint_ports: tuple[int, int]
    udp: bool = True  # any listener or connector of UDP
    flags: int = 0  # LINK_* of bpf/common/link_maps.h
    nat_ports: tuple[int, int] = (0, 0)
    nat_addresses: tuple[str, ...] = ()
    ephemeral: PortRanges = ()  # what the kernel may give to sockets of this host

    @classmethod
    def of_site(cls, config: SiteConfig) -> PacketCheckConfig:
        """Return what the programs need of a site's configuration."""
        return cls(
            config.overlay4,
            config.overlay6,
            config.overlay_cidr,
            overlay_prefix6(config.network),
            config.control_port,
            config.load_port,
            config.endpoint_ports,
            Protocol.UDP in {*(one.protocol for one in config.listeners), *(one.protocol for one in config.connectors)},
            nat_ports=config.lan.ports,
            nat_addresses=tuple(one for one in (config.nat4, config.nat6) if one),
        )

    def on_host(self) -> PacketCheckConfig:
        """Return it with what the host's settings say of its ports."""
        return replace(self, ephemeral=ephemeral_ports(self.endpoint_ports, self.nat_ports))

    def __str__(self) -> str:
        """Return one line, as `skedge plan` prints it."""
        low, high = self.endpoint_ports
        ports = f"control {self.control_port}, load {self.load_port}, endpoints {low}-{high}"
        beside = f", flags {self.flags}" if self.flags else ""
        return f"{self.overlay4} {self.overlay6} of {self.network4} {self.network6}, {ports}{beside}"

    def pack(self) -> bytes:
        """Return the value of the configuration map."""
        network4, network6 = ip_network(self.network4), ip_network(self.network6)
        if not isinstance(network6, IPv6Network) or network6.prefixlen != 48:
            raise ValueError(f"{self.network6} is not an IPv6 /48")
        return _CONFIG.pack(
            address_bytes(self.overlay4),
            address_bytes(self.overlay6),
            network4.network_address.packed.ljust(16, b"\0"),
            network4.netmask.packed.ljust(16, b"\0"),
            network6.network_address.packed,
            self.control_port,
            self.load_port,
            *self.endpoint_ports,
            self.flags,
        )

    @classmethod
    def unpack(cls, raw: bytes) -> PacketCheckConfig | None:
        """Return what the map holds, None before anything was written; of UDP it says nothing."""
        overlay4, overlay6, base4, mask4, network6, control, load, low, high, flags = _CONFIG.unpack(raw)
        if raw == bytes(_CONFIG.size):
            return None
        network4 = ip_network(f"{ip_address(base4[:4])}/{ip_address(mask4[:4])}", strict=False)
        return cls(
            str(ip_address(overlay4[:4])),
            str(ip_address(overlay6)),
            str(network4),
            f"{ip_address(network6)}/48",
            control,
            load,
            (low, high),
            flags=flags,
        )


def ephemeral_ports(*ours: tuple[int, int], settings: Path = _SETTINGS) -> PortRanges:
    """Return the ports that the kernel gives to sockets which ask for none, but for reserved ones and ours."""
    try:
        low, high = (int(part) for part in (settings / "ip_local_port_range").read_text(encoding="ascii").split())
        said = (settings / "ip_local_reserved_ports").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ()
    pairs = [one.partition("-") for one in said.split(",") if one]
    taken = sorted([*ours, *((int(first), int(last or first)) for first, _, last in pairs)])
    found = []
    for first, last in [*taken, (high + 1, high + 1)]:
        if low < first and low <= high:
            found.append((low, min(first - 1, high)))
        low = max(low, last + 1)
    return tuple(found)


def ephemeral_flags(ranges: PortRanges) -> int:
    """Return the flags that tell the longest run of ephemeral ports, in whole blocks of 256."""
    blocks = [(-(-low // 256), (high + 1) // 256) for low, high in ranges]
    first, end = max(blocks, key=lambda one: one[1] - one[0], default=(0, 0))
    return first << _EPHEMERAL_LOW | min(end - first, 255) << _EPHEMERAL_SPAN if first < end else 0


def _cookies() -> int:
    """Return the flag that says whether the host answers every SYN with a cookie."""
    try:
        return _COOKIES_ALWAYS if _SYNCOOKIES.read_text(encoding="ascii").strip() == "2" else 0
    except OSError:
        return _COOKIES_ALWAYS


def _needs_egress(udp: bool) -> bool:
    """Return whether packets must be looked at as they leave: UDP, and SO_REUSEPORT listeners before Linux 6.6."""
    version = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])
    return udp or version < (6, 6)


def _entry(device: LinkDevice, index: int, programs: Sequence[int]) -> bytes:
    """Return the link table's value for a device."""
    return pack_entry(
        address_bytes(device.link_local),
        address_bytes(device.peer_link_local),
        link_mac(device, device.peer_link_local),
        (L3 if device.transport.facts.layer3 else 0) | path_number(device.link) << _PATH,
        index,
        programs,
    )


class PacketCheck:
    """The default-deny check on the link devices of one site, whose programs and maps are pinned in ``pin_dir``."""

    def __init__(self, pin_dir: str, netlink: Netlink) -> None:
        self._pins = Path(pin_dir)
        self._netlink = netlink
        self._hooks = Hooks(netlink, pin_dir, PINS)
        self._table = LinkTable(self._pins / TABLE_MAP)
        self.directions = frozenset(PINS)  # that need a program
        self.beside = 0  # LEFT while connections of the other engine go on

    def _map(self, name: str) -> syscall.Fd:
        return syscall.Fd(syscall.obj_get(str(self._pins / name)))

    def wanted(self, config: PacketCheckConfig) -> PacketCheckConfig:
        """Return the configuration with what this host adds to it, and take note which directions need a program."""
        self.directions = frozenset(PINS if _needs_egress(config.udp) else ("ingress",))
        inside = HOST_INSIDE if self._host_inside(config) else 0
        flags = _cookies() | self.beside | inside | ephemeral_flags(config.on_host().ephemeral)
        return replace(config, flags=flags, udp=True, nat_ports=(0, 0), nat_addresses=(), ephemeral=())

    def _host_inside(self, config: PacketCheckConfig) -> bool:
        """Return whether the host itself has other addresses in the overlay's networks."""
        overlay = [ip_network(config.network4), ip_network(config.network6)]
        ours = {str(ip_network(own)) for own in (config.overlay4, config.overlay6, *config.nat_addresses)}
        others = [ip_network(one) for one in local(self._netlink) - ours]
        return any(one.version == net.version and one.overlaps(net) for one in others for net in overlay)

    def configuration(self) -> PacketCheckConfig | None:
        """Return what the programs know of this site; None: nothing yet. Raises DataplaneError."""
        with self._map(CONFIG_MAP) as fd:
            raw = syscall.map_lookup(fd, bytes(4), _CONFIG.size)
        try:
            return PacketCheckConfig.unpack(raw) if raw else None
        except ValueError:  # somebody else's writing
            return replace(PacketCheckConfig("", "", "", "", 0, 0, (0, 0)))

    def configure(self, config: PacketCheckConfig) -> None:
        """Tell the programs about this site. Raises DataplaneError."""
        with self._map(CONFIG_MAP) as fd:
            syscall.map_update(fd, bytes(4), config.pack())

    def give_way(self) -> None:
        """Let another check decide on all but the connections that were made under this one."""
        with self._map(CONFIG_MAP) as fd:
            raw = syscall.map_lookup(fd, bytes(4), _CONFIG.size) or bytes(_CONFIG.size)
            at = _CONFIG.size - _FLAGS.size
            (flags,) = _FLAGS.unpack_from(raw, at)
            syscall.map_update(fd, bytes(4), raw[:at] + _FLAGS.pack(flags | YIELDS))

    def protect(self, index: int, device: LinkDevice) -> None:
        """Put a device under the check: its far end into the table, the programs onto the interface."""
        before = self._table.programs(index)
        self._table.put(index, _entry(device, index, before))
        ids = self._hooks.attach(index, self.directions, before)
        self._table.put(index, _entry(device, index, [ids.get(direction, 0) for direction in PINS]))

    def protected(self, index: int, device: LinkDevice) -> bool:
        """Return whether the device is under the check, with the pinned programs of now."""
        programs = self._table.programs(index)
        if self._table.get(index) != _entry(device, index, programs):
            return False
        return self._hooks.right(index, self.directions, programs)

    def attached(self, index: int) -> Mapping[str, tuple[int, ...]]:
        """Return the ids of our programs on an interface by direction."""
        return self._hooks.attached(index, self._table.programs(index))

    def detach(self, index: int, *directions: str) -> None:
        """Take the programs of these directions off an interface (all when none is named)."""
        self._hooks.detach(index, directions or tuple(PINS))

    def forget(self, index: int) -> None:
        """Take an interface out of the table; its program then lets nothing in."""
        self._table.delete(index)

    def glance(self, indexes: Iterable[int]) -> Hashable:
        """Return entry and programs of these interfaces: nobody announces a change of a map, or of tcx."""
        return tuple((index, self._table.get(index), tuple(self._hooks.all(index))) for index in indexes)

    def drops(self) -> Mapping[Reason, int]:
        """Return how many packets were refused, by reason, since the maps were made."""
        with self._map(DROPS_MAP) as fd:
            return reason_counts.read(fd)


class PacketCheckDriver:
    """Driver[str, PacketCheckConfig]: what the packet programs know of this site, under the one key `SITE`."""

    def __init__(self, check: PacketCheck) -> None:
        self._check = check

    def read(self) -> Mapping[str, PacketCheckConfig]:
        """Return the configuration, nothing before there was one."""
        found = self._check.configuration()
        return {} if found is None else {SITE: found}

    def put(self, key: str, value: PacketCheckConfig) -> None:
        """Tell the programs. Raises DataplaneError."""
        if key != SITE:
            raise DataplaneError(f"packet check: {key} is not {SITE}")
        self._check.configure(value)

    def delete(self, key: str) -> None:
        """Do nothing: without a configuration no program could judge; the map goes with the pins."""
