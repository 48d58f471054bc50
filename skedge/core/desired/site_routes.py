"""The routes of a site: one to each overlay address and LAN of every other site, with the alternate of each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from skedge.core import names
from skedge.core.model import LinkId, SiteConfig
from skedge.core.objects import KernelRoute, NextHop, RouteUse
from skedge.core.routing import lan_prefixes as prefixes
from skedge.core.routing.forwarding import Hops
from skedge.core.routing.overlay_addresses import SiteAddresses
from skedge.core.routing.rib import Rib


def first_links(rib: Rib) -> Mapping[str, Hops]:
    """Return the first links of the cheapest paths alone."""
    return {site: Hops(path.next_hops) for site, path in rib.paths.items() if site != rib.site}


def all_routes(
    config: SiteConfig, hops: Mapping[str, Hops], addresses: Mapping[str, SiteAddresses], lans: prefixes.Prefixes
) -> Mapping[str, KernelRoute]:
    """Return the routes to all other sites that can be reached, and to their LANs."""
    return {**routes(config, hops, addresses), **prefix_routes(config, hops, lans)}


def routes(
    config: SiteConfig, hops: Mapping[str, Hops], addresses: Mapping[str, SiteAddresses]
) -> Mapping[str, KernelRoute]:
    """Return one route per overlay address of every other reachable site, all equal-cost next hops kept.

    A next hop over a link that the configuration has no more (the own record is older for a moment) is left out.
    """
    configured = _configured(config)
    found: dict[str, KernelRoute] = {}
    for site in sorted(hops):
        if site not in addresses or not any(link in configured for link in hops[site].links):
            continue
        one = addresses[site]
        for version, ours, length in ((4, (one.v4, one.nat4), 32), (6, (one.v6, one.nat6), 128)):
            route = _route(config, hops[site], configured, version)
            found |= {f"{address}/{length}": route for address in ours if address}
    return found


def prefix_routes(config: SiteConfig, hops: Mapping[str, Hops], lans: prefixes.Prefixes) -> Mapping[str, KernelRoute]:
    """Return one route per LAN prefix of every other reachable site: the same way as to the site itself."""
    configured = _configured(config)
    found: dict[str, KernelRoute] = {}
    for prefix, site in lans.others.items():
        if site in hops and any(link in configured for link in hops[site].links):
            use = RouteUse.TRANSIT if prefix in lans.refused else RouteUse.CLIENTS
            found[prefix] = replace(_route(config, hops[site], configured, 6 if ":" in prefix else 4), use=use)
    return found


def _route(config: SiteConfig, hops: Hops, configured: Collection[LinkId], version: int) -> KernelRoute:
    """Return the route of this IP version over the links that the configuration has."""
    first, spare = (
        _next_hops(config, (link for link in links if link in configured), version)
        for links in (hops.links, hops.alternates)
    )
    return KernelRoute(first, config.overlay4 if version == 4 else config.overlay6, alternates=spare)


def _next_hops(config: SiteConfig, links: Iterable[LinkId], version: int) -> tuple[NextHop, ...]:
    """Return the next hops of a route of this IP version.

    Links are unnumbered. An IPv6 next hop would do for IPv4 too, but then the kernel writes each packet's Ethernet
    header anew; a next hop of the packet's own family has it at hand.
    """
    hops = []
    for link in links:
        via = names.GATEWAY4 if version == 4 else str(names.link_local(config.network, link.far_end(config.site)))
        hops.append(NextHop(names.device_name(config.network, link, config.site), via))
    return tuple(sorted(hops))


def _configured(config: SiteConfig) -> Collection[LinkId]:
    return {LinkId.between(config.site, link.to, link.name) for link in config.links}
