from __future__ import annotations

from dataclasses import replace

import pytest

from skedge.core.model import LinkId
from skedge.core.reasons import Reason
from skedge.core.records import LinksRecord, LinkState, NetworkMap
from skedge.core.routing import spf
from tests.fakes.networks import configs, map_of

AB = LinkId("A", "B")


def record(site: str, *links: LinkState, **changes: object) -> LinksRecord:
    return LinksRecord(site, "", "", links, **changes)  # type: ignore[arg-type]


def network(*records: LinksRecord) -> NetworkMap:
    return NetworkMap({one.site: one for one in records}, {})


def test_distance_is_the_sum_of_costs_and_keeps_all_equal_predecessors() -> None:
    costs = {"A": {"B": 1, "C": 2}, "B": {"A": 1, "D": 3}, "C": {"A": 2, "D": 2}, "D": {"B": 3, "C": 2}}
    tree = spf.dijkstra(costs, "A")
    assert dict(tree.distance) == {"A": 0, "B": 1, "C": 2, "D": 4}
    assert tree.predecessors["D"] == ("B", "C")
    assert list(tree.distance) == ["A", "B", "C", "D"]


def test_a_shorter_way_found_late_replaces_the_first_one() -> None:
    costs = {"A": {"B": 10, "C": 1}, "C": {"B": 1}, "B": {}}
    tree = spf.dijkstra(costs, "A")
    assert tree.distance["B"] == 2
    assert tree.predecessors["B"] == ("C",)


def test_a_root_without_links_reaches_itself() -> None:
    assert dict(spf.dijkstra({}, "A").distance) == {"A": 0}


def test_overload_site_is_reached_but_not_passed_and_still_originates() -> None:
    line = {"A": {"B": 1}, "B": {"A": 1, "C": 1}, "C": {"B": 1}}
    assert dict(spf.dijkstra(line, "A", {"B"}).distance) == {"A": 0, "B": 1}
    assert dict(spf.dijkstra(line, "B", {"B"}).distance) == {"B": 0, "A": 1, "C": 1}


@pytest.mark.parametrize(("near", "far", "used"), [(True, True, True), (True, False, False), (False, True, False)])
def test_a_link_counts_only_while_both_ends_say_that_it_is_up(near: bool, far: bool, used: bool) -> None:
    said = network(record("A", LinkState("B", "main", 5, near)), record("B", LinkState("A", "main", 5, far)))
    assert (AB in {one.link for one in spf.used_links(said)}) is used


def test_a_link_that_one_end_does_not_list_is_not_used() -> None:
    said = network(record("A", LinkState("B", "main", 5, True)), record("B", LinkState("A", "other", 5, True)))
    assert list(spf.used_links(said)) == []
    assert list(spf.used_links(network(record("A", LinkState("B", "main", 5, True))))) == []


def test_the_larger_cost_of_both_ends_holds_also_for_each_service() -> None:
    said = network(
        record("A", LinkState("B", "main", 5, True, 0, {"web": 200, "db": 3})),
        record("B", LinkState("A", "main", 7, True, 0, {"web": 100, "dns": 4})),
    )
    (used,) = spf.used_links(said)
    assert (used.link, used.cost) == (AB, 7)
    assert dict(used.service_costs) == {"web": 200, "db": 3, "dns": 4}


def test_service_costs_of_one_end_hold_alone() -> None:
    said = network(
        record("A", LinkState("B", "main", 5, True)), record("B", LinkState("A", "main", 5, True, 0, {"web": 9}))
    )
    (used,) = spf.used_links(said)
    assert dict(used.service_costs) == {"web": 9}


def test_of_parallel_links_the_cheapest_are_used_and_the_rest_stand_by() -> None:
    graph = spf.build(map_of(configs([("A", "B", 5, "x"), ("A", "B", 5, "y"), ("A", "B", 6, "z")])))
    edge = graph.edge("B", "A")
    assert edge.cost == 5
    assert edge.links == (LinkId("A", "B", "x"), LinkId("A", "B", "y"))
    assert edge.standby == (LinkId("A", "B", "z"),)
    assert graph.costs == {"A": {"B": 5}, "B": {"A": 5}}


def test_a_standby_link_takes_over_when_the_cheapest_is_down() -> None:
    all_configs = configs([("A", "B", 5, "x"), ("A", "B", 6, "z")])
    graph = spf.build(map_of(all_configs, down=[LinkId("A", "B", "x")]))
    assert graph.edge("A", "B") == spf.Edge(6, (LinkId("A", "B", "z"),))


def test_of_equal_parallel_links_the_largest_service_cost_holds() -> None:
    said = network(
        record("A", LinkState("B", "x", 5, True, 0, {"web": 2}), LinkState("B", "y", 5, True)),
        record("B", LinkState("A", "x", 5, True), LinkState("A", "y", 5, True)),
    )
    assert dict(spf.build(said).edge("A", "B").service_costs) == {"web": 5}


def test_the_graph_knows_sites_without_links_and_those_in_overload() -> None:
    graph = spf.build(network(record("A"), record("B", overload=True)))
    assert graph == spf.Graph({"A": {}, "B": {}}, {}, frozenset({"B"}))


@pytest.mark.parametrize(
    ("near", "far", "reason"),
    [
        (True, True, Reason.NONE),
        (True, False, Reason.ONE_WAY),
        (False, True, Reason.PROBE_LOST),
        (False, None, Reason.PROBE_LOST),
        (True, None, Reason.NOT_CONFIGURED),
        (None, True, Reason.NOT_CONFIGURED),
    ],
)
def test_an_unused_link_has_a_reason(near: bool | None, far: bool | None, reason: Reason) -> None:
    ends = [
        record(site, *() if up is None else (LinkState(to, "main", 1, up),))
        for site, to, up in (("A", "B", near), ("B", "A", far))
    ]
    said = network(*ends)
    assert spf.unused_reason(said, AB, "A") is reason
    assert (AB in {one.link for one in spf.used_links(said)}) is (reason is Reason.NONE)


def test_a_link_to_a_site_that_said_nothing_is_not_configured_there() -> None:
    said = network(record("A", LinkState("B", "main", 1, True)))
    assert spf.unused_reason(said, AB, "A") is Reason.NOT_CONFIGURED


def test_raising_a_cost_moves_the_path_and_nothing_else() -> None:
    all_configs = configs([("A", "B", 1), ("B", "C", 1), ("A", "C", 3)])
    before = spf.dijkstra(spf.build(map_of(all_configs)).costs, "A")
    dear = replace(all_configs["A"], links=tuple(replace(one, cost=9) for one in all_configs["A"].links))
    after = spf.dijkstra(spf.build(map_of(all_configs | {"A": dear})).costs, "A")
    assert (before.predecessors["C"], before.distance["C"]) == (("B",), 2)
    assert (after.predecessors["C"], after.distance["C"]) == (("A",), 9)
