"""What somebody else changed, found from one run to the next."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from skedge.core.desired.compute import Desired
from skedge.core.desired.drift import ADDED, CHANGED, RECENT_S, REMOVED, Drift, DriftBook
from skedge.core.desired.kinds import Kind
from skedge.core.desired.reconcile import reconcile_all
from skedge.core.model import SiteConfig
from tests.fakes.memory_driver import MemoryDriver

CONFIG = SiteConfig("net", "a", "100.64.0.0/10", "100.64.0.1", "fd00::1")
OBJECTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3), max_size=6)


class World:
    """One kind, its kernel, and who notes what happens to it."""

    def __init__(self) -> None:
        self.driver, self.book = MemoryDriver("rule"), DriftBook()
        self.wanted: dict[str, int] = {"a": 1, "b": 2}

    def run(self, now: float = 0.0) -> tuple[Drift, ...]:
        kind: Kind[Any, Any] = Kind("rule", self.driver, lambda _config, _desired, _held: dict(self.wanted))
        return self.book.take(now, reconcile_all((kind,), CONFIG, Desired()))


def test_what_the_site_itself_changes_is_no_drift() -> None:
    world = World()
    assert world.run() == ()
    world.wanted = {"b": 3, "c": 1}
    assert world.run() == ()
    assert world.run() == ()
    assert world.book.totals == {}


def test_removed_changed_and_added_objects_are_named_and_counted() -> None:
    world = World()
    world.run()
    world.driver.objects = {"b": 7, "x": 5}
    assert set(world.run()) == {
        Drift("rule", "a", REMOVED),
        Drift("rule", "b", CHANGED, "7"),
        Drift("rule", "x", ADDED, "5"),
    }
    assert world.book.totals == {"rule": 3}
    assert world.driver.objects == world.wanted
    assert world.run() == (), "it is back"
    assert str(Drift("rule", "b", CHANGED, "7")) == "rule b was changed (7)"


def test_the_first_look_of_a_process_blames_nobody() -> None:
    world = World()
    world.driver.objects = {"b": 7, "x": 5}
    assert world.run() == ()


def test_what_was_never_right_or_cannot_be_read_is_no_drift() -> None:
    world = World()
    world.driver.broken = {"a"}
    world.run()
    assert world.run() == (), "it is failing, and nobody took it away"
    world.driver.unreadable = True
    assert world.run() == ()
    world.driver.unreadable, world.driver.broken = False, set()
    assert world.run() == ()
    del world.driver.objects["a"]
    assert [drift.what for drift in world.run()] == [REMOVED]


def test_a_change_that_cannot_be_repaired_is_counted_once() -> None:
    world = World()
    world.run()
    del world.driver.objects["a"]
    world.driver.broken = {"a"}
    assert len(world.run()) == 1
    assert world.run() == (), "the failure itself is told while it lasts"


def test_recent_changes_are_remembered_for_some_minutes() -> None:
    world = World()
    world.run(0.0)
    for now in (10.0, 20.0):
        del world.driver.objects["a"]
        world.run(now)
    assert [at for at, _ in world.book.recent(21.0)["rule"]] == [10.0, 20.0]
    assert [at for at, _ in world.book.recent(15.0 + RECENT_S)["rule"]] == [20.0]
    assert world.book.recent(25.0 + RECENT_S) == {}


@given(OBJECTS, OBJECTS)
def test_every_difference_is_somebody_elses_and_none_is_missed(wanted: dict[str, int], found: dict[str, int]) -> None:
    world = World()
    world.wanted = wanted
    world.run()
    world.driver.objects = dict(found)
    differing = {key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)}
    assert {drift.key for drift in world.run()} == differing
    assert world.run() == ()
