"""LAN prefixes that sites announce: which of them count, where clients that keep their address may be served.

Every site judges all announcements by the same rule, its own too, so that all agree on who has which prefix.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network

from skedge.core.abilities import ABILITIES
from skedge.core.model import SiteConfig
from skedge.core.names import overlay_prefix6
from skedge.core.reasons import Reason
from skedge.core.records import NetworkMap
from skedge.core.routing.overlay_addresses import Skipped

Network = IPv4Network | IPv6Network

PREFIXES_PER_SITE_MAX = 16
SHORTEST = {4: 8, 6: 16}  # less is no LAN, and would take the way to half of the world
KIND = "prefix"


@dataclass(frozen=True, slots=True)
class Prefixes:
    """All prefixes that count. ``own``: this site's. ``others``: prefix -> its site.

    ``refused`` are those of others that overlap a network of this host: their clients may pass through this site, but
    not come to its workloads, which could not tell them from the host's own neighbours.
    """

    own: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    skipped: tuple[Skipped, ...] = ()


def parse_prefix(text: str) -> Network:
    """Return the LAN prefix in ``text``. Raises ValueError with the sentence that says why it is none."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("not a prefix; give one such as 10.1.0.0/16 or fd12:3456::/48") from None
    first = network.network_address
    # before its form, which for these is another since Python 3.13
    mapped = isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None
    if not mapped and ("/" not in text or str(network) != text):
        raise ValueError(f"not in its one form; give {network}")
    special = first.is_loopback or first.is_multicast or first.is_link_local or first.is_unspecified
    if special or mapped or (network.version == 4 and (first.is_reserved or int(first) >> 24 == 0)):
        raise ValueError("not for hosts of a LAN; give their prefix, such as 10.1.0.0/16")
    if network.prefixlen < SHORTEST[network.version]:
        raise ValueError(f"shorter than /{SHORTEST[network.version]}; give the LAN's own prefix")
    return network


def judge(config: SiteConfig, network_map: NetworkMap, host_addresses: Iterable[str]) -> Prefixes:
    """Return the prefixes that count at this site.

    One that overlaps the overlay, or that of a site before it by name, counts nowhere.

    Args:
        config: this site's configuration; its own prefixes are taken from here.
        network_map: all records held.
        host_addresses: the host's current addresses with their ``/len``.
    """
    claims = {site: record.prefixes for site, record in network_map.links.items()} | {config.site: config.prefixes}
    overlay = (config.overlay_cidr, overlay_prefix6(config.network))
    granted, skipped = _grant(tuple(sorted((site, said) for site, said in claims.items() if said)), overlay)
    others = {prefix: site for prefix, site in granted.items() if site != config.site}
    own = tuple(prefix for prefix, site in granted.items() if site == config.site)
    connected = _Ranges()
    for text in host_addresses:
        connected.add(ip_interface(text.partition("%")[0]).network)
    refused = frozenset(prefix for prefix in others if connected.overlap(ip_network(prefix)))
    news = tuple(Skipped(KIND, f"{others[prefix]}: {prefix}", Reason.OVERLAPPING_PREFIX) for prefix in sorted(refused))
    if not ABILITIES[config.engine].preserves_src:
        news += tuple(Skipped(KIND, f"{others[one]}: {one}", Reason.ENGINE) for one in sorted(others.keys() - refused))
        refused = frozenset(others)
    return Prefixes(own, others, refused, (*skipped, *news))


@lru_cache(maxsize=8)  # asked at every change of anything, and announcements hardly ever change
def _grant(
    claims: tuple[tuple[str, tuple[str, ...]], ...], overlay: tuple[str, ...]
) -> tuple[Mapping[str, str], tuple[Skipped, ...]]:
    """Return who has which prefix, and the claims that are refused. The first by name goes before."""
    taken = _Ranges()
    for text in overlay:
        taken.add(ip_network(text))
    granted: dict[str, str] = {}
    skipped = []
    for site, prefixes in claims:
        for prefix in sorted(prefixes):
            network = ip_network(prefix)
            if taken.overlap(network):
                skipped.append(Skipped(KIND, f"{site}: {prefix}", Reason.OVERLAPPING_PREFIX))
                continue
            taken.add(network)
            granted[prefix] = site
    return granted, tuple(skipped)


class _Ranges:
    """Networks, so that an overlap with any of them is found by bisection. Networks overlap only by containment."""

    def __init__(self) -> None:
        self._ends: dict[int, list[tuple[int, int]]] = {4: [], 6: []}

    def add(self, network: Network) -> None:
        """Take a network in; those within it give way, one that is within another is left out."""
        ends, (first, last) = self._ends[network.version], _ends(network)
        at = bisect(ends, (first, -1))
        if at and ends[at - 1][1] >= last:
            return
        behind = at
        while behind < len(ends) and ends[behind][0] <= last:
            if ends[behind][1] >= last and ends[behind][0] == first:
                return
            behind += 1
        ends[at:behind] = [(first, last)]

    def overlap(self, network: Network) -> bool:
        """Return whether any of the networks has an address in common with this one."""
        ends, (first, last) = self._ends[network.version], _ends(network)
        at = bisect(ends, (last, 1 << 128))
        return bool(at) and ends[at - 1][1] >= first


def _ends(network: Network) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)
