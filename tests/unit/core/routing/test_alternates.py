"""Alternates by hand: the diamond, a triangle, parallel links, equal costs, sites with the overload bit."""

from __future__ import annotations

import pytest

from skedge.core.model import LinkId
from skedge.core.routing import alternates, rib, spf
from skedge.core.routing.alternates import Alternate, Protection
from tests.fakes.networks import configs, map_of

DIAMOND = [("A", "B", 10), ("B", "D", 10), ("A", "C", 15), ("C", "D", 15)]


def of(site: str, links: list[tuple[object, ...]], overload: str = "") -> dict[str, Alternate]:
    graph = spf.build(map_of(configs(links, overload=overload)))  # type: ignore[arg-type]
    return dict(alternates.compute(graph, rib.from_graph(graph, site)))


def test_the_dear_side_of_a_diamond_protects_the_cheap_one() -> None:
    found = of("A", DIAMOND)
    assert found["D"].links == (LinkId("A", "C"),)
    assert found["D"].protection is Protection.NODE
    assert found["D"].safe == {LinkId("A", "B"), LinkId("A", "C")}
    assert found["C"] == Alternate((), Protection.NONE, frozenset({LinkId("A", "C")})), "B's way to C is through A"


def test_a_site_in_the_middle_has_none_where_the_way_back_is_the_cheapest() -> None:
    assert of("B", DIAMOND)["D"].links == (), "A reaches D through B"
    assert of("B", [*DIAMOND[:2], ("A", "C", 9), ("C", "D", 10)])["D"].links == (LinkId("A", "B"),)


def test_a_neighbour_whose_way_leads_through_the_next_hop_protects_its_link_only() -> None:
    found = of("A", [("A", "P", 1), ("A", "N", 3), ("N", "P", 1), ("P", "D", 1)])
    assert (found["D"].links, found["D"].protection) == ((LinkId("A", "N"),), Protection.LINK)


def test_a_site_beside_this_one_is_protected_against_the_loss_of_its_link() -> None:
    found = of("A", [("A", "B", 1), ("A", "C", 1), ("B", "C", 1)])
    assert (found["B"].links, found["B"].protection) == ((LinkId("A", "C"),), Protection.LINK)


def test_parallel_links_protect_each_other_the_dearer_one_stands_by() -> None:
    found = of("A", [("A", "B", 1, "x"), ("A", "B", 5, "y")])
    assert (found["B"].links, found["B"].protection) == ((LinkId("A", "B", "y"),), Protection.LINK)
    found = of("A", [("A", "B", 1, "x"), ("A", "B", 1, "y")])
    assert (found["B"].links, found["B"].protection) == ((), Protection.LINK)


def test_equal_paths_protect_each_other() -> None:
    found = of("A", [("A", "B", 1), ("B", "D", 1), ("A", "C", 1), ("C", "D", 1)])
    assert (found["D"].links, found["D"].protection) == ((), Protection.NODE)


def test_equal_paths_that_meet_again_protect_links_only() -> None:
    found = of("A", [("A", "B", 1), ("A", "C", 2), ("C", "B", 1), ("B", "D", 1), ("A", "B", 3, "y")])
    assert found["D"].protection is Protection.LINK


@pytest.mark.parametrize(("overload", "links"), [("C", ()), ("D", (LinkId("A", "C"),)), ("A", (LinkId("A", "C"),))])
def test_the_overload_bit(overload: str, links: tuple[LinkId, ...]) -> None:
    assert of("A", DIAMOND, overload)["D"].links == links


def test_nobody_comes_back_through_a_site_with_the_overload_bit() -> None:
    links = [("A", "B", 1), ("B", "D", 50), ("A", "C", 1), ("C", "D", 1)]
    assert of("A", links)["D"].links == ()
    assert of("A", links, overload="A")["D"].links == (LinkId("A", "B"),)


def test_of_very_many_neighbours_only_the_nearest_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alternates, "WORK_MAX", 8)
    assert of("A", DIAMOND)["D"].links == ()
    monkeypatch.setattr(alternates, "WORK_MAX", 16)
    assert of("A", DIAMOND)["D"].links == (LinkId("A", "C"),)
