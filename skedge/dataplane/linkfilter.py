"""What the packet programs on link devices know: this site's configuration, who is at each device's far end, counts.

The layouts are those of bpf/link_maps.h. Before a device is in the link table, its program lets nothing in.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Network, ip_address, ip_network
from pathlib import Path

from skedge.core.model import SiteConfig
from skedge.core.names import overlay_prefix6
from skedge.core.reasons import Reason
from skedge.core.state import LinkDevice
from skedge.dataplane import bpfsys, tc
from skedge.dataplane.netlink import Netlink

CONFIG_MAP = "link_config_v1"
TABLE_MAP = "link_table_v1"
DROPS_MAP = "link_drops_v1"
_CONFIG = struct.Struct("=16s16s16s16s16s4H")
_ENTRY = struct.Struct("=16s16s6sH")
_REASONS = 64
L3 = 1


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
class FilterConfig:
    """What is the same for every link of a site; ports in host order."""

    overlay4: str
    overlay6: str
    network4: str
    network6: str
    control_port: int
    load_port: int
    endpoint_ports: tuple[int, int]

    @classmethod
    def of_site(cls, config: SiteConfig) -> FilterConfig:
        """Return what the programs need of a site's configuration."""
        return cls(
            config.overlay4,
            config.overlay6,
            config.overlay_cidr,
            overlay_prefix6(config.network),
            config.control_port,
            config.load_port,
            config.endpoint_ports,
        )

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
        )


def _entry(device: LinkDevice, l3: bool) -> bytes:
    """Return the link table's value for a device."""
    return _ENTRY.pack(
        address_bytes(device.link_local),
        address_bytes(device.peer_link_local),
        link_mac(device, device.peer_link_local),
        L3 if l3 else 0,
    )


class LinkFilter:
    """The default-deny check on the link devices of one site, whose programs and maps are pinned in ``pin_dir``."""

    def __init__(self, pin_dir: str, netlink: Netlink) -> None:
        self._pins = Path(pin_dir)
        self._netlink = netlink

    def _map(self, name: str) -> bpfsys.Fd:
        return bpfsys.Fd(bpfsys.obj_get(str(self._pins / name)))

    def configure(self, config: FilterConfig) -> None:
        """Tell the programs about this site. Raises DataplaneError."""
        with self._map(CONFIG_MAP) as fd:
            bpfsys.map_update(fd, bytes(4), config.pack())

    def configured(self, config: FilterConfig) -> bool:
        """Return whether the programs have exactly this configuration."""
        with self._map(CONFIG_MAP) as fd:
            return bpfsys.map_lookup(fd, bytes(4), _CONFIG.size) == config.pack()

    def protect(self, index: int, device: LinkDevice, *, l3: bool = False) -> None:
        """Put a device under the check: its far end into the table, the programs onto the interface."""
        with self._map(TABLE_MAP) as fd:
            bpfsys.map_update(fd, struct.pack("=I", index), _entry(device, l3))
        tc.attach(self._netlink, index, str(self._pins))

    def protected(self, index: int, device: LinkDevice, *, l3: bool = False) -> bool:
        """Return whether the device is under the check, with the pinned programs of now."""
        with self._map(TABLE_MAP) as fd:
            if bpfsys.map_lookup(fd, struct.pack("=I", index), _ENTRY.size) != _entry(device, l3):
                return False
        return tc.attached(index) == tc.pinned(str(self._pins))

    def forget(self, index: int) -> None:
        """Take an interface out of the table; its program then lets nothing in."""
        with self._map(TABLE_MAP) as fd:
            bpfsys.map_delete(fd, struct.pack("=I", index))

    def drops(self) -> Mapping[Reason, int]:
        """Return how many packets were refused, by reason, since the maps were made."""
        counts: dict[Reason, int] = {}
        blocks = bpfsys.possible_cpus()
        with self._map(DROPS_MAP) as fd:
            for code in range(_REASONS):
                value = bpfsys.map_lookup(fd, struct.pack("=I", code), 8 * blocks) or b""
                total = sum(count for (count,) in struct.iter_unpack("=Q", value))
                if total:
                    counts[Reason.of_code(code)] = total
        return counts
