"""This site's kernel as one object, over drivers in memory."""

from __future__ import annotations

from dataclasses import replace

from skedge.core.desired.compute import Desired
from skedge.core.model import WorkloadId
from skedge.core.objects import Candidate, ListenerKey, ListenerTarget, NextHop, ServiceKey, ServiceTable, Target
from skedge.core.observed import Counts
from skedge.core.reasons import Reason
from skedge.daemon.kernel.wrapped_drivers import without_others
from tests.fakes.networks import configs, desired_at, map_of, site_config
from tests.unit.daemon.kit import FakeKernel, fake_kernel

WEB = ServiceKey("web")
LINE = configs([("A", "B", 10), ("B", "C", 20)], "ABC")
CONFIG = LINE["A"]
DESIRED = desired_at(CONFIG, map_of(LINE), ["10.0.0.1"])
A, B, C = (WorkloadId(site, "web") for site in "ABC")


def applied() -> FakeKernel:
    fake = fake_kernel()
    assert not fake.kernel.apply(CONFIG, DESIRED, allow_delete=True).failed
    fake.log.clear()
    return fake


def others_of(fake: FakeKernel) -> dict[str, int]:
    return {str(one.workload): one.others for one in fake.drivers.services.objects[WEB].candidates}


def test_everything_desired_is_in_the_kernel_and_the_second_run_changes_nothing() -> None:
    fake = fake_kernel()
    first = fake.kernel.apply(CONFIG, DESIRED, allow_delete=True)
    assert fake.drivers.routes.objects == DESIRED.routes == first.routes
    assert fake.drivers.services.objects == DESIRED.services
    assert first.changed[0] == "rule rule inet"
    assert len(first.changed) == len(fake.log)
    second = fake.kernel.apply(CONFIG, DESIRED, allow_delete=True)
    assert (second.changed, second.failed) == ((), {})


def test_a_run_that_began_before_a_failure_puts_no_route_that_is_older() -> None:
    fake = fake_kernel()
    key, route = next(iter(DESIRED.routes.items()))
    round_it = replace(route, next_hops=(NextHop("sk-other", route.next_hops[0].via),))
    fake.kernel.want_routes({**DESIRED.routes, key: round_it})
    fake.kernel.apply(CONFIG, DESIRED, allow_delete=True)
    assert fake.drivers.routes.objects == {**DESIRED.routes, key: round_it}
    assert fake.kernel.lead([key, "100.64.9.9/32"]) == {}, "one that is wanted no more is left alone"
    assert fake.drivers.routes.objects[key] == round_it


def test_a_key_that_fails_is_named_and_the_others_go_on() -> None:
    fake = fake_kernel()
    route = next(iter(DESIRED.routes))
    fake.drivers.routes.broken.add(route)
    result = fake.kernel.apply(CONFIG, DESIRED, allow_delete=True)
    assert set(result.failed) == {f"route {route}"}
    assert "refused" in result.failed[f"route {route}"]
    assert fake.drivers.listeners.objects == DESIRED.listeners
    fake.drivers.routes.broken.clear()
    assert fake.kernel.apply(CONFIG, DESIRED, allow_delete=True).changed == (f"route {route}",)


def test_a_kind_that_cannot_be_read_and_an_object_that_fails_are_named() -> None:
    fake = fake_kernel()
    fake.drivers.rules.broken.add("rule inet")
    fake.drivers.links.unreadable = True
    result = fake.kernel.apply(CONFIG, DESIRED, allow_delete=True)
    assert set(result.failed) == {"rule rule inet", "link"}
    assert fake.drivers.services.objects == DESIRED.services


def test_routes_that_cannot_be_read_are_none() -> None:
    fake = applied()
    fake.drivers.routes.unreadable = True
    assert fake.kernel.apply(CONFIG, DESIRED, allow_delete=True).routes == {}


def test_nothing_is_deleted_when_that_is_not_allowed() -> None:
    fake = applied()
    nothing = Desired(services={WEB: ServiceTable()})
    fake.kernel.apply(CONFIG, nothing, allow_delete=False)
    assert fake.did("delete") == []
    assert fake.drivers.routes.objects == DESIRED.routes
    assert {one.workload for one in fake.drivers.services.objects[WEB].candidates} == {A, B, C}
    fake.kernel.apply(CONFIG, nothing, allow_delete=True)
    assert fake.drivers.routes.objects == {}
    assert fake.drivers.services.objects[WEB].candidates == ()


def test_the_plan_is_what_apply_does() -> None:
    fake = fake_kernel()
    steps = fake.kernel.plan(CONFIG, DESIRED, allow_delete=True)
    assert fake.log == []
    fake.kernel.apply(CONFIG, DESIRED, allow_delete=True)
    assert [(step.action, step.kind) for step in steps] == [("create", kind) for _, kind, _ in fake.log]
    assert fake.kernel.plan(CONFIG, DESIRED, allow_delete=True) == ()


