"""The controller's life step by step, and what each event makes dirty."""

from __future__ import annotations

from math import inf

import pytest

from skedge.daemon.loop.dirty import MAKES_DIRTY, Dirty, Event, Marks
from skedge.daemon.loop.life import Life, Phase, Seen, entered

WELL = Seen(health_known=True, waiting=False, undecided=False, hold_s=120.0)


def seen(**changes: bool | float) -> Seen:
    values = {"health_known": True, "waiting": False, "undecided": False, "hold_s": 120.0}
    return Seen(**(values | changes))  # type: ignore[arg-type]


def test_the_normal_way() -> None:
    life = Life(100.0)
    assert (life.balancing, life.synced, life.deleting, life.ready) == (False, False, False, False)
    life = life.step(100.1, seen(health_known=False, undecided=True))
    assert life.phase is Phase.STARTED
    life = life.step(100.4, seen(undecided=True))
    assert life.phase is Phase.BALANCING
    life = life.step(101.0, seen(waiting=True))
    assert life.phase is Phase.BALANCING
    life = life.step(101.5, WELL)
    assert (life.phase, life.synced_at, life.age(101.5)) == (Phase.SYNCED, 101.5, 1.5)
    assert life.step(102.4, WELL).phase is Phase.SYNCED
    life = life.step(102.5, WELL)
    assert life.phase is Phase.DELETING
    assert life.step(1e9, seen(health_known=False, waiting=True, undecided=True)) == life, "nothing takes it back"


def test_all_that_is_known_at_the_start_is_used_at_once_and_deleting_waits_all_the_same() -> None:
    life = Life(5.0).step(5.0, WELL)
    assert life.phase is Phase.SYNCED
    assert entered(Life(5.0), life) == (Phase.BALANCING, Phase.SYNCED)


@pytest.mark.parametrize(
    ("what", "until"),
    [
        ({"health_known": False}, 2.0),  # HEALTH_WAIT_S
        ({"undecided": True}, 3.0),  # PROBE_WAIT_S
        ({"waiting": True}, 120.0),  # the hold time
        ({"waiting": True, "hold_s": 1.0}, 1.0),
        ({"undecided": True, "hold_s": 1.0}, 1.0),
        ({"health_known": False, "hold_s": 1.0}, 2.0),  # health has its own time
    ],
)
def test_each_wait_for_sync_has_an_end(what: dict[str, bool | float], until: float) -> None:
    assert not Life(0.0).step(until - 0.01, seen(**what)).synced
    assert Life(0.0).step(until + 0.01, seen(**what)).synced


def test_a_configuration_that_brings_a_workload_without_verdict_does_not_end_balancing() -> None:
    """What was applied would be deleted from the kernel when it left the desired state."""
    life = Life(0.0).step(0.3, WELL).step(1.4, WELL)
    assert life.deleting
    assert life.step(1.5, seen(health_known=False)).balancing
    early = Life(0.0).step(0.3, seen(waiting=True)).step(0.5, seen(health_known=False))
    assert (early.balancing, early.synced) == (True, False), "but nothing is said of it before its verdict"


def test_a_run_before_balancing_makes_nothing_ready() -> None:
    life = Life(0.0)
    assert life.applied() is life
    life = life.step(0.3, seen(waiting=True)).applied()
    assert life.ready
    assert life.applied() is life


def test_deadlines_are_of_what_is_still_to_come() -> None:
    life = Life(0.0)
    assert life.deadline(0.2, loads=True) == pytest.approx(0.25)
    life = life.step(0.5, WELL)
    assert life.deadline(0.5, loads=True) == 1.5
    life = life.step(1.5, WELL)
    assert life.deadline(1.5, loads=True) == 2.5
    assert (life.loads_whole(2.4), life.loads_whole(2.5)) == (False, True)
    assert life.deadline(1.5, loads=False) == inf


# ---- dirty -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "flags"),
    [
        (Event.CONFIGURED, {"LINKS_RECORD", "SERVICES_RECORD", "KERNEL", "LOADS"}),
        (Event.BALANCING, {"KERNEL"}),
        (Event.SYNCED, {"LINKS_RECORD", "SERVICES_RECORD", "KERNEL"}),
        (Event.DELETING, {"KERNEL"}),
        (Event.LINKS, {"LINKS_RECORD"}),
        (Event.PATHS, {"LINKS_RECORD", "KERNEL", "LOADS"}),
        (Event.ADDRESSES, {"LINKS_RECORD", "SERVICES_RECORD", "KERNEL"}),
        (Event.HEALTH, {"SERVICES_RECORD", "KERNEL"}),
        (Event.SUSPENSIONS, {"KERNEL"}),
        (Event.LOADS, {"LOADS", "REPORTED"}),
    ],
)
def test_what_each_event_makes_dirty(event: Event, flags: set[str]) -> None:
    marks = Marks()
    marks.note(event)
    assert {flag.name for flag in Dirty if marks.has(flag)} == flags


def test_every_event_makes_something_dirty() -> None:
    assert set(MAKES_DIRTY) == set(Event)
    assert all(MAKES_DIRTY.values())


def test_what_is_taken_is_clean_and_the_rest_stays() -> None:
    marks = Marks()
    assert not marks.take(Dirty.KERNEL)
    marks.note(Event.HEALTH)
    marks.note(Event.HEALTH)
    assert marks.take(Dirty.KERNEL | Dirty.LOADS) == Dirty.KERNEL
    assert not marks.has(Dirty.KERNEL)
    assert marks.take(Dirty.LINKS_RECORD | Dirty.SERVICES_RECORD) == Dirty.SERVICES_RECORD
    assert not marks.has(~Dirty(0))


def test_a_host_that_booted_arrives_when_it_is_in_sync_and_ready_and_has_its_routes() -> None:
    life = Life(10.0, arriving=True)
    assert life.speaks, "to say that it may not be used"
    assert not Life(10.0).speaks
    life = life.step(10.0, seen(reachable=True))
    assert life.synced
    assert life.arriving, "the routes that were looked at are those of before sync"
    life = life.step(10.1, WELL)
    assert life.arriving, "the kernel was never made so"
    life = life.applied()
    assert life.step(10.2, seen(reachable=False)).arriving
    assert life.deadline(11.5, loads=False) <= 11.6, "it is looked at again soon"
    assert not life.step(10.2, WELL).arriving
    assert not life.step(40.0, seen(reachable=False)).arriving, "not for ever"
    assert Life(10.0).step(10.0, WELL).applied().step(10.1, WELL).arriving is False
