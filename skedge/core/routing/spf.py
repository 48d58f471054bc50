"""Shortest path first: the graph that sites agree on, and Dijkstra's algorithm over it with ECMP kept.

Input is the network map, output a distance and all equal-cost predecessors per site. networkx is the oracle in
tests/property; the algorithm is kept here because its import costs an edge host 24 MiB and 0.6 s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

from skedge.core.model import EMPTY, LinkId
from skedge.core.reasons import Reason
from skedge.core.records import LinksRecord, LinkState, NetworkMap


@dataclass(frozen=True, slots=True)
class UsedLink:
    """A link that both ends say is up, with the costs that hold for both directions."""

    link: LinkId
    cost: int
    service_costs: Mapping[str, int] = field(default_factory=lambda: EMPTY, hash=False)


@dataclass(frozen=True, slots=True)
class Edge:
    """All usable links between two sites.

    ``links`` share the cheapest cost and carry packets (ECMP), ``standby`` are dearer. ``service_costs`` holds
    the largest cost among ``links`` for every service that one of them names.
    """

    cost: int
    links: tuple[LinkId, ...]
    standby: tuple[LinkId, ...] = ()
    service_costs: Mapping[str, int] = field(default_factory=lambda: EMPTY, hash=False)


@dataclass(frozen=True, slots=True)
class Graph:
    """The network as SPF sees it: symmetric ``costs[site][neighbour]``, and the links behind each pair.

    ``edges`` is keyed by the pair in order (smaller name first). Sites in ``overload`` are never transit.
    """

    costs: Mapping[str, Mapping[str, int]]
    edges: Mapping[tuple[str, str], Edge]
    overload: frozenset[str] = frozenset()

    def edge(self, one: str, other: str) -> Edge:
        """Return the edge between two neighbours, in either order. Raises KeyError when there is none."""
        return self.edges[min(one, other), max(one, other)]


@dataclass(frozen=True, slots=True)
class ShortestPaths:
    """Result of `dijkstra`: only reachable sites, in the order of their distance, the root first with 0."""

    root: str
    distance: Mapping[str, int]
    predecessors: Mapping[str, tuple[str, ...]]


def dijkstra(
    costs: Mapping[str, Mapping[str, int]], root: str, no_transit: Collection[str] = frozenset()
) -> ShortestPaths:
    """Return distances and all equal-cost predecessors from ``root``. O((V + E) log V).

    Sites in ``no_transit`` are reached but not passed through; the root itself always originates.
    ``costs`` are at least 1, so that a predecessor is always strictly nearer than its successor.
    """
    tentative = {root: 0}
    predecessors: dict[str, list[str]] = {root: []}
    distance: dict[str, int] = {}
    heap = [(0, root)]
    while heap:
        here, site = heappop(heap)
        if site in distance:
            continue  # an older, longer entry
        distance[site] = here
        if site in no_transit and site != root:
            continue
        for neighbour, cost in costs.get(site, {}).items():
            there = here + cost
            known = tentative.get(neighbour)
            if known is None or there < known:
                tentative[neighbour] = there
                predecessors[neighbour] = [site]
                heappush(heap, (there, neighbour))
            elif there == known:
                predecessors[neighbour].append(site)
    return ShortestPaths(root, distance, {site: tuple(sorted(predecessors[site])) for site in distance})


def build(network_map: NetworkMap) -> Graph:
    """Return the graph of all links that pass the two-way check. O(links)."""
    pairs: dict[tuple[str, str], list[UsedLink]] = defaultdict(list)
    for used in used_links(network_map):
        pairs[used.link.a, used.link.b].append(used)
    edges = {pair: _edge(links) for pair, links in pairs.items()}
    costs: dict[str, dict[str, int]] = {site: {} for site in network_map.links}
    for (a, b), edge in edges.items():
        costs[a][b] = costs[b][a] = edge.cost
    return Graph(costs, edges, frozenset(site for site, record in network_map.links.items() if record.overload))


def used_links(network_map: NetworkMap) -> Iterable[UsedLink]:
    """Yield every link that both ends list as up; the larger cost holds, also for each service."""
    ends = {site: _ends(site, record) for site, record in network_map.links.items()}
    for site, mine in ends.items():
        for link, near in mine.items():
            if site != link.a:
                continue  # met from its other end
            far = ends.get(link.b, {}).get(link)
            if far is not None and near.up and far.up:
                yield UsedLink(link, max(near.cost, far.cost), _larger(near.service_costs, far.service_costs))


def unused_reason(network_map: NetworkMap, link: LinkId, site: str) -> Reason:
    """Return why SPF does not use the link, as seen from its end ``site``; NONE when it does."""
    near, far = (
        _ends(end, record).get(link) if (record := network_map.links.get(end)) else None
        for end in (site, link.far_end(site))
    )
    if near is not None and not near.up:
        return Reason.PROBE_LOST
    if near is None or far is None:
        return Reason.NOT_CONFIGURED
    return Reason.NONE if far.up else Reason.ONE_WAY


def _ends(site: str, record: LinksRecord) -> dict[LinkId, LinkState]:
    """Return the site's ends of its links (records were checked when they came in: costs 1..65535, none twice)."""
    return {LinkId.between(site, state.to, state.name): state for state in record.links}


def _larger(one: Mapping[str, int], other: Mapping[str, int]) -> Mapping[str, int]:
    """Return the larger cost of each service that either end names."""
    if not one or not other:
        return one or other
    return {service: max(one.get(service, 0), other.get(service, 0)) for service in {*one, *other}}


def _edge(links: list[UsedLink]) -> Edge:
    """Return what parallel links are together: the cheapest carry the packets, the rest stand by."""
    cost = min(used.cost for used in links)
    best = [used for used in links if used.cost == cost]
    services = {service for used in best for service in used.service_costs}
    return Edge(
        cost,
        tuple(sorted(used.link for used in best)),
        tuple(sorted(used.link for used in links if used.cost > cost)),
        {service: max(used.service_costs.get(service, cost) for used in best) for service in services} or EMPTY,
    )
