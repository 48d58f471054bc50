"""What follows from the facts: state, the rows that show it, and what is wrong with it."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from skedge.control.health.monitor import HealthState
from skedge.control.liveness.detector import LinkStats
from skedge.core import names
from skedge.core.api.shown import LinkRow
from skedge.core.desired.compute import Desired
from skedge.core.drains import Drain, DrainKind
from skedge.core.linkstate.database import Database
from skedge.core.linkstate.own_records import Liveness, endpoint_ports
from skedge.core.model import (
    Affinity,
    Connector,
    EngineKind,
    Health,
    HealthType,
    Lan,
    LinkId,
    Listener,
    Policy,
    Protocol,
    Share,
    WorkloadId,
)
from skedge.core.objects import ListenerKey, ServiceKey, Target
from skedge.core.observed import Counts, ProgramsReport, Receipt, TunnelFacts
from skedge.core.placement.explain import explain
from skedge.core.placement.loads import Heard, oldest_age
from skedge.core.placement.nat_ports import port_limit
from skedge.core.reasons import Reason
from skedge.core.records import LoadReport, Version
from skedge.core.routing.surroundings import Surroundings
from skedge.core.transports import Transport
from skedge.daemon import link_status
from skedge.daemon.api import findings, rows
from skedge.daemon.api.filters import Filter
from skedge.daemon.api.problems import Finding
from skedge.daemon.kernel.kernel import Applied
from skedge.daemon.state import State, datagram_targets, usable_targets
from tests.fakes.networks import configs, connector, map_of

WEB = ServiceKey("web")
LINE = configs([("A", "B", 10), ("B", "C", 20)], "ABC")
TWINS = configs([("A", "B", 10), ("A", "C", 10)], "BC")
A, B, C = (WorkloadId(site, "web") for site in "ABC")


def state_of(networks: Mapping[str, object] = LINE, site: str = "A") -> State:
    """A site that is in sync and whose workloads are healthy."""
    all_configs = dict(networks)
    config = all_configs[site]
    state = State(config, {})  # type: ignore[arg-type]
    state.set_config(config, {})  # type: ignore[arg-type]
    state.health = {one.name: True for one in config.connectors}  # type: ignore[attr-defined]
    state.recompute(map_of(all_configs))  # type: ignore[arg-type]
    state.host_addresses = ("10.0.0.1",)
    return state


def hear(state: State, site: str, opens: Mapping[WorkloadId, int], at: float = 90.0) -> None:
    state.heard[site] = Heard(LoadReport(site, Version(1, 1), dict(opens)), at)


# ---- state -----------------------------------------------------------------------------------------------------


def test_others_are_the_reports_of_reachable_sites_summed() -> None:
    state = state_of()
    hear(state, "B", {A: 3, C: 1})
    hear(state, "C", {A: 2, C: 9})
    hear(state, "Z", {A: 100})
    hear(state, "A", {A: 100})
    assert state.others() == {(WEB, A): 5, (WEB, B): 0, (WEB, C): 10}
    state.recompute(map_of(LINE, down=[LinkId("B", "C")]))
    assert state.others() == {(WEB, A): 3, (WEB, B): 0, (WEB, C): 1}, "a dead site's contribution ends"


def test_only_services_listened_to_here_have_others() -> None:
    state = state_of()
    state.config = replace(state.config, listeners=())
    hear(state, "B", {A: 3})
    assert state.others() == {}


def test_the_age_of_others_is_that_of_the_oldest_report_that_counts() -> None:
    state = state_of()
    hear(state, "B", {A: 3}, at=90.0)
    hear(state, "C", {A: 2, B: 0}, at=95.0)
    assert oldest_age(state.reporters(), A, 100.0) == 10.0
    assert oldest_age(state.reporters(), B, 100.0) is None


def test_own_open_connections_are_reported_by_service() -> None:
    state = state_of()
    udp = ServiceKey("web", Protocol.UDP)
    state.counts = {(WEB, A): Counts(2), (udp, A): Counts(1), (WEB, B): Counts(0, 5), (ServiceKey("x"), C): Counts(4)}
    assert state.own_open() == {"web": {A: 3}, "x": {C: 4}}


def test_load_readers_are_reachable_sites_with_a_listener_in_common() -> None:
    networks = dict(LINE)
    networks["B"] = replace(networks["B"], listeners=())
    state = state_of(networks)
    assert state.load_readers() == {"C": frozenset({"web"})}
    state.recompute(map_of(networks, down=[LinkId("A", "B")]))
    assert state.load_readers() == {}


def test_health_is_known_when_every_checked_workload_has_a_verdict() -> None:
    state = state_of()
    unchecked = connector("free", health=Health(HealthType.NONE))
    state.set_config(replace(state.config, connectors=(connector(), unchecked)), state.ports)
    state.health = {}
    assert not state.health_known()
    state.health = {"web": False}
    assert state.health_known()


def test_a_new_configuration_forgets_what_is_gone_and_keeps_ports() -> None:
    state = state_of()
    port = state.ports["web"]
    state.links_used = {LinkId("A", "B"): Liveness(True)}
    state.health = {"web": True, "old": True}
    state.set_config(replace(state.config, links=()), state.ports)
    assert (state.links_used, state.health, state.ports["web"]) == ({}, {"web": True}, port)


def test_a_site_without_a_map_knows_itself() -> None:
    state = State(LINE["A"], {})
    state.set_config(LINE["A"], {})
    assert set(state.desired().services[WEB].candidates[0:1]) == set(state.desired().services[WEB].candidates)
    assert [one.workload for one in state.desired().services[WEB].candidates] == [A]
    assert state.desired().routes == {}


def test_with_its_listeners_drained_a_site_offers_nobody_and_ends_nothing() -> None:
    state = state_of()
    open_to = usable_targets(state.desired()), datagram_targets(state.desired())
    state.set_drains((Drain(DrainKind.SITE, entry=True),))
    table = state.desired().services[WEB]
    assert {one.workload.site: one.out for one in table.candidates} == {
        "A": Reason.DRAINED, "B": Reason.ENTRY_DRAINED, "C": Reason.ENTRY_DRAINED,
    }  # fmt: skip
    assert (usable_targets(state.desired()), datagram_targets(state.desired())) == open_to
    told = explain(state.facts(), WEB, "A", 1.0)
    assert (told.winner, told.reason) == (None, "entry-drained")
    there = explain(state.facts(), WEB, "B", 1.0)
    assert (there.reason, {row.site: row.reason for row in there.candidates}["A"]) == ("none", "drained")
    assert problems(look(state)).keys() == {"drain site"}, "nobody is missed"
    state.set_drains(())
    assert state.config == state.given


def test_usable_targets_are_the_endpoints_of_other_sites_that_serve() -> None:
    state = state_of()
    ports = endpoint_ports(LINE["B"], {})
    expected = {Target(LINE[site].overlay4, ports["web"]) for site in "BC"}
    assert {target for target in usable_targets(state.desired()) if "." in target.address} == expected
    assert usable_targets(Desired()) == frozenset()


# ---- rows ------------------------------------------------------------------------------------------------------


def test_explain_gives_every_part_of_the_perceived_cost() -> None:
    state = state_of()
    state.counts = {(WEB, A): Counts(9, 20, 1, 7), (WEB, B): Counts(1)}
    hear(state, "C", {B: 4, C: 2})
    found = explain(state.facts(), WEB, "A", 100.0)
    by_site = {row.site: row for row in found.candidates}
    assert found.winner == "A/web"
    assert [row.site for row in found.candidates if row.winner] == ["A"]
    a, b, c = (by_site[site] for site in "ABC")
    assert (a.path_cost, a.open, a.others, a.perceived, a.path, a.chosen, a.refused) == (0, 9, 0, "9/1", ("A",), 20, 1)
    assert (b.path_cost, b.open, b.others, b.others_age_s, b.perceived) == (10, 1, 4, 10.0, "15/1")
    assert (c.path_cost, c.perceived_float, c.path) == (30, 32.0, ("A", "B", "C"))
    assert a.target == "127.0.0.1:9090"


def test_explain_breaks_ties_as_the_kernel_does() -> None:
    state = state_of(TWINS)
    state.counts = {(WEB, B): Counts(3, 3, 0, 8), (WEB, C): Counts(3, 3, 0, 5)}
    assert explain(state.facts(), WEB, "A", 1.0).winner == "C/web", "the least recently chosen"
    state.counts = {(WEB, B): Counts(3, 3, 0, 8), (WEB, C): Counts(3, 3, 0, 9)}
    assert explain(state.facts(), WEB, "A", 1.0).winner == "B/web"


def sharing(policy: Policy, **changes: object) -> State:
    """Site A, whose listener has the service ``none`` without any workload, and ``web``."""
    both = (Share("none", 1), Share("web", 3))
    listener = replace(Listener("none", 8080, services=both, policy=policy), **changes)  # type: ignore[arg-type]
    return state_of(LINE | {"A": replace(LINE["A"], listeners=(listener,))})


def test_a_listener_shows_its_services_with_what_each_gets() -> None:
    state = sharing(Policy.WEIGHTED, affinity=Affinity.CLIENT, affinity_timeout_s=60)
    (row,) = rows.listeners(state, state.desired())
    assert (row.service, row.policy, row.affinity_s, row.healthy_workloads, row.reason) == (
        "none",
        "weighted",
        60,
        3,
        "none",
    )
    assert [(one.service, one.weight, one.share) for one in row.services] == [("none", 1, 0.0), ("web", 3, 1.0)]
    assert row.addresses == ("10.0.0.1", "127.0.0.1", "::1")
    state = sharing(Policy.PRIORITY)
    state.recompute(map_of(LINE, down=[LinkId("A", "B")]))
    state.health = {"web": False}
    (row,) = rows.listeners(state, state.desired())
    assert [one.share for one in row.services] == [1.0, 0.0], "none is usable: the first one"
    assert (row.healthy_workloads, row.reason) == (0, "no-workload")


def test_all_services_of_a_listener_are_read_and_told() -> None:
    state = sharing(Policy.PRIORITY)
    assert state.listened() == {WEB, ServiceKey("none")}
    assert state.load_readers() == {"B": frozenset({"web"}), "C": frozenset({"web"})}
    assert state.services_record().listens == ("none", "web")


def test_a_suspension_moves_a_listener_to_its_next_service() -> None:
    other = connector("other", service="other")
    config = replace(sharing(Policy.PRIORITY).config, connectors=(other,))
    listener = replace(config.listeners[0], service="web", services=(Share("web"), Share("other")))
    state = state_of(LINE | {"A": replace(config, listeners=(listener,))})
    at, tables = ListenerKey("10.0.0.1", 8080), state.desired().services
    assert state.desired().listeners[at].service == WEB
    state.suspended = frozenset({(WEB, B), (WEB, C)})
    assert state.desired().listeners[at].service == ServiceKey("other")
    assert state.desired().services == tables
    state.health["other"] = False
    assert state.desired().listeners[at].service == WEB, "suspended ones are better than none"


def test_explain_gives_the_reason_of_each_candidate_that_is_out() -> None:
    networks = configs([("A", "B", 10), ("B", "C", 20)], "ABC", drain=["B"])
    state = state_of(networks)
    state.recompute(map_of(networks, down=[LinkId("B", "C")]))
    state.health = {"web": False}
    found = explain(state.facts(), WEB, "A", 1.0)
    assert {row.site: row.reason for row in found.candidates} == {"A": "unhealthy", "B": "drained", "C": "unreachable"}
    assert {row.site: row.path_cost for row in found.candidates} == {"A": 0, "B": 10, "C": None}
    assert (found.winner, found.reason) == (None, "no-workload")


def test_explain_takes_a_suspended_workload_last() -> None:
    state = state_of()
    state.suspended = frozenset({(WEB, A)})
    found = explain(state.facts(), WEB, "A", 1.0)
    assert found.winner == "B/web"
    assert found.candidates[0].reason == "suspended"
    state.suspended = frozenset({(WEB, A), (WEB, B), (WEB, C)})
    assert explain(state.facts(), WEB, "A", 1.0).winner == "A/web", "all suspended: the suspension is ignored"


def test_explain_from_another_site_sees_it_with_that_sites_eyes() -> None:
    state = state_of()
    state.counts = {(WEB, A): Counts(30)}
    hear(state, "C", {C: 5})
    state.suspended = frozenset({(WEB, C)})
    found = explain(state.facts(), WEB, "C", 100.0)
    by_site = {row.site: row for row in found.candidates}
    assert {site: row.path_cost for site, row in by_site.items()} == {"A": 30, "B": 20, "C": 0}
    assert (by_site["A"].open, by_site["A"].others) == (0, 30)
    assert (by_site["C"].open, by_site["C"].others, by_site["C"].reason) == (5, 0, "none")
    assert found.winner == "C/web"


def test_sites_come_with_this_one_first() -> None:
    state = state_of(site="B")
    state.recompute(map_of(LINE, down=[LinkId("B", "C")]))
    empty = SimpleNamespace(get=lambda _key: None)
    found = rows.sites(state, cast(Database, empty), engine="ebpf", certificate_days=300.04, software="skedge 1")
    assert [(row.name, row.here, row.reachable, row.path_cost, row.workloads) for row in found] == [
        ("B", True, True, 0, 1),
        ("A", False, True, 10, 1),
        ("C", False, False, None, 1),
    ]
    assert (found[0].engine, found[0].certificate_days, found[0].overlay4) == ("ebpf", 300.0, LINE["B"].overlay4)
    assert found[1].certificate_days is None


def test_links_say_why_they_are_not_used() -> None:
    state = state_of(site="B")
    state.recompute(map_of(LINE, down=[LinkId("B", "C")]))
    up = link_status.LinkFacts(True, Reason.NONE, "full", 1500, 0.25, 40, 30, 60.0)
    lost = link_status.LinkFacts(False, Reason.PROBE_LOST, "down", 0, 1.0, 40, 0, 70.0)
    tunnels = {LinkId("A", "B"): TunnelFacts(5.0, "10.0.0.2:4791", ("key",))}
    a, c = rows.links(state, {LinkId("A", "B"): up, LinkId("B", "C"): lost}, 100.0, tunnels)
    assert (a.handshake_s, a.endpoint, a.keys) == (5.0, "10.0.0.2:4791", ("key",))
    assert (c.handshake_s, c.keys) == (None, ())
    assert (a.to, a.up, a.state, a.rtt_ms, a.loss, a.since_s, a.reason) == ("A", True, "full", 1.5, 0.25, 40.0, "none")
    assert (c.to, c.up, c.rtt_ms, c.reason, c.cost) == ("C", False, None, "probe-lost", 20)


def test_a_link_is_named_by_what_tcp_or_its_neighbours_controller_does() -> None:
    """Answers to probes are no answers of the controller; where those are missing for too long, that is said."""
    state = state_of(site="B")
    state.recompute(map_of(LINE, down=[LinkId("B", "C")]))
    links = {"A": LinkStats(True, Reason.NONE, 1.0, tcp=Reason.TCP_DROPPED), "C": LinkStats(True, Reason.NONE, 1.0)}
    facts = link_status.facts({LinkId.between("B", to): one for to, one in links.items()}, {})
    a, c = rows.links(state, facts, 100.0, {})
    assert (a.up, a.reason) == (True, "tcp-dropped")
    assert (c.up, c.reason) == (False, "no-answer")
    one_way = {LinkId("A", "B"): replace(links["A"], tcp=Reason.ONE_WAY)}
    a, _c = rows.links(state, link_status.facts(one_way, {}), 1.0, {})
    assert (a.up, a.reason) == (False, "one-way")


def test_a_link_that_only_this_end_uses_is_one_way() -> None:
    networks = dict(LINE)
    network_map = map_of(LINE)
    far = network_map.links["A"]
    deaf = replace(far, links=tuple(replace(link, up=False) for link in far.links))
    state = state_of(networks, "B")
    state.recompute(replace(network_map, links={**network_map.links, "A": deaf}))
    up = link_status.LinkFacts(True, Reason.NONE, "full", 100, 0.0, 9, 9, 0.0)
    row = rows.links(state, {LinkId("A", "B"): up, LinkId("B", "C"): up}, 1.0, {})[0]
    assert (row.up, row.reason) == (False, "one-way")


def test_routes_and_sites_show_the_lans_of_sites() -> None:
    announcing = {**LINE, "C": replace(LINE["C"], prefixes=("10.3.0.0/16",))}
    state = state_of(announcing)
    state.host_addresses = ("10.3.7.1/24",)
    found = {row.destination: row.site for row in rows.routes(state, state.desired(), {})}
    assert found["10.3.0.0/16"] == "C"
    empty = cast(Database, SimpleNamespace(get=lambda _key: None))
    shown = rows.sites(state, empty, engine="ebpf", certificate_days=1.0, software="x")
    assert {row.name: row.prefixes for row in shown} == {"A": (), "B": (), "C": ("10.3.0.0/16",)}
    assert state.links_record("x", 0.0).refused == ("10.3.0.0/16",), "this host is in a network of that"
    assert Reason.OVERLAPPING_PREFIX in {one.reason for one in state.desired().skipped}


def test_routes_tell_whether_the_kernel_has_them() -> None:
    state = state_of()
    desired = state.desired()
    some = dict(list(desired.routes.items())[:1])
    found = rows.routes(state, desired, some)
    assert sum(row.installed for row in found) == 1
    assert {(row.site, row.path_cost) for row in found} == {("B", 10), ("C", 30)}


def test_listeners_have_their_concrete_addresses() -> None:
    state = state_of()
    (row,) = rows.listeners(state, state.desired())
    assert row.addresses == ("10.0.0.1", "127.0.0.1", "::1")
    assert (row.healthy_workloads, row.reason) == (3, "none")
    (row,) = rows.listeners(state, Desired())
    assert (row.addresses, row.healthy_workloads, row.reason) == ((), 0, "no-workload")


def test_services_of_others_are_shown_too() -> None:
    networks = dict(LINE)
    extra = Connector("mail", "mail", "127.0.0.1", 25)
    networks["C"] = replace(networks["C"], connectors=(*networks["C"].connectors, extra))
    found = rows.services(state_of(networks), 1.0)
    assert [(row.service, row.listened_here, len(row.candidates)) for row in found] == [
        ("mail", False, 1),
        ("web", True, 3),
    ]


def receipt(port: int, placed_at: float = 50.0) -> Receipt:
    listener = ListenerKey("10.0.0.1", 8080)
    return Receipt(f"10.0.0.7:{port}", listener, WEB, B, 4, 10, (11, 1), A, (12, 1), placed_at, port)


def test_connections_are_receipts_up_to_a_limit() -> None:
    found = rows.connections((receipt(port) for port in range(10)), 3, 60.0)
    assert len(found) == 4, "one more tells that there are more"
    one = found[0]
    assert (one.client, one.listener, one.workload, one.age_s) == ("10.0.0.7:0", "10.0.0.1:8080/tcp", "B/web", 10.0)
    assert (one.perceived, one.runner_up, one.runner_up_perceived, one.reason) == ("11/1", "A/web", "12/1", "none")
    chosen = rows.connections((receipt(port) for port in range(10)), 3, 60.0, Filter(client="10.0.0.7:8"))
    assert [row.client for row in chosen] == ["10.0.0.7:8"]


def test_drops_come_most_frequent_first_without_zeros() -> None:
    found = rows.drops({Reason.NO_SOCKET: 1, Reason.NOT_PUBLISHED: 5, Reason.MALFORMED: 0})
    assert [(row.reason, row.count) for row in found] == [("not-published", 5), ("no-socket", 1)]


# ---- what is wrong ---------------------------------------------------------------------------------------------


def look(state: State, **changes: object) -> findings.Look:
    plain = findings.Look(
        now=100.0,
        state=state,
        desired=state.desired(),
        applied=Applied(),
        link_rows=[],
        refusals=[],
        synced=True,
        config_error="",
        certificate_days=300.0,
        drift=0,
        stream_causes={},
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def link_row(up: bool, adjacency: str = "full", reason: str = "none") -> LinkRow:
    return LinkRow("A--B", "B", "sk-b", "vxlan", 10, up, adjacency, 0.1, 0.0, 9, 9, 1.0, reason)


def problems(made: findings.Look) -> dict[str, tuple[str, str]]:
    return {finding.what: (finding.severity, finding.cause) for finding in findings.findings(made)}


def test_nothing_is_wrong_with_a_good_network() -> None:
    assert findings.findings(look(state_of(), link_rows=[link_row(True)])) == []


def test_programs_that_could_not_be_loaded_are_said_with_what_serves() -> None:
    refused = ProgramsReport("cached", refused="kernel 6.1 refuses the program skedge_connect4: R0 !read_ok")
    said = problems(look(state_of(), programs=refused))["programs"]
    assert said[0] == "error"
    assert said[1].startswith(f"{refused.refused}; those from before serve")
    trouble = problems(look(state_of(), programs=ProgramsReport("compiled here", trouble="/x: its digest is wrong")))
    assert trouble == {"bytecode": ("warning", "/x: its digest is wrong; other bytecode serves")}


def test_where_the_programs_came_from_is_said_of_this_host_alone() -> None:
    state = state_of(site="B")
    state.recompute(map_of(LINE, down=[LinkId("B", "C")]))
    empty = cast(Database, SimpleNamespace(get=lambda _key: None))
    found = rows.sites(state, empty, engine="ebpf", certificate_days=9.0, software="x", programs="shipped")
    assert [row.programs for row in found] == ["shipped", "", ""]


def test_a_wireguard_link_without_a_handshake_says_what_to_do() -> None:
    down = replace(link_row(False, reason="probe-lost"), transport="wireguard", endpoint="10.0.0.2:4791")
    cause = problems(look(state_of(), link_rows=[down]))["link A--B"][1]
    assert cause.startswith("probe-lost: no WireGuard handshake with B at 10.0.0.2:4791; open the UDP port there")
    calls = replace(down, endpoint="")
    assert "with B which has to call this site;" in problems(look(state_of(), link_rows=[calls]))["link A--B"][1]
    session = replace(down, handshake_s=20.0)
    cause = problems(look(state_of(), link_rows=[session]))["link A--B"][1]
    assert cause == f"probe-lost: {Reason.PROBE_LOST.sentence}"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errno.EPERM, "the host's own rules refuse our probes on sk-b; look at the output chains"),
        (errno.ENOBUFS, "the host throws away what is sent into sk-b; look at chains"),
        (errno.ENOKEY, "WireGuard has no session with B on sk-b"),
        (errno.EDESTADDRREQ, "WireGuard does not know where B is"),
        (errno.EIO, "the host cannot send our probes on sk-b (Input/output error)"),
    ],
)
def test_a_probe_that_the_host_refuses_names_the_device_and_what_to_look_at(error: int, says: str) -> None:
    row = replace(link_row(False, reason="not-sent"), transport="wireguard", unsent=9, unsent_errno=error)
    severity, cause = problems(look(state_of(), link_rows=[row]))["link A--B"]
    assert severity == "warning"
    assert cause.startswith(f"not-sent: {says}")


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (Reason.TCP_DROPPED, "B answers probes, but no TCP connection over sk-b"),
        (Reason.TCP_PROHIBITED, "B answers probes, but a firewall prohibits TCP connections over sk-b"),
    ],
)
def test_a_link_that_takes_no_tcp_is_named(reason: Reason, says: str) -> None:
    row = link_row(True, "down", reason.word)
    cause = problems(look(state_of(), link_rows=[row]))["link A--B"][1]
    assert cause.startswith(f"{reason.word}: {says}; look at the firewalls of both hosts.")


def test_a_load_report_that_is_old_is_named_while_it_counts() -> None:
    state = state_of()
    state.recompute(map_of(LINE))
    state.heard = {"B": Heard(LoadReport("B", Version(1, 1), {WorkloadId("B", "web"): 3}), 60.0)}
    severity, cause = problems(look(state))["loads B"]
    assert (severity, cause.partition(";")[0]) == ("warning", "no load report for 40 s, so its last one still counts")
    assert "loads B" not in problems(look(state, now=80.0))
    state.heard = {"B": Heard(LoadReport("B", Version(1, 1), {WorkloadId("B", "web"): 0}), 60.0)}
    assert "loads B" not in problems(look(state)), "nothing is open: it need not repeat that"


def test_announcing_more_than_the_host_has_is_a_warning() -> None:
    state = state_of({**LINE, "A": replace(LINE["A"], prefixes=("10.0.0.0/24", "10.7.0.0/16", "10.8.0.0/16"))})
    state.host_addresses = ("10.0.0.1/24",)
    around = Surroundings({"10.0.0.0/24": "", "10.7.0.0/16": "10.0.0.0/13", "10.8.0.0/16": "10.8.0.0/24"})
    found = problems(look(state, applied=Applied(surroundings=around)))
    assert list(found) == ["prefix 10.8.0.0/16"]
    assert found["prefix 10.8.0.0/16"][0] == "warning"
    assert "give skedge_prefixes the LAN's own prefix" in found["prefix 10.8.0.0/16"][1]


def test_a_resolver_with_the_address_of_a_site_is_an_error_and_another_one_is_none() -> None:
    state = state_of()
    site = LINE["B"].overlay4
    around = Surroundings(beside={site: "a resolver of this host", "100.100.2.136": "a resolver of this host"})
    found = problems(look(state, applied=Applied(surroundings=around)))
    assert list(found) == [f"address {site}"]
    assert found[f"address {site}"][0] == "error"
    assert "skedge_overlay_address" in found[f"address {site}"][1]


def test_a_link_that_does_not_leave_by_its_uplink_is_named() -> None:
    link = replace(LINE["A"].links[0], transport=Transport.WIREGUARD, local="192.0.2.1", port=5001)
    state = state_of({**LINE, "A": replace(LINE["A"], links=(link,))})
    mark = next(iter(state.desired().links.values())).mark
    assert names.is_uplink_mark(mark)
    found = problems(look(state, applied=Applied(strays={mark: "eth0"})))
    assert found["link A--B"][0] == "warning"
    assert found["link A--B"][1].startswith("leaves by eth0, which does not have its local 192.0.2.1")
    assert not problems(look(state, applied=Applied(strays={mark + 1: "eth0"})))


def test_a_filter_of_another_vpn_that_drops_what_links_bring_is_an_error() -> None:
    found = problems(look(state_of(), applied=Applied(surroundings=Surroundings(filtered="ip filter ts-input"))))
    assert found["firewall"][0] == "error"
    assert "ip filter ts-input drops what comes from 100.64.0.0/10" in found["firewall"][1]
    assert "--netfilter-mode=nodivert" in found["firewall"][1]


def test_sites_that_another_rule_leads_astray_are_one_error_for_each_way() -> None:
    away = {"100.64.0.2": "to table 52, device tailscale0", "100.64.0.3": "to table 52, device tailscale0"}
    found = problems(look(state_of(), applied=Applied(surroundings=Surroundings(astray=away))))
    assert found["way to sites"][0] == "error"
    assert "(100.64.0.2 and 1 more) goes to table 52, device tailscale0, by a rule" in found["way to sites"][1]
    assert "NB_USE_LEGACY_ROUTING" in found["way to sites"][1]


@pytest.mark.parametrize(("devices", "engine", "told"), [
    (("all",), EngineKind.EBPF, True), ((), EngineKind.EBPF, False), (("all",), EngineKind.IPVS, False),
])  # fmt: skip
def test_rules_by_mark_are_named_where_flows_are_routed_before(
    devices: tuple[str, ...], engine: EngineKind, told: bool
) -> None:
    state = state_of()
    state.config = replace(state.config, engine=engine, lan=replace(state.config.lan, devices=devices))
    around = Surroundings(marked={"0x2/0xff": 100})
    found = problems(look(state, applied=Applied(surroundings=around)))
    assert [one for one in found if one.startswith("mark")] == (["mark 0x2/0xff"] if told else [])
    if told:
        assert found["mark 0x2/0xff"][0] == "info"
        assert "table 100" in found["mark 0x2/0xff"][1]


def test_what_waits_for_another_host_is_a_warning() -> None:
    waits = look(state_of(), applied=Applied(waiting={"link sk-b": "the key is not known"}))
    assert problems(waits)["link sk-b"] == ("warning", "the key is not known")
    waits = replace(waits, link_rows=[link_row(False, reason="probe-lost")])
    assert "link A--B" not in problems(waits)


def test_a_service_without_workloads_is_no_error_while_its_listener_has_another() -> None:
    state = sharing(Policy.PRIORITY)
    assert problems(look(state))["service none/tcp"][0] == "warning"
    state.recompute(map_of(LINE, down=[LinkId("A", "B")]))
    state.health = {"web": False}
    assert problems(look(state))["service none/tcp"][0] == "error"
    assert problems(look(state))["service web/tcp"][0] == "error"


@pytest.mark.parametrize(
    ("changes", "what", "severity", "word"),
    [
        ({"config_error": "x.yaml: links: bad"}, "configuration", "error", "x.yaml: links: bad"),
        ({"synced": False}, "sync", "info", "nothing is deleted"),
        ({"certificate_days": 12.4}, "certificate", "warning", "12 days"),
        ({"certificate_days": -1.0}, "certificate", "error", "deploy"),
        ({"drift": 2}, "counters", "warning", "2"),
        ({"link_rows": [link_row(False, "down", "probe-lost")]}, "link A--B", "warning", "probe-lost"),
        ({"link_rows": [link_row(True, "init")]}, "adjacency A--B", "warning", "not been heard"),
        (
            {"link_rows": [link_row(True, "down")], "stream_causes": {"A--B": "wrong certificate"}},
            "adjacency A--B",
            "warning",
            "wrong certificate",
        ),
        ({"applied": Applied(failed={"route x": "no device"})}, "route x", "error", "no device"),
        ({"refusals": [(70.0, Reason.BAD_SIGNATURE, "from B")]}, "control bad-signature", "warning", "from B"),
    ],
)
def test_each_problem_has_its_line(changes: dict[str, object], what: str, severity: str, word: str) -> None:
    found = problems(look(state_of(), **changes))
    assert set(found) == {what}
    assert found[what][0] == severity
    assert word in found[what][1]


def test_old_refusals_are_no_problem_any_more() -> None:
    assert problems(look(state_of(), refusals=[(30.0, Reason.BAD_SIGNATURE, "from B")])) == {}


def test_sites_services_and_workloads_have_their_problems() -> None:
    state = state_of()
    state.recompute(map_of(LINE, down=[LinkId("A", "B")]))
    state.health = {"web": False}
    state.suspended = frozenset({(WEB, A), (WEB, B)})
    found = problems(look(state))
    assert found["site B"][0] == found["site C"][0] == "error"
    assert "127.0.0.1:9090" in found["workload web"][1]
    assert found["service web/tcp"] == ("error", Reason.NO_WORKLOAD.sentence)
    assert not any(what.endswith(" of web") for what in found), "they are out anyway"


def test_an_unhealthy_workload_says_what_its_check_got() -> None:
    state = state_of()
    for cause in ("refused", "answered 400"):
        state.set_health("web", HealthState(False, True, 0.0, cause, "127.0.0.1"))
        assert problems(look(state))["workload web"][1] == f"unhealthy: the health check of 127.0.0.1:9090: {cause}"
    row = next(one for one in rows.services(state, 0.0) if one.service == "web").candidates[0]
    assert (row.reason, row.cause) == ("unhealthy", "answered 400")
    state.set_health("web", HealthState(True, True, 0.0, "", "127.0.0.1"))
    assert "workload web" not in problems(look(state))
    assert state.causes == {}


def test_a_published_port_that_cannot_be_followed_says_where_it_leads_and_the_way_out() -> None:
    state = state_of()
    state.host_addresses = ("127.0.0.1/8", "10.0.0.5/24")
    state.set_health("web", HealthState(True, True, 0.0, "", "127.0.0.1", at=Target("10.88.0.5", 80)))
    assert problems(look(state)) == {}
    for config, way_out in (
        (replace(state.config, lan=Lan(devices=())), "give skedge_lan_devices"),
        (replace(state.config, engine=EngineKind.IPVS), "give engine: ebpf"),
    ):
        state.config = config
        said = "port 9090 of 127.0.0.1 is published by DNAT to 10.88.0.5:80"
        assert problems(look(state))["workload A/web"] == (
            "warning",
            f"{Reason.PUBLISHED_BY_DNAT.sentence}: {said}; {way_out}, or let the server listen on the host itself",
        )


def test_where_a_workload_was_found_is_forgotten_with_its_address() -> None:
    state = state_of()
    state.set_health("web", HealthState(True, True, 0.0, "", "127.0.0.1", at=Target("10.88.0.5", 80)))
    state.set_config(replace(state.config, drain=True), state.ports)
    assert state.resolved == {"web": Target("10.88.0.5", 80)}
    moved = replace(state.config.connectors[0], port=9191)
    state.set_config(replace(state.config, connectors=(moved,)), state.ports)
    assert state.resolved == {}


def test_a_workload_that_only_this_site_holds_for_dead_is_a_problem() -> None:
    state = state_of()
    state.suspended = frozenset({(WEB, B)})
    assert problems(look(state)) == {"workload B/web of web": ("warning", Reason.SUSPENDED.sentence)}


def test_a_claim_that_is_refused_is_a_problem() -> None:
    state = state_of()
    network_map = map_of(LINE)
    thief = replace(network_map.links["C"], overlay4=LINE["B"].overlay4)
    state.recompute(replace(network_map, links={**network_map.links, "C": thief}))
    found = problems(look(state))
    assert found[f"address C: {LINE['B'].overlay4}"] == ("warning", Reason.DUPLICATE_ADDRESS.sentence)


def test_stats_of_a_link_that_is_up_carry_no_reason() -> None:
    stats = LinkStats(True, Reason.PROBE_LOST, 1.0)
    assert link_status.facts({LinkId("A", "B"): stats}, {})[LinkId("A", "B")].reason is Reason.NONE


def test_ports_that_are_not_kept_back_are_a_warning() -> None:
    found = findings.findings(look(State(LINE["A"], {}), ports="a sentence"))
    assert Finding("warning", "reserved ports", "a sentence") in found


def test_nat_ports_that_run_out_are_a_warning_with_the_way_out() -> None:
    state = state_of()
    desired = replace(state.desired(), nat_remote=("", ""))
    limit = port_limit(state.config.lan, far=False)
    state.counts = {(WEB, A): Counts(9, nat=9), (WEB, B): Counts(limit, nat=int(0.8 * limit) + 1)}
    found = [one for one in findings.findings(look(state, desired=desired)) if one.what.startswith("ports to")]
    assert [(one.severity, one.what) for one in found] == [("warning", f"ports to {B} of web")]
    assert f"{int(0.8 * limit) + 1} of {limit} source ports" in found[0].cause
    assert "skedge_nat_ports" in found[0].cause
    wide = replace(desired, nat_remote=("100.64.0.9", "fd00::9"))
    assert [one for one in findings.findings(look(state, desired=wide)) if one.what.startswith("ports to")] == []
