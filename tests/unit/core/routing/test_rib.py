from __future__ import annotations

from skedge.core.model import LinkId
from skedge.core.records import NetworkMap
from skedge.core.routing import rib
from tests.fakes.networks import configs, map_of


def test_path_costs_next_hops_and_path_on_a_line() -> None:
    table = rib.compute(map_of(configs([("A", "B", 10), ("B", "C", 20)])), "A")
    assert {site: table.path_cost(site) for site in "ABC"} == {"A": 0, "B": 10, "C": 30}
    assert table.next_hops("C") == (LinkId("A", "B"),)
    assert table.next_hops("A") == ()
    assert table.path("C") == ("A", "B", "C")
    assert table.path("A") == ("A",)


def test_an_unreachable_site_is_absent() -> None:
    table = rib.compute(map_of(configs([("A", "B", 1)], sites="C")), "A")
    assert "C" not in table.paths
    assert table.path_cost("C") is None
    assert table.next_hops("C") == ()
    assert table.path("C") == ()


def test_any_site_can_be_the_root_and_an_unknown_one_reaches_itself() -> None:
    network = map_of(configs([("A", "B", 10), ("B", "C", 20)]))
    assert rib.compute(network, "C").path_cost("A") == 30
    assert dict(rib.compute(NetworkMap({}, {}), "X").paths) == {"X": rib.Path(0)}


def test_equal_paths_keep_all_next_hops_parallel_links_included() -> None:
    links = [("A", "B", 1, "x"), ("A", "B", 1, "y"), ("A", "C", 1), ("B", "D", 1), ("C", "D", 1), ("A", "D", 5)]
    table = rib.compute(map_of(configs(links)), "A")
    assert table.path_cost("D") == 2
    assert table.next_hops("D") == (LinkId("A", "B", "x"), LinkId("A", "B", "y"), LinkId("A", "C"))
    assert table.paths["D"].predecessors == ("B", "C")
    assert table.path("D") == ("A", "B", "D")


def test_a_service_cost_replaces_the_links_cost_for_that_service_in_both_directions() -> None:
    network = map_of(configs([("A", "B", 10), ("B", "C", 20)], service_costs={("A", "B"): {"reports": 200}}))
    there, back = rib.compute(network, "A"), rib.compute(network, "C")
    assert (there.path_cost("C"), there.path_cost("C", "reports"), there.path_cost("C", "web")) == (30, 220, 30)
    assert (back.path_cost("A", "reports"), back.path_cost("B", "reports")) == (220, 20)


def test_a_service_cost_may_lower_the_cost_but_packets_keep_the_base_path() -> None:
    links = [("A", "B", 10), ("A", "C", 8), ("B", "C", 1)]
    table = rib.compute(map_of(configs(links, service_costs={("A", "B"): {"web": 1}})), "A")
    assert table.path("B") == ("A", "C", "B")
    assert table.path_cost("B", "web") == 9  # A-B is not on the base path
    assert table.path_cost("C", "web") == 8


def test_with_equal_base_paths_the_largest_service_sum_holds() -> None:
    links = [("A", "B", 1), ("B", "D", 1), ("A", "C", 1), ("C", "D", 1)]
    costs = {("A", "B"): {"web": 50}, ("C", "D"): {"web": 7}}
    table = rib.compute(map_of(configs(links, service_costs=costs)), "A")
    assert table.path_cost("D") == 2
    assert table.path_cost("D", "web") == 51


def test_a_service_cost_equal_to_the_base_changes_nothing() -> None:
    table = rib.compute(map_of(configs([("A", "B", 3)], service_costs={("A", "B"): {"web": 3}})), "A")
    assert table.paths["B"].service_costs == {}
    assert table.path_cost("B", "web") == 3


def test_overload_is_not_transit_but_originates() -> None:
    network = map_of(configs([("A", "B", 1), ("B", "C", 1), ("A", "C", 9)], overload="B"))
    assert rib.compute(network, "A").path("C") == ("A", "C")
    assert rib.compute(network, "A").path_cost("B") == 1
    assert rib.compute(network, "B").path_cost("C") == 1
