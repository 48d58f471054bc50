"""How links cross the underlay: one row of facts a transport. What it does is in `dataplane.links.transports`.

Everything else asks for a fact, so a new transport is one row here and its strategy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

VXLAN_PORT = 4790
WIREGUARD_PORT = 4791


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportFacts:
    """What a link of one transport needs, and what its devices are.

    ``kinds``: the kernel's kinds of its devices; the first is the one that the controller creates. ``overhead``: bytes
    that it adds to a packet, by IP version of the underlay; empty where it is no tunnel. ``device``: a link needs a
    network device of the operator's. ``remote``: a link needs the far end's address; ``local``: its packets leave from
    the link's own address. ``port``: the UDP port at which it is received when the link says no other, 0 without UDP;
    ``own_port``: no two links of a site share one. ``vni``: the links of a site are told apart by a network identifier.
    ``layer3``: packets have no Ethernet header, devices no MAC address. ``encrypted``: each end knows the other by its
    key. ``guarded``: the kernel takes its packets from any sender, so the tunnel guard drops those of strangers.
    ``roaming``: a link follows the far end to where it is heard, so its remote may be a host name, or empty.
    ``marked``: its packets have no source before the route is known, so those of a link with a ``local`` carry a mark,
    by which they are routed. ``fragments``: its own packets may be cut up below, so a device has the MTU that IPv6
    needs in any case.
    """

    kinds: tuple[str, ...]
    overhead: Mapping[int, int] = field(default_factory=dict)
    device: bool = False
    remote: bool = False
    local: bool = False
    port: int = 0
    own_port: bool = False
    vni: bool = False
    layer3: bool = False
    encrypted: bool = False
    guarded: bool = False
    roaming: bool = False
    marked: bool = False
    fragments: bool = False

    @property
    def tunnel(self) -> bool:
        """Return whether packets are wrapped into other ones."""
        return bool(self.overhead)


class Transport(StrEnum):
    """How a link crosses the underlay."""

    WIREGUARD = "wireguard"
    VXLAN = "vxlan"
    DIRECT = "direct"

    @property
    def facts(self) -> TransportFacts:
        """Return what is so about links of this transport."""
        return TRANSPORTS[self]


TRANSPORTS: Mapping[Transport, TransportFacts] = {
    Transport.WIREGUARD: TransportFacts(
        kinds=("wireguard", "tun"),  # tun: wireguard-go
        overhead={4: 20 + 8 + 16 + 16, 6: 40 + 8 + 16 + 16},  # IP, UDP, header, tag
        port=WIREGUARD_PORT,
        own_port=True,
        layer3=True,
        encrypted=True,
        roaming=True,
        marked=True,
        fragments=True,
    ),
    Transport.VXLAN: TransportFacts(
        kinds=("vxlan",),
        overhead={4: 20 + 8 + 8 + 14, 6: 40 + 8 + 8 + 14},  # IP, UDP, VXLAN, the inner Ethernet header
        remote=True,
        local=True,
        port=VXLAN_PORT,
        vni=True,
        guarded=True,
    ),
    Transport.DIRECT: TransportFacts(kinds=("macvlan",), device=True),
}
