"""Where the next connection goes and why, from plain values: no controller, no state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skedge.core.api.shown import ListenerRow, ListenerServiceRow
from skedge.core.linkstate.own_records import endpoint_ports
from skedge.core.model import Connector, EngineKind, LinkId, Listener, Policy, Protocol, Share
from skedge.core.objects import ListenerKey, ListenerTarget, ServiceKey
from skedge.core.observed import Counts
from skedge.core.placement.explain import Facts, explain, find_service, known_services, listener_rows
from skedge.core.placement.loads import Heard, oldest_age, reporters
from skedge.core.records import LoadReport, Version
from skedge.core.routing import rib
from tests.fakes.networks import SERVICE as WEB
from tests.fakes.networks import candidates_at, configs, connector, map_of

LINE = configs([("A", "B", 10), ("B", "C", 20)], "ABC")
UDP = ServiceKey("web", Protocol.UDP)


def facts(networks: object = LINE, *, down: tuple[LinkId, ...] = (), **changes: object) -> Facts:
    """What site A knows."""
    all_configs = dict(networks)  # type: ignore[call-overload]
    network_map = map_of(all_configs, down=down)
    return replace(Facts(all_configs["A"], network_map, rib.compute(network_map, "A")), **changes)  # type: ignore[arg-type]


def heard(site: str, opens: dict[str, int], at: float) -> Heard:
    workloads = {one.workload.site: one.workload for one in candidates_at(LINE, "A")}
    return Heard(LoadReport(site, Version(1, 1), {workloads[there]: number for there, number in opens.items()}), at)


A, B, C = (one.workload for one in candidates_at(LINE, "A"))


def test_a_row_has_every_part_of_the_perceived_cost() -> None:
    known = facts(
        counts={(WEB, B): Counts(open=1, chosen=7, refused=2)},
        others={(WEB, B): 4},
        heard={"C": heard("C", {"B": 4}, 90.0)},
    )
    found = explain(known, WEB, "A", 100.0)
    assert (found.service, found.site, found.winner, found.reason) == ("web", "A", "A/web", "none")
    row = found.candidates[1]
    port = endpoint_ports(LINE["B"], {})["web"]
    assert (row.workload, row.site, row.path_cost, row.capacity, row.path) == ("B/web", "B", 10, 1, ("A", "B"))
    assert (row.open, row.others, row.others_age_s, row.chosen, row.refused) == (1, 4, 10.0, 7, 2)
    assert (row.perceived, row.perceived_float, row.reason, row.winner) == ("15/1", 15.0, "none", False)
    assert row.target == f"{LINE['B'].overlay4}:{port}"


def test_the_winner_is_who_the_rule_chooses() -> None:
    counts = {(WEB, A): Counts(11), (WEB, B): Counts(0)}
    assert explain(facts(counts=counts), WEB, "A", 0.0).winner == "B/web"
    counts = {(WEB, A): Counts(9), (WEB, B): Counts(0)}
    assert explain(facts(counts=counts), WEB, "A", 0.0).winner == "A/web"


def test_nobody_wins_where_all_are_out() -> None:
    networks = configs([("A", "B", 10)], "B", drain=["B"])
    found = explain(facts(networks), WEB, "A", 0.0)
    assert (found.winner, found.reason, found.candidates[0].reason) == (None, "no-workload", "drained")
    found = explain(facts(configs([("A", "B", 10)], "B"), down=(LinkId("A", "B"),)), WEB, "A", 0.0)
    assert (found.winner, found.candidates[0].reason, found.candidates[0].path_cost) == (None, "unreachable", None)
    assert explain(facts(configs([("A", "B", 10)])), WEB, "A", 0.0).candidates == ()


def test_what_the_engine_cannot_serve_is_out_here_only() -> None:
    networks = LINE | {"A": replace(LINE["A"], engine=EngineKind.IPVS)}
    here = explain(facts(networks), WEB, "A", 0.0)
    assert (here.candidates[0].reason, here.winner) == ("engine", "B/web"), "127.0.0.1 for clients of this site"
    there = explain(facts(networks), WEB, "B", 0.0)
    assert there.candidates[0].reason == "none"


def test_another_site_has_its_own_connections_as_it_reported_them() -> None:
    known = facts(
        counts={(WEB, A): Counts(30, last_chosen=5), (UDP, A): Counts(9)},
        suspended=frozenset({(WEB, C)}),
        others={(WEB, C): 5},
        heard={"B": heard("B", {"A": 2}, 0.0), "C": heard("C", {"C": 5}, 0.0)},
    )
    found = explain(known, WEB, "C", 1.0)
    a, b, c = found.candidates
    assert [row.path_cost for row in (a, b, c)] == [30, 20, 0]
    assert [(row.open, row.others) for row in (a, b, c)] == [(0, 32), (0, 0), (5, 0)]
    assert (c.reason, found.winner) == ("none", "C/web"), "a suspension is this site's own"


def test_ties_are_broken_by_the_choices_of_this_site_and_not_for_another_one() -> None:
    networks = configs([("A", "B", 10), ("B", "C", 10)], "AC")
    counts = {(WEB, A): Counts(0, last_chosen=9), (WEB, C): Counts(0, last_chosen=5)}
    assert explain(facts(networks, counts=counts), WEB, "B", 0.0).winner == "A/web", "by name"
    twins = configs([("A", "B", 10), ("A", "C", 10)], "BC")
    counts = {(WEB, B): Counts(3, last_chosen=9), (WEB, C): Counts(3, last_chosen=5)}
    assert explain(facts(twins, counts=counts), WEB, "A", 0.0).winner == "C/web", "the least recently chosen"


def test_an_unreachable_sites_report_does_not_count() -> None:
    known = facts(
        down=(LinkId("B", "C"),),
        heard={"A": heard("A", {"A": 9}, 0.0), "B": heard("B", {"A": 2}, 3.0), "C": heard("C", {"A": 5}, 1.0)},
    )
    assert [one.report.site for one in reporters(known.heard, known.rib)] == ["B"]
    assert explain(known, WEB, "A", 10.0).candidates[0].others_age_s == 7.0
    assert oldest_age(tuple(known.heard.values()), A, 10.0) == 10.0
    assert oldest_age((), A, 10.0) is None


def test_its_listeners_are_told_for_this_site_only() -> None:
    def row(port: int, protocol: str, *services: str) -> ListenerRow:
        shares = tuple(ListenerServiceRow(name, 1, 1.0, 1) for name in services)
        return ListenerRow(services[0], "*", port, protocol, (), 1, services=shares)

    first, second = row(80, "tcp", "web"), row(81, "tcp", "mail", "web")
    rows = (first, row(80, "udp", "web"), second, row(25, "tcp", "mail"))
    assert explain(facts(), WEB, "A", 0.0, rows).listeners == (first, second)
    assert explain(facts(), WEB, "B", 0.0, rows).listeners == ()


def test_a_service_is_known_when_offered_anywhere_or_listened_to_here() -> None:
    networks = configs([("A", "B", 10)], "B")
    both = (connector(), Connector("dns", "dns", "127.0.0.1", 53, protocol=Protocol.UDP))
    networks["B"] = replace(networks["B"], connectors=both)
    networks["A"] = replace(networks["A"], listeners=(Listener("web", 80, protocol=Protocol.UDP), Listener("x", 81)))
    known = facts(networks)
    assert known_services(known) == {WEB, UDP, ServiceKey("x"), ServiceKey("dns", Protocol.UDP)}
    assert find_service(known, "web") == WEB, "TCP first"
    assert find_service(known, "dns") == ServiceKey("dns", Protocol.UDP)
    assert find_service(known, "mail") is None


@pytest.mark.parametrize(("turns", "shares"), [((WEB, WEB, ServiceKey("b")), [0.6667, 0.3333]), ((), [1.0, 0.0])])
def test_a_listener_row_shows_the_dispatch_of_its_addresses(turns: tuple[ServiceKey, ...], shares: list[float]) -> None:
    listener = Listener("web", 80, services=(Share("web", 2), Share("b", 1)), policy=Policy.WEIGHTED)
    listener_targets = {
        ListenerKey("10.0.0.1", 80): ListenerTarget(WEB, turns, 60, True),
        ListenerKey("10.0.0.2", 80): ListenerTarget(ServiceKey("other")),
        ListenerKey("10.0.0.1", 81): ListenerTarget(WEB),
    }
    (row,) = listener_rows((listener,), listener_targets, {})
    assert (row.addresses, row.affinity_s, row.preserve_client_ip) == (("10.0.0.1",), 60, True)
    assert [one.share for one in row.services] == shares
    assert (row.healthy_workloads, row.reason) == (0, "no-workload")
