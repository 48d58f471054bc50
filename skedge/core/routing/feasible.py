"""By which links packets of each other site may come: the reverse path, judged by the map and not by today's SPF.

A site may be behind a link when there is any way from that link's far end to it which does not lead through this site,
whatever is up now. So packets that take another way than ours to them, or the way of a moment ago, are still taken; one
that claims to be of a site behind another link only is not.
"""

from __future__ import annotations

from collections.abc import Mapping

from skedge.core import names
from skedge.core.model import LinkId, SiteConfig
from skedge.core.records import NetworkMap


def devices_by_site(config: SiteConfig, network_map: NetworkMap) -> Mapping[str, frozenset[str]]:
    """Return the link devices that each other site's packets may come by. O(links)."""
    part = _parts(config.site, network_map)
    devices: dict[str, set[str]] = {}
    for link in config.links:
        device = names.device_name(config.network, LinkId.between(config.site, link.to, link.name), config.site)
        devices.setdefault(part.get(link.to, link.to), set()).add(device)
    return {site: frozenset(devices.get(part[site], ())) for site in part}


def _parts(here: str, network_map: NetworkMap) -> dict[str, str]:
    """Return for each other site a name of the part that it is in when this one is taken out of the network."""
    said = {site: {link.to for link in record.links} for site, record in network_map.links.items() if site != here}
    part: dict[str, str] = {}
    for first in sorted(said):
        waiting = [first] if first not in part else []
        while waiting:
            site = waiting.pop()
            if site in part:
                continue
            part[site] = first
            waiting += [to for to in said[site] if to not in part and site in said.get(to, ())]
    return part
