from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from skedge.core.desired.compute import listeners_again
from skedge.core.desired.reconcile import plan, reconcile_all
from skedge.core.model import Affinity, Listener, Policy, Protocol, Share, WorkloadId
from skedge.core.objects import Candidate, ListenerKey, ListenerTarget, ServiceKey, ServiceTable
from skedge.core.placement.policies import SCHEDULE_SIZE, listened, listener_target, schedule
from skedge.core.reasons import Reason
from tests.fakes.memory_driver import memory_drivers
from tests.fakes.networks import configs, connector, desired_at, map_of, site_config

NEW, OLD, LAST = (ServiceKey(name) for name in ("new", "old", "last"))
SHARES = (Share("new", 3), Share("old", 7), Share("last", 1))
PRIORITY = Listener("new", 80, services=SHARES, policy=Policy.PRIORITY)
WEIGHTED = replace(PRIORITY, policy=Policy.WEIGHTED)


def table(*outs: Reason) -> ServiceTable:
    return ServiceTable(
        tuple(Candidate(WorkloadId(f"s{i}", "w"), i, capacity=1, out=out) for i, out in enumerate(outs))
    )


GOOD, BAD = table(Reason.UNHEALTHY, Reason.NONE), table(Reason.UNHEALTHY, Reason.DRAINED, Reason.UNREACHABLE)


def test_one_service_gets_all_whatever_its_state() -> None:
    listener = Listener("new", 80, protocol=Protocol.UDP)
    assert listener_target(listener, {}) == ListenerTarget(ServiceKey("new", Protocol.UDP))
    sticky = replace(listener, affinity=Affinity.CLIENT, affinity_timeout_s=60)
    assert listener_target(sticky, {}) == ListenerTarget(ServiceKey("new", Protocol.UDP), affinity_s=60)
    assert listener_target(replace(sticky, affinity=Affinity.NONE), {}).affinity_s == 0


@pytest.mark.parametrize(
    ("tables", "first"),
    [
        ({NEW: GOOD, OLD: GOOD}, NEW),
        ({NEW: BAD, OLD: GOOD, LAST: GOOD}, OLD),
        ({NEW: BAD, OLD: table(), LAST: GOOD}, LAST),
        ({OLD: GOOD}, OLD),
        ({NEW: BAD, OLD: BAD, LAST: BAD}, NEW),
        ({}, NEW),
    ],
)
def test_priority_is_the_first_service_with_a_workload(
    tables: dict[ServiceKey, ServiceTable], first: ServiceKey
) -> None:
    assert listener_target(PRIORITY, tables) == ListenerTarget(first)


def test_a_service_whose_workloads_are_all_suspended_is_passed_by_unless_all_are() -> None:
    tables = {NEW: GOOD, OLD: GOOD}
    new, old = (NEW, WorkloadId("s1", "w")), (OLD, WorkloadId("s1", "w"))
    assert listener_target(PRIORITY, tables, {new}).service == OLD
    assert listener_target(PRIORITY, tables, {new, old}).service == NEW
    assert listener_target(PRIORITY, {NEW: BAD, OLD: GOOD}, {old}).service == OLD, "suspended is better than out"
    assert listener_target(PRIORITY, {NEW: table(Reason.NONE, Reason.NONE)}, {new}).service == NEW, "one is left"
    assert Counter(listener_target(WEIGHTED, tables, {new}).schedule).keys() == {OLD}


def test_weighted_shares_among_the_usable_ones_and_remembers_clients_under_the_first() -> None:
    all_good = dict.fromkeys((NEW, OLD, LAST), GOOD)
    assert Counter(listener_target(WEIGHTED, all_good).schedule) == {NEW: 3, OLD: 7, LAST: 1}
    without = listener_target(WEIGHTED, all_good | {NEW: BAD})
    assert Counter(without.schedule) == {OLD: 7, LAST: 1}
    assert without.service == NEW
    assert without.services == {OLD: 7, LAST: 1}
    assert Counter(listener_target(WEIGHTED, {}).schedule) == {NEW: 3, OLD: 7, LAST: 1}, "refused, each for its reason"


