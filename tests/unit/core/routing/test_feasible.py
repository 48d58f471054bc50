"""By which links another site's packets may come: any way there is but through this site, up or not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skedge.core import names
from skedge.core.model import LinkId
from skedge.core.routing.feasible import devices_by_site
from tests.fakes.networks import NETWORK, configs, desired_at, map_of

LINE = configs([("A", "B", 10), ("B", "C", 20)])
RING = configs([("A", "B", 1), ("B", "C", 1), ("C", "D", 1), ("D", "A", 9)])
TWO = configs([("A", "B", 1), ("A", "B", 5, "spare"), ("A", "C", 1)])


def device(far: str, name: str = "main") -> str:
    return names.device_name(NETWORK, LinkId.between("A", far, name), "A")


@pytest.mark.parametrize(
    ("network", "at", "expected"),
    [
        (LINE, "A", {"B": {"B"}, "C": {"B"}}),
        (RING, "A", {site: {"B", "D"} for site in "BCD"}),
    ],
)
def test_a_site_is_behind_each_link_that_leads_to_it(network, at, expected) -> None:
    found = devices_by_site(network[at], map_of(network))
    assert found == {site: {device(far) for far in ends} for site, ends in expected.items()}


def test_in_the_middle_each_end_has_its_own_side() -> None:
    found = devices_by_site(LINE["B"], map_of(LINE))
    assert all(len(devices) == 1 for devices in found.values())
    assert found["A"] != found["C"]


def test_parallel_links_count_alike_whatever_they_cost() -> None:
    assert devices_by_site(TWO["A"], map_of(TWO))["B"] == {device("B"), device("B", "spare")}


def test_a_link_that_is_down_still_leads_there() -> None:
    """A path that has just come up is used by others before this site hears of it."""
    down = map_of(RING, down=[LinkId.between("C", "D", "main"), LinkId.between("A", "D", "main")])
    assert devices_by_site(RING["A"], down) == devices_by_site(RING["A"], map_of(RING))


def test_a_link_that_only_one_end_has_leads_nowhere() -> None:
    """Or a site could make itself a way to any other."""
    liar = {**LINE, "D": replace(LINE["A"], site="D", links=(replace(LINE["A"].links[0], to="C"),))}
    near = replace(LINE["A"], links=(*LINE["A"].links, replace(LINE["A"].links[0], to="D")))
    liar["D"] = replace(liar["D"], links=(*liar["D"].links, replace(near.links[0], to="A")))
    found = devices_by_site(near, map_of({**liar, "A": near}))
    assert found["D"] == {device("D")}
    assert found["C"] == {device("B")}


def test_the_desired_state_has_all_other_sites_reachable_or_not() -> None:
    lans = {**LINE, "C": replace(LINE["C"], prefixes=("10.3.0.0/16",))}
    cut = map_of(lans, down=[LinkId.between("A", "B", "main")])
    desired = desired_at(lans["A"], cut)
    assert desired.routes == {}
    assert desired.sites == {
        address: {device("B")} for site in "BC" for address in (LINE[site].overlay4, LINE[site].overlay6)
    }
    assert desired.sources == {"10.3.0.0/16": {device("B")}}
