from __future__ import annotations

import itertools
import random

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from skedge.core.model import LinkId, SiteConfig
from skedge.core.records import NetworkMap
from skedge.core.routing import rib, spf
from tests.fakes.networks import configs, map_of
from tests.property.strategies import networks

Network = tuple[dict[str, SiteConfig], NetworkMap]


def oracle_graph(network_map: NetworkMap, root: str) -> nx.MultiDiGraph:
    """The network as networkx sees it, from the records alone: overload sites other than the root have no way out."""
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(network_map.links)
    ends = {
        (LinkId.between(site, one.to, one.name), site): one
        for site, record in network_map.links.items()
        for one in record.links
    }
    for (link, site), near in ends.items():
        far = ends.get((link, link.far_end(site)))
        stuck = network_map.links[site].overload and site != root
        if far is not None and near.up and far.up and not stuck:
            graph.add_edge(site, link.far_end(site), key=link, weight=max(near.cost, far.cost))
    return graph


def oracle_next_hops(graph: nx.MultiDiGraph, root: str, site: str) -> tuple[LinkId, ...]:
    """The first links of all shortest paths, by enumerating the paths."""
    if site == root:
        return ()
    first: set[LinkId] = set()
    for path in nx.all_shortest_paths(graph, root, site, weight="weight"):
        parallel = graph[path[0]][path[1]]
        cheapest = min(data["weight"] for data in parallel.values())
        first.update(link for link, data in parallel.items() if data["weight"] == cheapest)
    return tuple(sorted(first))


@given(networks())
def test_distances_predecessors_and_next_hops_equal_networkx(network: Network) -> None:
    _, network_map = network
    for root in network_map.links:
        graph = oracle_graph(network_map, root)
        predecessors, distance = nx.dijkstra_predecessor_and_distance(graph, root)
        table = rib.compute(network_map, root)
        assert {site: path.cost for site, path in table.paths.items()} == distance
        for site, path in table.paths.items():
            assert path.predecessors == tuple(sorted(predecessors[site]))
            assert path.next_hops == oracle_next_hops(graph, root, site)


@given(networks())
def test_a_service_cost_is_the_largest_sum_over_all_base_paths(network: Network) -> None:
    _, network_map = network
    used = {one.link: one for one in spf.used_links(network_map)}
    for root in network_map.links:
        graph, table = oracle_graph(network_map, root), rib.compute(network_map, root)
        for site in table.paths:
            sums = []
            for path in nx.all_shortest_paths(graph, root, site, weight="weight"):
                steps = []
                for a, b in itertools.pairwise(path):
                    parallel = [used[link] for link in graph[a][b]]
                    base = min(one.cost for one in parallel)
                    steps.append(max(one.service_costs.get("web", base) for one in parallel if one.cost == base))
                sums.append(sum(steps))
            assert table.path_cost(site, "web") == max(sums)


@given(networks())
def test_path_costs_are_the_same_in_both_directions(network: Network) -> None:
    _, network_map = network
    ribs = {site: rib.compute(network_map, site) for site in network_map.links}
    for one in ribs:
        for other in ribs:
            assert ribs[one].path_cost(other) == ribs[other].path_cost(one)
            assert ribs[one].path_cost(other, "web") == ribs[other].path_cost(one, "web")


@given(networks())
def test_following_any_next_hop_strictly_shortens_the_distance(network: Network) -> None:
    _, network_map = network
    ribs = {site: rib.compute(network_map, site) for site in network_map.links}
    used = {one.link: one for one in spf.used_links(network_map)}
    for here, table in ribs.items():
        for there, path in table.paths.items():
            for link in path.next_hops:
                rest = ribs[link.far_end(here)].path_cost(there)
                assert rest is not None
                assert path.cost == used[link].cost + rest
                assert rest < path.cost


@given(networks(), st.randoms(use_true_random=False))
def test_the_order_in_which_records_came_changes_nothing(network: Network, shuffle: random.Random) -> None:
    _, network_map = network
    keys = list(network_map.links)
    shuffle.shuffle(keys)
    other = NetworkMap({site: network_map.links[site] for site in keys}, network_map.services)
    for site in keys:
        assert rib.compute(other, site) == rib.compute(network_map, site)


def test_a_large_network_equals_networkx() -> None:
    dice = random.Random(7)
    sites = [f"s{index:03}" for index in range(500)]
    links = {(a, b): dice.randint(1, 50) for a, b in itertools.pairwise(sites)}
    while len(links) < 2000:
        a, b = sorted(dice.sample(sites, 2))
        links[a, b] = dice.randint(1, 50)
    network_map = map_of(configs((a, b, cost) for (a, b), cost in links.items()))
    predecessors, distance = nx.dijkstra_predecessor_and_distance(oracle_graph(network_map, sites[0]), sites[0])
    table = rib.compute(network_map, sites[0])
    assert {site: path.cost for site, path in table.paths.items()} == distance
    assert all(path.predecessors == tuple(sorted(predecessors[site])) for site, path in table.paths.items())
