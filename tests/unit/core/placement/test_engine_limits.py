"""What a site whose engine is ipvs listens to, publishes and leaves out, and says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from skedge.core.desired import compute as desired
from skedge.core.desired.listener_addresses import REST
from skedge.core.linkstate.own_records import NO_RESOLVED, services_record
from skedge.core.model import EngineKind, Lan, Listener, SiteConfig, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey, ListenerKey, ServiceKey, Target
from skedge.core.reasons import Reason
from skedge.core.routing import rib
from skedge.core.routing.overlay_addresses import Skipped
from tests.fakes.networks import SERVICE, configs, connector, map_of

HOST = "10.0.0.5"
LINE = configs([("A", "B", 10)], "AB")
PORTS = {"near": 61001, "loop4": 61002, "loop6": 61003, "far": 61004}


def site(engine: EngineKind, *listeners: Listener) -> SiteConfig:
    hosts = {"near": HOST, "loop4": "127.0.0.1", "loop6": "::1", "far": "10.0.0.99"}
    connectors = tuple(connector(name, host=host, service=SERVICE) for name, host in hosts.items())
    return replace(LINE["A"], engine=engine, listeners=listeners, connectors=connectors)


def compute(config: SiteConfig, resolved: Mapping[str, Target] = NO_RESOLVED) -> desired.Desired:
    network_map = map_of(LINE)
    return desired.compute(
        config,
        rib.compute(network_map, config.site),
        network_map,
        host_addresses=("127.0.0.1/8", f"{HOST}/24"),
        endpoint_ports=PORTS,
        health=dict.fromkeys(PORTS, True),
        others={},
        resolved=resolved,
    )


def outs(made: desired.Desired) -> dict[str, Reason]:
    (table,) = (table for key, table in made.services.items() if key == ServiceKey(SERVICE))
    return {one.workload.connector: one.out for one in table.candidates if one.workload.site == "A"}


def test_loopback_and_other_machines_are_out_for_clients_of_the_site_with_ipvs_only() -> None:
    listener = Listener(SERVICE, 80)
    none, engine = Reason.NONE, Reason.ENGINE
    assert outs(compute(site(EngineKind.EBPF, listener))) == dict.fromkeys(PORTS, none)
    assert outs(compute(site(EngineKind.IPVS, listener))) == {
        "near": none, "loop4": engine, "loop6": engine, "far": engine,
    }  # fmt: skip


def test_other_sites_reach_127_0_0_1_but_neither_loopback_of_ipv6_nor_another_machine() -> None:
    made = compute(site(EngineKind.IPVS))
    assert set(made.endpoints) == {EndpointKey(61001), EndpointKey(61002)}
    said = services_record(
        site(EngineKind.IPVS), dict.fromkeys(PORTS, True), PORTS, own_addresses=["127.0.0.1", "::1", HOST]
    )
    families = {one.connector: (one.ipv4, one.ipv6) for one in said.workloads}
    assert families == {"near": (True, False), "loop4": (True, False), "loop6": (False, False), "far": (False, False)}


def test_every_address_is_not_loopback_with_ipvs() -> None:
    both = compute(site(EngineKind.EBPF, Listener(SERVICE, 80))).listeners
    assert set(both) == {ListenerKey(address, 80) for address in ("127.0.0.1", "::1", HOST, *REST)}
    assert set(compute(site(EngineKind.IPVS, Listener(SERVICE, 80))).listeners) == {ListenerKey(HOST, 80)}


def test_what_is_left_out_is_said() -> None:
    made = compute(site(EngineKind.IPVS, Listener(SERVICE, 80, "127.0.0.1")))
    assert made.listeners == {}
    assert set(made.skipped) == {
        Skipped("listener", "127.0.0.1:80", Reason.ENGINE),
        Skipped("workload", f"{WorkloadId('A', 'loop4')} for clients of this site", Reason.ENGINE),
        Skipped("workload", str(WorkloadId("A", "loop6")), Reason.ENGINE),
        Skipped("workload", str(WorkloadId("A", "far")), Reason.ENGINE),
    }
    assert compute(site(EngineKind.EBPF, Listener(SERVICE, 80, "127.0.0.1"))).skipped == ()


CONTAINER = {"near": Target("10.88.0.5", 80), "loop4": Target("10.88.0.6", 80)}


def test_a_published_port_is_delivered_to_where_dnat_leads() -> None:
    made = compute(site(EngineKind.EBPF, Listener(SERVICE, 80)), CONTAINER)
    assert made.endpoints[EndpointKey(61001)] == Endpoint(WorkloadId("A", "near"), "10.88.0.5", 80, off_host=True)
    assert made.endpoints[EndpointKey(61002)] == Endpoint(WorkloadId("A", "loop4"), "10.88.0.6", 80, off_host=True)
    assert {"10.88.0.5", "10.88.0.6"} <= made.off_host
    assert outs(made) == dict.fromkeys(PORTS, Reason.NONE)
    assert made.skipped == ()


def test_a_published_port_is_refused_by_name_where_it_cannot_be_followed() -> None:
    wanted = {Skipped("workload", str(WorkloadId("A", name)), Reason.PUBLISHED_BY_DNAT) for name in CONTAINER}
    ipvs = compute(site(EngineKind.IPVS, Listener(SERVICE, 80)), CONTAINER)
    assert wanted <= set(ipvs.skipped)
    assert {outs(ipvs)[name] for name in CONTAINER} == {Reason.PUBLISHED_BY_DNAT}
    assert not {EndpointKey(61001), EndpointKey(61002)} & set(ipvs.endpoints)
    nowhere = replace(site(EngineKind.EBPF, Listener(SERVICE, 80)), lan=Lan(devices=()))
    assert wanted <= set(compute(nowhere, CONTAINER).skipped)
    for config in (nowhere, site(EngineKind.IPVS)):
        said = services_record(config, {}, PORTS, resolved=CONTAINER, own_addresses=["127.0.0.1", HOST])
        assert {one.connector: one.ipv4 for one in said.workloads if one.connector in CONTAINER} == dict.fromkeys(
            CONTAINER, False
        )


def test_one_that_dnat_leads_to_another_port_of_the_host_is_still_the_hosts() -> None:
    for engine in (EngineKind.EBPF, EngineKind.IPVS):
        made = compute(site(engine), {"near": Target(HOST, 8443)})
        assert made.endpoints[EndpointKey(61001)] == Endpoint(WorkloadId("A", "near"), HOST, 8443)
