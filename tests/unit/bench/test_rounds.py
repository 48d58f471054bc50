"""Which rounds are measured: the least, then more of what is not decided, within the time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from tests.bench.judge import LEAST, Rule, Verdict
from tests.bench.rounds import Budget, Series, measure
from tests.lab.sh import LabError


class Machine:
    """Ways that take a second each, and note the order in which they are measured."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seen: list[str] = []

    def way(self, name: str, number: Callable[[], float]) -> Callable[[], list[float]]:
        """Return a way that measures this number."""

        def once() -> list[float]:
            self.now += 1
            self.seen.append(name)
            return [number()]

        return once

    def series(self, label: str, number: Callable[[], float], target: str = "<= 1.02") -> Series:
        """Return a comparison whose ratio is this number."""
        rule = Rule(f"{label}: through / direct", ("through",), ("direct",), target)
        ways = {"direct": self.way(f"{label} direct", lambda: 1.0), "through": self.way(f"{label} through", number)}
        return Series(label, ways, [rule])


@pytest.fixture
def machine() -> Machine:
    return Machine()


def scattered(middle: float) -> Callable[[], float]:
    chance = random.Random(5)
    return lambda: middle * chance.lognormvariate(0, 0.2)


def test_what_is_decided_is_not_run_again_and_what_is_not_has_more_rounds(machine: Machine) -> None:
    clear, near = machine.series("clear", lambda: 0.9), machine.series("near", scattered(1.02))
    measure([clear, near], least=15, end=200, clock=lambda: machine.now)
    assert len(clear.rounds) == 15
    assert len(near.rounds) > 50
    assert machine.now == pytest.approx(200, abs=2)
    assert (clear.undecided(), near.undecided()) == ([], ["near: through / direct"])


def test_rounds_end_as_soon_as_all_is_decided(machine: Machine) -> None:
    series = machine.series("clear", lambda: 1.5)
    measure([series], least=10, end=2000, clock=lambda: machine.now)
    assert len(series.rounds) == 10
    assert series.rules[0].verdict(series.rounds) == Verdict.MISSED


def test_a_row_that_scatters_is_decided_by_more_rounds(machine: Machine) -> None:
    series = machine.series("far", scattered(0.95))
    measure([series], least=LEAST, end=2000, clock=lambda: machine.now)
    assert len(series.rounds) > LEAST
    assert series.rules[0].verdict(series.rounds) == Verdict.MET


@pytest.mark.parametrize("least", [1, 2, 15])
def test_the_least_rounds_are_measured_whatever_the_time(machine: Machine, least: int) -> None:
    series = machine.series("near", scattered(1.02))
    measure([series], least=least, end=0, clock=lambda: machine.now)
    assert len(series.rounds) == least
    assert len(machine.seen) == 2 * (least + 1)  # one round warms up


def test_without_a_target_the_least_is_enough(machine: Machine) -> None:
    shown, near = machine.series("shown", scattered(1.02), target=""), machine.series("near", scattered(1.02))
    measure([shown, near], least=3, end=500, clock=lambda: machine.now)
    assert len(shown.rounds) == 3
    assert len(near.rounds) > 100


def test_all_ways_of_a_series_follow_one_another_within_each_round_in_changing_order(machine: Machine) -> None:
    one, other = machine.series("a", scattered(1.02)), machine.series("b", scattered(1.02))
    measure([one, other], least=12, end=0, clock=lambda: machine.now)
    pairs = list(zip(machine.seen[::2], machine.seen[1::2], strict=True))
    assert all({a.split()[1], b.split()[1]} == {"direct", "through"} for a, b in pairs)
    assert [a.split()[0] for a, _ in pairs] == ["a", "b"] * 13
    assert {a for a, _ in pairs} == {"a direct", "a through", "b direct", "b through"}


def failing(after: int) -> Callable[[], list[float]]:
    def numbers() -> Iterator[float]:
        yield from [0.9] * after
        raise LabError("does not answer")

    found = numbers()
    return lambda: [next(found)]


def test_a_way_that_fails_takes_no_further_part_and_its_rows_go(machine: Machine) -> None:
    rules = [Rule("proxy / direct", ("proxy",), ("direct",), ">= 9"), Rule("x", ("skedge",), ("direct",), "<= 1")]
    ways = {"direct": machine.way("direct", lambda: 1.0), "proxy": failing(4), "skedge": lambda: [0.5]}
    series = Series("lan", ways, rules)
    measure([series], least=10, end=2000, clock=lambda: machine.now)
    assert series.unable == ["proxy"]
    assert [rule.what for rule in series.rules] == ["x"]
    assert series.undecided() == []
    assert series.median("skedge", 0) == 0.5


def test_without_what_all_is_compared_with_nothing_is_measured() -> None:
    series = Series("lan", {"direct": failing(2), "skedge": lambda: [1.0]})
    with pytest.raises(LabError, match="does not answer"):
        measure([series], least=5, end=0)


def test_time_that_one_part_leaves_is_there_for_the_next() -> None:
    budget = Budget(300, 3, now=1000)
    assert budget.next_end(1000) == 1100
    assert budget.next_end(1010) == pytest.approx(1010 + 145)
    assert budget.next_end(1350) == 1350  # the time is up: the least rounds, no more
