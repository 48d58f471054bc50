"""An alternate leads to its site without coming back, whatever equal path others take, on the map that all route by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hypothesis import given, settings

from skedge.core.model import LinkId, SiteConfig
from skedge.core.records import NetworkMap
from skedge.core.routing import alternates, rib, spf
from skedge.core.routing.alternates import Alternate, Protection
from skedge.core.routing.forwarding import Forwarding
from tests.property.strategies import networks

Network = tuple[dict[str, SiteConfig], NetworkMap]


def trails(ribs: dict[str, rib.Rib], first: str, site: str) -> Iterator[list[str]]:
    """Every way that packets for ``site`` may take from ``first`` on; a circle ends where it closes."""
    waiting = [[first]]
    while waiting:
        trail = waiting.pop()
        here = trail[-1]
        if here == site or here in trail[:-1]:
            yield trail
            continue
        nexts = {link.far_end(here) for link in ribs[here].next_hops(site)}
        if not nexts:
            yield trail
        waiting += [[*trail, there] for there in nexts]


def ways(ribs: dict[str, rib.Rib], here: str, links: Iterable[LinkId], site: str) -> list[list[str]]:
    """Every way over these first links."""
    return [trail for link in links for trail in trails(ribs, link.far_end(here), site)]


def everything(network_map: NetworkMap) -> Iterator[tuple[dict[str, rib.Rib], str, str, Alternate]]:
    graph = spf.build(network_map)
    ribs = {site: rib.from_graph(graph, site) for site in network_map.links}
    for here, table in ribs.items():
        for site, one in alternates.compute(graph, table).items():
            yield ribs, here, site, one


@settings(deadline=None)
@given(networks())
def test_no_safe_first_link_ever_leads_back(network: Network) -> None:
    for ribs, here, site, one in everything(network[1]):
        assert {*one.links, *ribs[here].next_hops(site)} <= one.safe
        assert not set(one.links) & set(ribs[here].next_hops(site))
        for trail in ways(ribs, here, one.safe, site):
            assert trail[-1] == site, (here, site, trail)
            assert here not in trail, (here, site, trail)
            assert not any(network[1].links[hop].overload for hop in trail[:-1])


@settings(deadline=None)
@given(networks())
def test_what_is_called_protected_is(network: Network) -> None:
    for ribs, here, site, one in everything(network[1]):
        hops = ribs[here].next_hops(site)
        for lost in hops:
            left = [link for link in hops if link != lost] or one.links
            assert bool(left) == (one.protection is not Protection.NONE)
        if one.protection is Protection.NODE:
            for dead in {link.far_end(here) for link in hops} - {site}:
                left = [link for link in hops if link.far_end(here) != dead] or one.links
                assert left
                assert all(dead not in trail for trail in ways(ribs, here, left, site)), (here, site, dead)


@settings(deadline=None, max_examples=50)
@given(networks())
def test_every_failure_of_one_link_is_gone_round_where_it_is_protected(network: Network) -> None:
    """What `Forwarding` makes of a failure, with all others still on the old map."""
    for here in network[1].links:
        graph = spf.build(network[1])
        ribs = {site: rib.from_graph(graph, site) for site in network[1].links}
        made = Forwarding(here)
        made.recompute(0.0, network[1])
        before = made.hops()
        for lost in {link for hops in before.values() for link in hops.links}:
            made.follow(1.0, frozenset({lost}))
            for site, hops in made.hops().items():
                if before[site].protection is Protection.NONE and lost in before[site].links:
                    assert hops.links == before[site].links, "nothing is known that is better"
                    continue
                assert lost not in (*hops.links, *hops.alternates)
                assert all(trail[-1] == site and here not in trail for trail in ways(ribs, here, hops.links, site))
            made.follow(2.0, frozenset())