def test_load_of_others_is_written_by_itself_and_is_no_difference() -> None:
    fake = applied()
    fake.kernel.set_others({(WEB, B): 5})
    assert others_of(fake) == {"A/web": 0, "B/web": 5, "C/web": 0}
    assert fake.kernel.plan(CONFIG, DESIRED, allow_delete=True) == ()
    assert fake.kernel.apply(CONFIG, DESIRED, allow_delete=True).changed == ()
    assert others_of(fake)["B/web"] == 5


def test_a_table_that_is_put_takes_the_load_that_was_last_told() -> None:
    fake = applied()
    fake.kernel.set_others({(WEB, A): 1, (WEB, B): 5, (WEB, C): 0})
    drained = tuple(
        replace(one, out=Reason.DRAINED) if one.workload == C else one for one in DESIRED.services[WEB].candidates
    )
    fake.kernel.apply(CONFIG, replace(DESIRED, services={WEB: ServiceTable(drained)}), allow_delete=True)
    assert others_of(fake) == {"A/web": 1, "B/web": 5, "C/web": 0}


def test_a_new_controller_that_was_told_nothing_keeps_the_load_that_the_kernel_has() -> None:
    """Also for a candidate that is only kept because this site is not in sync."""
    old = applied()
    old.kernel.set_others({(WEB, B): 5, (WEB, C): 7})
    fresh = fake_kernel()
    fresh.drivers.services.objects.update(old.drivers.services.objects)
    known = tuple(replace(one, capacity=3) for one in DESIRED.services[WEB].candidates if one.workload != C)
    fresh.kernel.apply(CONFIG, replace(DESIRED, services={WEB: ServiceTable(known)}), allow_delete=False)
    assert others_of(fresh) == {"A/web": 0, "B/web": 5, "C/web": 7}
    fresh.kernel.set_others({(WEB, B): 2})
    known = tuple(replace(one, capacity=4) for one in known)
    fresh.kernel.apply(CONFIG, replace(DESIRED, services={WEB: ServiceTable(known)}), allow_delete=False)
    assert others_of(fresh) == {"A/web": 0, "B/web": 2, "C/web": 7}


def test_suspension_is_the_data_planes_own_and_no_difference() -> None:
    fake = applied()
    table = fake.drivers.services.objects[WEB]
    fake.drivers.services.objects[WEB] = ServiceTable(
        tuple(replace(one, out=Reason.SUSPENDED) if one.workload == B else one for one in table.candidates)
    )
    assert fake.kernel.plan(CONFIG, DESIRED, allow_delete=True) == ()


def test_without_others_keeps_all_that_decides() -> None:
    one = Candidate(A, 5, capacity=2, others=9, target4=Target("127.0.0.1", 1), own_site=True, out=Reason.DRAINED)
    assert without_others(ServiceTable((one,))).candidates == (replace(one, others=0),)


def test_connects_that_wait_for_a_withdrawn_workload_are_ended_after_the_table_changed() -> None:
    fake = applied()
    assert fake.host.aborted == []
    candidates = DESIRED.services[WEB].candidates
    c = next(one for one in candidates if one.workload == C)
    gone = tuple(replace(one, out=Reason.UNHEALTHY) if one == c else one for one in candidates)
    fake.kernel.apply(CONFIG, replace(DESIRED, services={WEB: ServiceTable(gone)}), allow_delete=True)
    assert fake.host.aborted == [{c.target4, c.target6} - {None}]
    assert fake.drivers.services.objects[WEB].candidates == gone


def test_drained_workloads_and_those_of_this_site_are_not_aborted() -> None:
    fake = applied()
    out = {A: Reason.UNHEALTHY, B: Reason.DRAINED, C: Reason.NONE}
    changed = tuple(replace(one, out=out[one.workload]) for one in DESIRED.services[WEB].candidates)
    fake.kernel.apply(CONFIG, replace(DESIRED, services={WEB: ServiceTable(changed)}), allow_delete=True)
    assert fake.host.aborted == []


def test_counters_and_what_was_refused_come_from_all_parts() -> None:
    fake = fake_kernel()
    fake.engine.counted = {(WEB, A): Counts(3, 9, 1)}
    fake.engine.out = frozenset({(WEB, B)})
    assert fake.kernel.readings().counts == {(WEB, A): Counts(3, 9, 1)}
    assert fake.kernel.readings().suspended == {(WEB, B)}
    fake.engine.dropped = {Reason.NO_WORKLOAD: 2, Reason.MALFORMED: 1}
    fake.refused |= {Reason.MALFORMED: 4, Reason.NOT_PUBLISHED: 1}
    assert fake.kernel.drops() == {Reason.NO_WORKLOAD: 2, Reason.MALFORMED: 5, Reason.NOT_PUBLISHED: 1}


def test_listeners_of_a_config_without_any_leave_nothing() -> None:
    fake = fake_kernel()
    plain = site_config("A")
    fake.drivers.listeners.objects[ListenerKey("10.0.0.1", 80)] = ListenerTarget(WEB)
    fake.kernel.apply(plain, desired_at(plain, map_of({"A": plain})), allow_delete=True)
    assert fake.drivers.listeners.objects == {}
