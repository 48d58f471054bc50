"""What the host has around it, compared with what its site announces and with the addresses of other sites (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was read of the host.

    ``led``: announced prefix of this site -> the host's own route by which it goes there, "" for the default route or
    none. ``beside``: address -> what it is to the host, a resolver or a gateway. ``astray``: overlay address of another
    site that there is a route of ours to -> where the host leads it all the same. ``marked``: mark (``value/mask``) ->
    the table that a rule of the host leads packets with it to. ``filtered``: the chain of somebody else that drops what
    links bring from the overlay, "" for none that is known.
    """

    led: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    astray: Mapping[str, str] = field(default_factory=dict)
    marked: Mapping[str, int] = field(default_factory=dict)
    filtered: str = ""


def too_wide(found: Surroundings, host_addresses: Iterable[str]) -> list[str]:
    """Return the announced prefixes that lie in no network of this host and in no route of its own."""
    networks = [str(ip_interface(one.partition("%")[0]).network) for one in host_addresses]
    return sorted(
        prefix
        for prefix, route in found.led.items()
        if not any(_within(prefix, one) for one in (*networks, route) if one)
    )


def clashes(found: Surroundings, host_addresses: Iterable[str], sites: Collection[str]) -> Mapping[str, str]:
    """Return the overlay addresses of other sites that mean something else around this host, too, and what."""
    told = {one: what for one, what in found.beside.items() if one in sites}
    for text in host_addresses:
        interface = ip_interface(text.partition("%")[0])
        for site in sites:
            if str(interface.ip) == site:
                told[site] = "an address of this host"
            elif interface.network.num_addresses > 1 and ip_address(site) in interface.network:
                told.setdefault(site, f"in this host's network {interface.network}")
    return told


def _within(prefix: str, network: str) -> bool:
    inner, outer = ip_network(prefix), ip_network(network)
    same = inner.version == outer.version and outer.prefixlen <= inner.prefixlen
    return same and inner.network_address in outer
