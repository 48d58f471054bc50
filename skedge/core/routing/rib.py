"""The routing information base: what one site knows of the paths to all others, computed from the network map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from skedge.core.model import EMPTY, LinkId
from skedge.core.records import NetworkMap
from skedge.core.routing import spf


@dataclass(frozen=True, slots=True)
class Path:
    """The cheapest path(s) to one site.

    ``next_hops`` are the first links of all equal-cost paths, ``predecessors`` the last sites before it.
    ``service_costs`` holds the path cost of each service for which it differs from ``cost``.
    """

    cost: int
    next_hops: tuple[LinkId, ...] = ()
    predecessors: tuple[str, ...] = ()
    service_costs: Mapping[str, int] = field(default_factory=lambda: EMPTY, hash=False)


@dataclass(frozen=True, slots=True)
class Rib:
    """Paths from ``site`` to every reachable site, itself included at cost 0; unreachable sites are absent."""

    site: str
    paths: Mapping[str, Path] = field(hash=False)

    def path_cost(self, site: str, service: str = "") -> int | None:
        """Return the path cost that counts in the choice of a service; None when the site is unreachable."""
        path = self.paths.get(site)
        return None if path is None else path.service_costs.get(service, path.cost)

    def next_hops(self, site: str) -> tuple[LinkId, ...]:
        """Return the first links towards a site, sorted; none for this site itself and for unreachable ones."""
        path = self.paths.get(site)
        return () if path is None else path.next_hops

    def path(self, site: str) -> tuple[str, ...]:
        """Return the sites of one cheapest path, both ends included; among equals by name. Empty: unreachable."""
        if site not in self.paths:
            return ()
        hops = [site]
        while hops[-1] != self.site:
            hops.append(self.paths[hops[-1]].predecessors[0])
        return tuple(reversed(hops))


def compute(network_map: NetworkMap, site: str) -> Rib:
    """Return the RIB of any site of the map; a site that the map does not know reaches only itself."""
    return from_graph(spf.build(network_map), site)


def from_graph(graph: spf.Graph, site: str) -> Rib:
    """Return the RIB of a site over a graph that is already built (one graph serves all roots)."""
    tree = spf.dijkstra(graph.costs, site, graph.overload)
    next_hops = _next_hops(graph, tree)
    by_service = _service_costs(graph, tree)
    return Rib(
        site,
        {
            there: Path(cost, next_hops[there], tree.predecessors[there], by_service.get(there, EMPTY))
            for there, cost in tree.distance.items()
        },
    )


def _next_hops(graph: spf.Graph, tree: spf.ShortestPaths) -> dict[str, tuple[LinkId, ...]]:
    """Return the first links towards every site: those of all its predecessors, or its own edge to the root."""
    hops: dict[str, tuple[LinkId, ...]] = {}
    for site in tree.distance:  # nearest first, so predecessors are known
        links: set[LinkId] = set()
        for before in tree.predecessors[site]:
            links.update(graph.edge(before, site).links if before == tree.root else hops[before])
        hops[site] = tuple(sorted(links))
    return hops


def _service_costs(graph: spf.Graph, tree: spf.ShortestPaths) -> dict[str, dict[str, int]]:
    """Return site -> service -> path cost where it differs from the base: the largest sum over the base paths."""
    differing: dict[str, dict[str, int]] = {}
    for service in {service for edge in graph.edges.values() for service in edge.service_costs}:
        sums: dict[str, int] = {}
        for site, base in tree.distance.items():
            sums[site] = max(
                (
                    sums[before] + (edge := graph.edge(before, site)).service_costs.get(service, edge.cost)
                    for before in tree.predecessors[site]
                ),
                default=0,
            )
            if sums[site] != base:
                differing.setdefault(site, {})[service] = sums[site]
    return differing
