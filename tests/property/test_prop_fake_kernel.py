"""Where connections go when every site executes what it computed from the same map."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skedge.core.model import SiteConfig
from skedge.core.objects import Target
from skedge.core.reasons import Reason
from skedge.core.records import NetworkMap
from skedge.core.routing import rib
from tests.fakes.fake_kernel import FakeNetwork, LoopFound
from tests.fakes.networks import SERVICE, configs, connector, desired_at, map_of
from tests.property.strategies import networks

Network = tuple[dict[str, SiteConfig], NetworkMap]


def kernels(all_configs: dict[str, SiteConfig], network_map: NetworkMap) -> FakeNetwork:
    return FakeNetwork({site: desired_at(config, network_map, ["10.0.0.1"]) for site, config in all_configs.items()})


@given(networks(), st.integers(1, 30))
def test_every_connection_reaches_the_workload_chosen_over_loop_free_shortest_paths(network: Network, n: int) -> None:
    all_configs, network_map = network
    fake = kernels(all_configs, network_map)
    for site in all_configs:
        table = rib.compute(network_map, site)
        for _ in range(n):
            verdict = fake.connect(site, "10.0.0.1", 8080)
            if verdict.reason is Reason.NO_WORKLOAD:
                usable = [one for one in fake.kernels[site].services[SERVICE].candidates if one.out is Reason.NONE]
                assert usable == []
                break
            assert verdict.workload == verdict.chosen is not None
            assert verdict.server == Target("127.0.0.1", 9090)
            assert verdict.paths
            for path in verdict.paths:
                assert (path[0], path[-1]) == (site, verdict.workload.site)
                assert not any(all_configs[transit].overload for transit in path[1:-1])
            assert table.path(verdict.workload.site) in verdict.paths


@given(networks())
def test_every_reachable_site_is_reached_over_both_families_and_no_other(network: Network) -> None:
    all_configs, network_map = network
    fake = kernels(all_configs, network_map)
    for site in all_configs:
        reachable = set(rib.compute(network_map, site).paths)
        for other, config in all_configs.items():
            for address in (config.overlay4, config.overlay6):
                ends = {path[-1] for path in fake.walk(site, address)}
                assert ends == ({other} if other in reachable else set())


LINE = configs([("A", "B", 10), ("B", "C", 20)], "ABC")


def test_a_hundred_connections_from_a_line_go_where_the_reference_says() -> None:
    fake = kernels(LINE, map_of(LINE))
    reached = [fake.connect("A", "127.0.0.1", 8080) for _ in range(100)]
    sites = [verdict.workload.site for verdict in reached if verdict.workload]
    assert {site: sites.count(site) for site in "ABC"} == {"A": 47, "B": 37, "C": 16}
    assert {path for one in reached for path in one.paths} == {("A",), ("A", "B"), ("A", "B", "C")}


def test_an_address_without_a_listener_is_not_ours() -> None:
    assert kernels(LINE, map_of(LINE)).connect("A", "10.0.0.1", 8081).reason is Reason.NOT_PUBLISHED
    assert kernels(LINE, map_of(LINE)).connect("A", "192.0.2.1", 8080).reason is Reason.NOT_PUBLISHED


def test_an_ipv6_client_reaches_a_server_with_an_ipv6_address() -> None:
    mixed = configs([("A", "B", 1)], "A")
    mixed["B"] = replace(mixed["B"], connectors=(connector(host="::1"),))
    fake = kernels(mixed, map_of(mixed))
    verdict = fake.connect("A", "::1", 8080)
    assert (str(verdict.workload), verdict.server) == ("B/web", Target("::1", 9090))
    assert str(fake.connect("A", "127.0.0.1", 8080).workload) == "A/web"


def test_sites_with_different_maps_may_loop_and_the_fake_kernel_would_see_it() -> None:
    """The oracle itself: A believes that C is behind B, B believes that it is behind A."""
    triangle = configs([("A", "B", 1), ("A", "C", 5), ("B", "C", 5)], "C")
    without_ac = configs([("A", "B", 1), ("B", "C", 5)], "C")
    without_bc = configs([("A", "B", 1), ("A", "C", 5)], "C")
    fake = FakeNetwork(
        {
            "A": desired_at(triangle["A"], map_of(without_ac)),
            "B": desired_at(triangle["B"], map_of(without_bc)),
            "C": desired_at(triangle["C"], map_of(triangle)),
        }
    )
    with pytest.raises(LoopFound):
        fake.walk("A", triangle["C"].overlay4)
