"""Which overlay address of which site this site believes: every site speaks for itself, but not for any address."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from skedge.core import names
from skedge.core.model import SiteConfig
from skedge.core.reasons import Reason
from skedge.core.records import NetworkMap


@dataclass(frozen=True, slots=True)
class SiteAddresses:
    """The overlay addresses under which a site is reached; "" where there is none that can be believed.

    ``nat4`` and ``nat6`` are those that its LAN's clients come from.
    """

    v4: str = ""
    v6: str = ""
    nat4: str = ""
    nat6: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that another site said and that takes no part here, and why."""

    kind: str
    key: str
    reason: Reason


def site_addresses(
    config: SiteConfig, network_map: NetworkMap
) -> tuple[Mapping[str, SiteAddresses], tuple[Skipped, ...]]:
    """Return the overlay addresses of all sites of the map and of this one, and the claims refused.

    An address outside the overlay would send the host's own traffic into it: refused. An address that two sites
    claim goes to this site, else to the one whose name it is derived from, else to the first by name. One that a site
    is reached under is nobody's NAT address; who gets none goes without, and needs no word.
    """
    skipped: list[Skipped] = []
    network4, network6 = IPv4Network(config.overlay_cidr), IPv6Network(names.overlay_prefix6(config.network))
    claims4 = {site: record.overlay4 for site, record in network_map.links.items()} | {config.site: config.overlay4}
    claims6 = {site: record.overlay6 for site, record in network_map.links.items()} | {config.site: config.overlay6}
    granted4 = _grant(
        config.site,
        _inside(claims4, network4, skipped),
        lambda site: names.overlay_address(network4, config.network, site),
        skipped,
    )
    granted6 = _grant(
        config.site,
        _inside(claims6, network6, skipped),
        lambda site: names.overlay_address6(config.network, site),
        skipped,
    )
    nat4, nat6 = _nat_addresses(config, network_map, network4, network6, {*granted4.values(), *granted6.values()})
    addresses = {
        site: SiteAddresses(*(granted.get(site, "") for granted in (granted4, granted6, nat4, nat6)))
        for site in sorted(claims4)
    }
    return addresses, tuple(skipped)


def _nat_addresses(
    config: SiteConfig, network_map: NetworkMap, network4: IPv4Network, network6: IPv6Network, taken: Collection[str]
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return the NAT addresses of both families by site; ``taken`` are the addresses that sites are reached under."""
    records = network_map.links.items()
    claims4 = {site: record.nat4 for site, record in records} | {config.site: config.nat4}
    claims6 = {site: record.nat6 for site, record in records} | {config.site: config.nat6}
    made4 = functools.partial(names.nat_address, network4, config.network)
    made6 = functools.partial(names.nat_address6, config.network)
    free4, free6 = ({site: text for site, text in claims.items() if text not in taken} for claims in (claims4, claims6))
    return (
        _grant(config.site, _inside(free4, network4, []), made4, []),
        _grant(config.site, _inside(free6, network6, []), made6, []),
    )


def nat_sources(config: SiteConfig, network_map: NetworkMap, own: SiteAddresses) -> tuple[str, str]:
    """Return what this site's LAN clients may come from on other sites, IPv4 and IPv6; "" for the overlay address.

    Every site on the way must have routes back, so all of them must be of a version that knows of NAT addresses.
    """
    known = all(record.nat6 for site, record in network_map.links.items() if site != config.site)
    return (own.nat4, own.nat6) if known else ("", "")


def _inside(
    claims: Mapping[str, str], network: IPv4Network | IPv6Network, skipped: list[Skipped]
) -> dict[str, IPv4Address | IPv6Address]:
    """Return the claims that are addresses of the overlay; a site without an address claims none."""
    inside = {}
    for site, text in sorted(claims.items()):
        address = plain_address(text)
        if address is not None and address in network:
            inside[site] = address
        elif text:
            skipped.append(Skipped("address", f"{site}: {text}", Reason.NOT_OVERLAY))
    return inside


def _grant(
    here: str,
    claims: Mapping[str, IPv4Address | IPv6Address],
    derived: Callable[[str], IPv4Address | IPv6Address],
    skipped: list[Skipped],
) -> dict[str, str]:
    """Return one site an address; see `site_addresses` for who gets it."""
    holder: dict[IPv4Address | IPv6Address, str] = {}
    for site, address in sorted(claims.items(), key=lambda claim: (claim[0] != here, claim[1] != derived(claim[0]))):
        if holder.setdefault(address, site) != site:
            skipped.append(Skipped("address", f"{site}: {address}", Reason.DUPLICATE_ADDRESS))
    return {site: str(address) for address, site in holder.items()}


def plain_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address in ``text`` (an interface address with ``/len`` or ``%zone`` too); None for a name."""
    try:
        return ip_address(text.partition("/")[0].partition("%")[0])
    except ValueError:
        return None
