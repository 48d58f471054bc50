"""Loop-free alternates (RFC 5286): where packets for a site go when its next hops fail, known before they do.

A neighbour is loop-free for a site when none of its cheapest paths there comes back through this one, on the map that
all sites still route by. It protects against the loss of the next hop's link; against the loss of the site behind that
link, too, when none of those paths goes through it ("node-protecting"). Equal-cost next hops protect each other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from skedge.core.model import LinkId
from skedge.core.routing import spf
from skedge.core.routing.rib import Rib

WORK_MAX = 200_000  # links looked at in all neighbours' shortest paths: some 50 ms; of more, the dearest are left out


class Protection(StrEnum):
    """What a site's packets survive: nothing, the loss of any one link here, or that of the site behind it, too."""

    NONE = "none"
    LINK = "link"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Alternate:
    """The first links of a site's packets when none of its next hops is left; sorted, of one cost.

    ``safe`` are all first links over which packets come to the site without coming back, its next hops included.
    """

    links: tuple[LinkId, ...] = ()
    protection: Protection = Protection.NONE
    safe: frozenset[LinkId] = frozenset()


@dataclass(frozen=True, slots=True)
class _Neighbour:
    """A site beside this one, and what its own cheapest paths cost; ``distance`` lacks what is not known."""

    site: str
    edge: spf.Edge
    distance: Mapping[str, int]
    transit: bool

    def avoids(self, through: str, site: str, beyond: float) -> bool:
        """Tell whether no cheapest path from here to ``site`` goes through a site that is ``beyond`` from it."""
        return self.distance[site] < self.distance.get(through, inf) + beyond


def compute(graph: spf.Graph, table: Rib) -> Mapping[str, Alternate]:
    """Return the alternate of every other site that ``table`` reaches, over the graph that it was computed from."""
    neighbours = _neighbours(graph, table)
    return {site: _alternate(graph, table, neighbours, site) for site in table.paths if site != table.site}


def _neighbours(graph: spf.Graph, table: Rib) -> list[_Neighbour]:
    """Return this site's neighbours, the nearest first; without paths of their own where those lead nowhere else."""
    here, work = table.site, 0
    a_run = sum(len(ends) for ends in graph.costs.values())
    found = []
    for cost, site in sorted((cost, site) for site, cost in graph.costs.get(here, {}).items()):
        transit = site not in graph.overload and len(graph.costs[site]) > 1 and work + a_run <= WORK_MAX
        work += a_run * transit
        distance = spf.dijkstra(graph.costs, site, graph.overload).distance if transit else {site: 0, here: cost}
        found.append(_Neighbour(site, graph.edge(here, site), distance, transit))
    return found


def _alternate(graph: spf.Graph, table: Rib, neighbours: Iterable[_Neighbour], site: str) -> Alternate:
    cost, next_hops = table.paths[site].cost, table.paths[site].next_hops
    beyond = inf if table.site in graph.overload else cost  # nobody's path leads through a site with the overload bit
    safe = [
        one
        for one in neighbours
        if one.site == site or (one.transit and site in one.distance and one.avoids(table.site, site, beyond))
    ]
    behind = {link.far_end(table.site) for link in next_hops}
    rest = {there: cost - graph.costs[table.site][there] for there in behind - {site}}
    ranked = sorted(
        (not _protects(one, rest, site), link in one.edge.standby, one.edge.cost + one.distance[site], link)
        for one in safe
        for link in (*one.edge.links, *one.edge.standby)
        if link not in next_hops
    )
    links = tuple(link for *rank, link in ranked if rank == list(ranked[0][:3]))
    by_site = {one.site: one for one in safe}
    return Alternate(
        links,
        _protection(table.site, site, next_hops, links, by_site, rest),
        frozenset(next_hops).union(*((*one.edge.links, *one.edge.standby) for one in safe)),
    )


def _protects(one: _Neighbour, rest: Mapping[str, int], site: str) -> bool:
    """Tell whether a neighbour's paths to ``site`` lead through none of ``rest``: site -> what is left from there."""
    return all(one.site != there and one.avoids(there, site, cost) for there, cost in rest.items())


def _protection(
    here: str,
    site: str,
    next_hops: Collection[LinkId],
    alternates: Collection[LinkId],
    by_site: Mapping[str, _Neighbour],
    rest: Mapping[str, int],
) -> Protection:
    """Return what is survived: each next hop may go alone, or with all others that lead to the same neighbour."""
    if len(next_hops) < 2 and not alternates:
        return Protection.NONE

    def survived(there: str, cost: int) -> bool:
        left = {link.far_end(here) for link in next_hops} - {there} or {link.far_end(here) for link in alternates}
        return bool(left) and all(
            one == site or (one in by_site and _protects(by_site[one], {there: cost}, site)) for one in left
        )

    whole = bool(rest) and all(survived(there, cost) for there, cost in rest.items())
    return Protection.NODE if whole else Protection.LINK
