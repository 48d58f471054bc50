from __future__ import annotations

import pytest

from skedge.core.errors import ConfigError
from skedge.core.linkstate import own_records
from skedge.core.model import COST_MAX, Health, HealthType, Lan, Link, LinkId, Listener, Protocol, Share
from skedge.core.objects import Target
from skedge.core.records import LinkState
from tests.fakes.networks import connector, site_config


def with_connectors(*names: str, ports: tuple[int, int] = (61000, 62999)):
    return site_config("A", connectors=tuple(connector(name) for name in names), endpoint_ports=ports)


def test_ports_are_in_the_range_distinct_and_the_same_every_time() -> None:
    names = [f"c{i}" for i in range(300)]
    ports = own_records.endpoint_ports(with_connectors(*names), {})
    assert sorted(ports) == sorted(names)
    assert len(set(ports.values())) == 300
    assert all(61000 <= port <= 62999 for port in ports.values())
    assert own_records.endpoint_ports(with_connectors(*reversed(names)), {}) == ports


def test_a_full_range_is_used_to_the_last_port() -> None:
    ports = own_records.endpoint_ports(with_connectors("a", "b", "c", ports=(61000, 61002)), {})
    assert sorted(ports.values()) == [61000, 61001, 61002]


def test_a_remembered_port_is_kept_when_connectors_come_and_go() -> None:
    before = own_records.endpoint_ports(with_connectors("a", "b", "c", ports=(61000, 61003)), {})
    after = own_records.endpoint_ports(with_connectors("b", "c", "0-first", "1-first", ports=(61000, 61003)), before)
    assert {name: after[name] for name in "bc"} == {name: before[name] for name in "bc"}
    assert len(set(after.values())) == 4


def test_a_remembered_port_that_cannot_be_is_replaced() -> None:
    saved = {"a": 80, "b": 61001, "c": 61001, "gone": 61000}
    ports = own_records.endpoint_ports(with_connectors("a", "b", "c", ports=(61000, 61002)), saved)
    assert ports["b"] == 61001
    assert sorted(ports.values()) == [61000, 61001, 61002]


def test_more_connectors_than_ports_are_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError, match="endpoint_ports: 61000-61001 has 2 ports for 3 connectors; widen the range"):
        own_records.endpoint_ports(with_connectors("a", "b", "c", ports=(61000, 61001)), {})


def test_a_target_is_an_address_never_a_name() -> None:
    assert own_records.workload_target(connector(host="::1", port=5)) == Target("::1", 5)
    assert own_records.workload_target(connector(host="db.lan")) is None
    assert own_records.workload_target(connector(host="db.lan"), {"web": Target("10.1.1.1", 9090)}) == Target(
        "10.1.1.1", 9090
    )
    assert own_records.is_ipv4(Target("10.1.1.1", 1))
    assert not own_records.is_ipv4(Target("::1", 1))


def test_the_links_record_says_what_the_probes_say() -> None:
    links = (Link("C", cost=9, service_costs={"web": 3}), Link("B", "x"), Link("B"))
    config = site_config("A", links=links, overload=True, drain=True)
    record = own_records.links_record(config, {LinkId("A", "B"): own_records.Liveness(True, 250)}, software="0.1")
    assert record.links == (
        LinkState("B", "main", 1, True, 250),
        LinkState("B", "x", 1, False),
        LinkState("C", "main", 9, False, 0, links[0].service_costs),
    )
    assert (record.overlay4, record.overlay6) == (config.overlay4, config.overlay6)
    assert (record.overload, record.drain, record.software) == (True, True, "0.1")


def test_a_measured_cost_is_said_as_a_number_and_a_last_resort_beside_it_is_the_largest() -> None:
    config = site_config("A", links=(Link("C", cost="auto", base_cost=9),))
    for measured, said in ((own_records.Liveness(True), 9), (own_records.Liveness(True, 5000, cost=14), 14)):
        assert own_records.links_record(config, {LinkId("A", "C"): measured}).links[0].cost == said
    last = own_records.Liveness(True, 5000, last_resort=True, cost=14)
    assert own_records.links_record(config, {LinkId("A", "C"): last}).links[0].cost == COST_MAX


def test_a_last_resort_is_said_to_have_the_largest_cost_for_every_service() -> None:
    config = site_config("A", links=(Link("C", cost=9, service_costs={"web": 3, "dns": 12}),))
    record = own_records.links_record(config, {LinkId("A", "C"): own_records.Liveness(True, 5, last_resort=True)})
    assert record.links == (LinkState("C", "main", COST_MAX, True, 5, {"web": COST_MAX, "dns": COST_MAX}),)


def test_the_services_record_says_what_the_health_checks_say() -> None:
    config = site_config(
        "A",
        connectors=(
            connector("web", capacity=4),
            connector("new", drain=True),
            connector("raw", health=Health(HealthType.NONE), protocol=Protocol.UDP, host="::1"),
            connector("portless"),
        ),
        listeners=(
            Listener("web", 80),
            Listener("db", 81),
            Listener("web", 82, services=(Share("web"), Share("old"))),
        ),
    )
    record = own_records.services_record(config, {"web": True}, {"web": 61001, "new": 61002, "raw": 61003})
    assert record.listens == ("db", "old", "web")
    new, raw, web = record.workloads
    assert (web.connector, web.port, web.capacity, web.healthy, web.drain) == ("web", 61001, 4, True, False)
    assert (new.connector, new.healthy, new.drain) == ("new", False, True)  # not probed yet: not healthy
    assert (raw.connector, raw.healthy, raw.protocol) == ("raw", True, Protocol.UDP)
    assert [(one.ipv4, one.ipv6) for one in (new, raw, web)] == [(True, False), (False, True), (True, False)]


@pytest.mark.parametrize(
    ("host", "families"),
    [
        ("127.0.0.1", (True, False)),
        ("::1", (False, True)),
        ("10.0.0.5", (True, False)),
        ("10.0.0.6", (False, False)),
        ("unknown.lan", (False, False)),
        ("db.lan", (True, False)),
    ],
)
def test_a_server_that_is_not_on_this_host_is_offered_to_others_where_there_is_a_lan(
    host: str, families: tuple[bool, bool]
) -> None:
    def offered(lan: Lan) -> tuple[bool, bool]:
        config = site_config("A", connectors=(connector(host=host),), lan=lan)
        (state,) = own_records.services_record(
            config,
            {},
            {"web": 61001},
            resolved={"web": Target("10.0.0.5", 9090)} if host == "db.lan" else {},
            own_addresses=["10.0.0.5/24", "fe80::1%eth0"],
        ).workloads
        return state.ipv4, state.ipv6

    assert offered(Lan(devices=())) == families
    assert offered(Lan()) == ((True, False) if host == "10.0.0.6" else families)