def test_turns_are_mixed_and_reduced() -> None:
    assert schedule({NEW: 3, OLD: 7}) == (OLD, NEW, OLD, OLD, NEW, OLD, OLD, OLD, NEW, OLD)
    assert schedule({NEW: 100, OLD: 50}) == (NEW, OLD, NEW)
    assert schedule({NEW: 4}) == (NEW,)


def test_weights_that_do_not_fit_are_rounded_and_nobody_gets_nothing() -> None:
    many = {ServiceKey(f"s{i:02}"): 100 for i in range(15)} | {LAST: 1}
    turns = Counter(schedule(many))
    assert turns.total() == SCHEDULE_SIZE
    assert turns[LAST] == 1
    assert {turns[key] for key in many if key != LAST} <= {8, 9}


def test_all_services_of_a_listener_are_listened_to_and_have_tables() -> None:
    everywhere = configs([("A", "B", 1)], ["B"])
    config = replace(everywhere["A"], listeners=(replace(WEIGHTED, services=(Share("web"), Share("none"))),))
    assert listened(config) == {ServiceKey("web"), ServiceKey("none")}
    made = desired_at(config, map_of(everywhere), ["10.0.0.1"])
    assert made.services.keys() == {ServiceKey("web"), ServiceKey("none")}
    assert made.listeners[ListenerKey("10.0.0.1", 80)] == ListenerTarget(ServiceKey("web"), (ServiceKey("web"),))
    assert made.choosers.keys() == made.listeners.keys()
    assert listeners_again(made, {})[ListenerKey("10.0.0.1", 80)].services == {
        ServiceKey("web"): 1,
        ServiceKey("none"): 1,
    }


def test_suspension_changes_the_listener_and_not_the_tables() -> None:
    mine = (connector("n", service="new"), connector("o", service="old"))
    config = site_config("A", listeners=(PRIORITY,), connectors=mine)
    at, all_sites = ListenerKey("127.0.0.1", 80), map_of({"A": config})
    calm = desired_at(config, all_sites)
    avoiding = desired_at(config, all_sites, avoided=frozenset({(NEW, WorkloadId("A", "n"))}))
    assert (calm.listeners[at].service, avoiding.listeners[at].service) == (NEW, OLD)
    assert calm.services == avoiding.services


def test_before_sync_what_the_kernel_knows_decides() -> None:
    """A restarted controller that has not heard of the other site yet does not lead connections away from it."""
    listener = replace(PRIORITY, services=(Share("far"), Share("near")))
    here = site_config("A", listeners=(listener,), connectors=(connector("n", service="near"),))
    there = site_config("B", connectors=(connector("f", service="far"),))
    links = configs([("A", "B", 1)])
    both = {"A": replace(here, links=links["A"].links), "B": replace(there, links=links["B"].links)}
    at, far, near = ListenerKey("127.0.0.1", 80), ServiceKey("far"), ServiceKey("near")
    drivers, _ = memory_drivers()
    reconcile_all(drivers.registry, both["A"], desired_at(both["A"], map_of(both)))
    assert drivers.listeners.read()[at] == ListenerTarget(far)
    alone = desired_at(both["A"], map_of({"A": both["A"]}))
    assert alone.listeners[at] == ListenerTarget(near)
    assert plan(drivers.registry, both["A"], alone, allow_delete=False) == ()
    reconcile_all(drivers.registry, both["A"], alone, allow_delete=False)
    assert drivers.listeners.read()[at] == ListenerTarget(far)
    reconcile_all(drivers.registry, both["A"], alone)
    assert drivers.listeners.read()[at] == ListenerTarget(near)
    drivers.services.unreadable = True  # type: ignore[attr-defined]
    reports = reconcile_all(drivers.registry, both["A"], desired_at(both["A"], map_of(both)), allow_delete=False)
    assert not reports["listener"].clean
    assert drivers.listeners.read()[at] == ListenerTarget(near), "not known: left as it was"
