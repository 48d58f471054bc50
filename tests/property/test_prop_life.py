"""The controller's life under any course of events: what it never does too early, and that it gets on."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from skedge.daemon.loop.life import (
    DELETE_WAIT_S,
    HEALTH_WAIT_S,
    LOAD_WAIT_S,
    PROBE_WAIT_S,
    UNSYNCED_LOOK_S,
    Life,
    Phase,
    Seen,
    entered,
)

TIMES = st.floats(0.0, 1e6)
PAUSES = st.one_of(st.floats(0.0, 0.1), st.floats(0.0, 3.0), st.floats(0.0, 200.0), st.just(0.0))
SEEN = st.builds(Seen, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([0.0, 1.0, 5.0, 120.0]))
COURSES = st.lists(st.tuples(PAUSES, SEEN), max_size=20)


def course(life: Life, steps: list[tuple[float, Seen]]) -> list[tuple[float, Seen, Life]]:
    """Let a life go on; return each moment of it."""
    now, found = life.started, []
    for pause, seen in steps:
        now += pause
        life = life.step(now, seen)
        found.append((now, seen, life))
    return found


@given(TIMES, COURSES)
def test_a_life_only_goes_forward_and_through_every_phase(start: float, steps: list[tuple[float, Seen]]) -> None:
    before, phases = Life(start), [Phase.STARTED]
    for _, _, life in course(before, steps):
        assert life.phase >= before.phase
        assert life.started == start
        assert (life.synced_at == before.synced_at) if before.synced else True
        phases += entered(before, life)
        before = life
    assert phases == list(Phase)[: len(phases)]


@given(TIMES, COURSES)
def test_nothing_is_deleted_before_sync_and_the_wait_after_it(start: float, steps: list[tuple[float, Seen]]) -> None:
    synced_at = inf
    for now, _, life in course(Life(start), steps):
        synced_at = min(synced_at, now) if life.synced else synced_at
        assert not life.deleting or now >= synced_at + DELETE_WAIT_S
        assert not life.loads_whole(now) or now >= synced_at + LOAD_WAIT_S
        assert life.deleting or now < synced_at + DELETE_WAIT_S, "and it is not put off"


@given(TIMES, COURSES)
def test_sync_comes_when_nothing_is_waited_for_and_only_then(start: float, steps: list[tuple[float, Seen]]) -> None:
    before = Life(start)
    for now, seen, life in course(before, steps):
        age = now - start
        health = seen.health_known or age > HEALTH_WAIT_S
        links = not seen.waiting and (not seen.undecided or age >= PROBE_WAIT_S)
        if not before.synced:
            assert life.synced == (health and (links or age >= seen.hold_s))
        if not before.balancing:
            assert life.balancing == health
        before = life


@given(TIMES, COURSES)
def test_a_second_step_at_the_same_moment_changes_nothing(start: float, steps: list[tuple[float, Seen]]) -> None:
    for now, seen, life in course(Life(start), steps):
        assert life.step(now, seen) == life


@given(TIMES, COURSES)
def test_after_a_step_no_deadline_is_over(start: float, steps: list[tuple[float, Seen]]) -> None:
    """So the loop never turns without a pause; what is due for reported load is done in the same step."""
    for now, _, life in course(Life(start), steps):
        assert life.deadline(now, loads=False) > now
        assert life.deadline(now, loads=True) > now or life.loads_whole(now)
        assert life.deleting or life.deadline(now, loads=False) < inf, "something is still to come"


@given(TIMES, st.floats(0.0, 20.0), st.integers(0, 2**32))
def test_a_life_that_steps_at_its_deadlines_deletes_within_the_hold_time(start: float, hold: float, seed: int) -> None:
    """Whatever neighbours, probes and health checks do or leave undone."""
    random, now, life = Random(seed), start, Life(start)
    late = start + max(hold, HEALTH_WAIT_S) + DELETE_WAIT_S + 2 * UNSYNCED_LOOK_S
    while not life.deleting:
        assert now <= late
        seen = Seen(random.random() < 0.1, random.random() < 0.9, random.random() < 0.9, hold)
        life = life.step(now, seen)
        now = life.deadline(now, loads=False)


@given(TIMES, st.lists(COURSES, min_size=2, max_size=4))
def test_every_life_waits_anew(start: float, lives: list[list[tuple[float, Seen]]]) -> None:
    """A restart takes nothing along from the life before, not even from one that was killed while it deleted."""
    for steps in lives:
        life = Life(start)
        assert (life.phase, life.ready, life.synced_at) == (Phase.STARTED, False, inf)
        for now, _, after in course(life, steps):
            assert not after.deleting or now >= life.started + DELETE_WAIT_S
            start = now


# ---- against the same rules, written with flags -----------------------------------------------------------


@dataclass
class Flags:
    """The life as it was before it was a machine: flags that each step of the loop looks at."""

    started: float
    balancing: bool = False
    synced: bool = False
    deleting: bool = False
    delete_from: float = inf
    load_from: float = inf
    done: list[str] = field(default_factory=list)

    def settle(self, now: float, seen: Seen) -> None:
        age = now - self.started
        known = seen.health_known or age > HEALTH_WAIT_S
        undecided = seen.undecided if age < PROBE_WAIT_S else False
        if not self.synced and not ((seen.waiting or undecided) and age < seen.hold_s) and known:
            self.synced = True
            self.delete_from, self.load_from = now + DELETE_WAIT_S, now + LOAD_WAIT_S
        if not self.deleting and now >= self.delete_from:
            self.deleting = True
        if not self.balancing and known:
            self.balancing = True

    def deadline(self, now: float, *, others: bool) -> float:
        look = inf if self.synced and self.balancing else now + UNSYNCED_LOOK_S
        return min(look, self.load_from if others else inf, inf if self.deleting else self.delete_from)


@given(TIMES, COURSES)
def test_the_machine_and_the_flags_agree_at_every_moment(start: float, steps: list[tuple[float, Seen]]) -> None:
    flags = Flags(start)
    for now, seen, life in course(Life(start), steps):
        flags.settle(now, seen)
        assert (life.balancing, life.synced, life.deleting) == (flags.balancing, flags.synced, flags.deleting)
        assert life.loads_whole(now) == (now >= flags.load_from)
        for loads in (False, True):
            assert life.deadline(now, loads=loads) == flags.deadline(now, others=loads)
