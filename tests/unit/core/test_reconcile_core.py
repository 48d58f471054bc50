from __future__ import annotations

from dataclasses import fields

import pytest

from skedge.core.api.documents import PlanStep
from skedge.core.desired.compute import Desired
from skedge.core.desired.reconcile import Delta, diff, plan, reconcile, reconcile_all
from skedge.core.errors import DataplaneError
from skedge.core.model import WorkloadId
from skedge.core.objects import Candidate, ListenerKey, ListenerTarget, ServiceTable
from skedge.core.reasons import Reason
from tests.fakes.memory_driver import FIELDS, MemoryDriver, memory_drivers
from tests.fakes.networks import SERVICE, configs, desired_at, map_of

LINE = configs([("A", "B", 10), ("B", "C", 20)], "ABC")
WANTED = desired_at(LINE["A"], map_of(LINE))
ORDER = ["link", "address", "route", "endpoint", "service", "listener"]


def test_diff_is_the_least_change() -> None:
    assert diff({"a": 1, "b": 2}, {"b": 3, "c": 4, "a": 1}) == Delta({"b": 2}, ("c",))
    assert diff({"a": 1}, {"a": 1}) == Delta({}, ())
    assert diff({"a": 1, "b": 2}, {"a": 5}, merge=max) == Delta({"b": 2}, ())


def test_reconcile_makes_the_kernel_match_and_then_has_nothing_to_do() -> None:
    driver = MemoryDriver()
    driver.objects = {"b": 3, "c": 4}
    report = reconcile(driver, {"a": 1, "b": 2})
    assert driver.objects == {"a": 1, "b": 2}
    assert (sorted(report.changed), report.clean) == (["a", "b", "c"], True)
    assert reconcile(driver, {"a": 1, "b": 2}).changed == []


def test_a_failed_key_never_stops_the_others_and_is_retried() -> None:
    driver = MemoryDriver("route")
    driver.objects = {"x": 0, "y": 0}
    driver.broken = {"a", "x"}
    report = reconcile(driver, {"a": 1, "b": 2})
    assert driver.objects == {"x": 0, "b": 2}
    assert sorted(report.failed) == ["a", "x"]
    assert str(report.failed["a"]) == "route a: refused"
    assert not report.clean
    driver.broken = set()
    assert sorted(reconcile(driver, {"a": 1, "b": 2}).changed) == ["a", "x"]


def test_before_sync_nothing_is_deleted() -> None:
    driver = MemoryDriver()
    driver.objects = {"b": 3, "c": 4}
    report = reconcile(driver, {"a": 1, "b": 2}, allow_delete=False)
    assert driver.objects == {"a": 1, "b": 2, "c": 4}
    assert report.held_back == ["c"]
    reconcile(driver, {"b": 1}, allow_delete=False, merge=max)
    assert driver.objects["b"] == 2
    reconcile(driver, {"b": 1}, merge=max)
    assert driver.objects == {"b": 1}


def test_a_dry_run_reports_and_changes_nothing() -> None:
    driver = MemoryDriver()
    driver.objects = {"c": 4}
    assert sorted(reconcile(driver, {"a": 1}, dry_run=True).changed) == ["a", "c"]
    assert driver.objects == {"c": 4}
    assert driver.log == []


def test_a_kernel_that_cannot_be_read_is_left_alone() -> None:
    driver = MemoryDriver("route")
    driver.unreadable = True
    report = reconcile(driver, {"a": 1})
    assert isinstance(report.unread, DataplaneError)
    assert not report.clean
    assert driver.log == []


def test_every_kind_has_a_driver_and_a_desired_mapping() -> None:
    assert list(FIELDS) == ORDER
    assert {one.name for one in fields(Desired)} == {
        *FIELDS.values(), "uplinks", "nat_local", "nat_remote", "choosers", "avoided", "off_host", "prefixes",
        "announced", "answering", "sites", "sources", "skipped", "shared",
    }  # fmt: skip


def test_all_kinds_are_created_in_order_and_deleted_in_reverse() -> None:
    drivers, log = memory_drivers()
    reports = reconcile_all(drivers.registry, LINE["A"], WANTED)
    assert all(report.clean for report in reports.values())
    kinds = [kind for action, kind, _ in log if action == "put"]
    assert list(dict.fromkeys(kinds)) == ORDER
    assert kinds == sorted(kinds, key=ORDER.index)
    log.clear()
    reconcile_all(drivers.registry, LINE["A"], Desired())
    gone = [kind for action, kind, _ in log if action == "delete"]
    assert len(gone) == len(log) == sum(len(getattr(WANTED, name)) for name in FIELDS.values())
    assert gone == sorted(gone, key=ORDER.index, reverse=True)
    assert plan(drivers.registry, LINE["A"], Desired()) == ()


def test_creations_of_all_kinds_come_before_any_deletion() -> None:
    drivers, log = memory_drivers()
    drivers.links.put("sk-old", next(iter(WANTED.links.values())))
    log.clear()
    reconcile_all(drivers.registry, LINE["A"], WANTED)
    assert log[-1] == ("delete", "link", "sk-old")


def test_one_unreadable_kind_does_not_stop_the_others() -> None:
    drivers, _ = memory_drivers()
    drivers.routes.unreadable = True  # type: ignore[attr-defined]
    reports = reconcile_all(drivers.registry, LINE["A"], WANTED)
    assert [kind for kind, report in reports.items() if not report.clean] == ["route"]
    assert drivers.listeners.read() == WANTED.listeners
    with pytest.raises(DataplaneError, match="route: the kernel does not answer"):
        plan(drivers.registry, LINE["A"], WANTED)


def test_before_sync_services_keep_their_candidates() -> None:
    drivers, _ = memory_drivers()
    reconcile_all(drivers.registry, LINE["A"], WANTED)
    alone = desired_at(LINE["A"], map_of({"A": LINE["A"]}))
    assert plan(drivers.registry, LINE["A"], alone, allow_delete=False) == ()
    reports = reconcile_all(drivers.registry, LINE["A"], alone, allow_delete=False)
    assert all(report.changed == [] for report in reports.values())
    assert len(reports["route"].held_back) == 4
    assert drivers.services.read() == WANTED.services
    reconcile_all(drivers.registry, LINE["A"], alone)
    assert [one.workload.site for one in drivers.services.read()[SERVICE].candidates] == ["A"]


def test_the_plan_is_what_reconcile_then_does() -> None:
    drivers, log = memory_drivers()
    stale = Candidate(WorkloadId("A", "web"), 0, capacity=1, out=Reason.DRAINED)
    drivers.services.put(SERVICE, ServiceTable((stale,)))
    drivers.listeners.put(ListenerKey("10.9.9.9", 80), ListenerTarget(SERVICE))
    log.clear()
    steps = plan(drivers.registry, LINE["A"], WANTED)
    assert log == []
    assert steps[-1] == PlanStep("delete", "listener", "10.9.9.9:80/tcp", before="web/tcp")
    (replaced,) = (step for step in steps if step.action == "replace")
    assert replaced.before == "A/web cost 0 capacity 1 others 0 out: drained"
    assert replaced.after.startswith("A/web cost 0 capacity 1 others 0 at 127.0.0.1:9090; B/web cost 10 ")
    assert not any(step.action == "delete" for step in plan(drivers.registry, LINE["A"], WANTED, allow_delete=False))
    reconcile_all(drivers.registry, LINE["A"], WANTED)
    did = [("delete" if step.action == "delete" else "put", step.kind) for step in steps]
    assert did == [(action, kind) for action, kind, _ in log]
    assert plan(drivers.registry, LINE["A"], WANTED) == ()
