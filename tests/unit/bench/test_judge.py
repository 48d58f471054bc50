"""Intervals over rounds, and what they say about a target."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.judge import LEAST, Interval, Rule, Target, Verdict, interval

VALUES = st.lists(st.floats(0.01, 100), min_size=1, max_size=40)


def rounds(seed: int, count: int, cost: float, scatter: float, drift: float = 1.0) -> list[dict[str, list[float]]]:
    """Return rounds of two ways whose common speed drifts, and whose ratio is ``cost`` but for chance."""
    chance, made = random.Random(seed), []
    for number in range(count):
        busy = drift ** (number / count) * chance.uniform(1, 3)  # falls on both ways of a round
        one, other = (chance.lognormvariate(0, scatter) for _ in range(2))
        made.append({"direct": [100 * busy * one], "through": [100 * busy * other * cost]})
    return made


RULE = Rule("round trip, through / direct", ("through",), ("direct",), "<= 1.02")


@given(VALUES, st.integers(0, 9))
def test_an_interval_holds_its_value_and_lies_within_the_rounds(values: list[float], seed: int) -> None:
    found = interval(values, resamples=200, seed=seed)
    assert min(values) <= found.low <= found.value <= found.high <= max(values)
    assert found.value == statistics.median(values)
    assert found == interval(values, resamples=200, seed=seed)


@given(VALUES, st.floats(0.5, 2))
def test_an_interval_has_the_unit_of_its_rounds(values: list[float], factor: float) -> None:
    found, scaled = (interval(v, resamples=200) for v in (values, [factor * value for value in values]))
    assert (scaled.low, scaled.high) == pytest.approx((factor * found.low, factor * found.high))


@given(VALUES)
def test_more_confidence_never_makes_an_interval_narrower(values: list[float]) -> None:
    wide, narrow = (interval(values, share=share, resamples=200) for share in (0.99, 0.8))
    assert wide.low <= narrow.low
    assert narrow.high <= wide.high


def test_the_same_rounds_again_and_again_are_certain() -> None:
    assert interval([1.5] * 9) == Interval(1.5, 1.5, 1.5)


def test_without_a_round_there_is_no_interval() -> None:
    with pytest.raises(ValueError, match="no round"):
        interval([])


@pytest.mark.parametrize(("share", "least", "most"), [(0.99, 0.95, 1.0), (0.8, 0.68, 0.95)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(share: float, least: float, most: float) -> None:
    def covers(seed: int) -> bool:
        found = interval([RULE.of(one) for one in rounds(seed, 15, 1.1, 0.05)], share=share, resamples=400)
        return found.low <= 1.1 <= found.high

    covered = sum(covers(seed) for seed in range(300)) / 300
    assert least <= covered <= most


def test_the_mean_counts_what_happens_now_and_then() -> None:
    values = [1.0] * 20 + [9.0] * 4
    assert interval(values).high < 2 < interval(values, statistics.fmean).value


@pytest.mark.parametrize(
    ("words", "low", "high", "verdict"),
    [
        ("<= 1.02", 0.99, 1.02, Verdict.MET),
        ("<= 1.02", 0.99, 1.021, Verdict.UNDECIDED),
        ("<= 1.02", 1.021, 1.1, Verdict.MISSED),
        (">= 0.94", 0.94, 0.99, Verdict.MET),
        (">= 0.94", 0.939, 0.94, Verdict.UNDECIDED),
        (">= 0.94", 0.9, 0.939, Verdict.MISSED),
        ("< 1", 0.9, 1.0, Verdict.UNDECIDED),
        ("< 1", 1.0, 1.1, Verdict.MISSED),
        ("> 1", 1.0, 1.1, Verdict.UNDECIDED),
        ("> 1", 1.01, 1.1, Verdict.MET),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(words: str, low: float, high: float, verdict: Verdict) -> None:
    assert Target(words).verdict(Interval(low, (low + high) / 2, high), LEAST) == verdict


@given(st.floats(0.5, 2), st.floats(0.5, 2), st.sampled_from(["<= 1.02", ">= 0.94", "< 1", "> 1"]))
def test_a_verdict_agrees_with_every_value_of_the_interval(one: float, other: float, words: str) -> None:
    low, high, target = min(one, other), max(one, other), Target(words)
    verdict = target.verdict(Interval(low, (low + high) / 2, high), LEAST)
    between = {target.holds(low + (high - low) * part / 10) for part in range(11)} | {target.holds(high)}
    assert {Verdict.MET: {True}, Verdict.MISSED: {False}, Verdict.UNDECIDED: {True, False}}[verdict] == between


def test_few_rounds_decide_nothing() -> None:
    assert Target("<= 1").verdict(Interval(0.1, 0.1, 0.1), LEAST - 1) == Verdict.UNDECIDED


def test_a_busy_machine_shifts_no_ratio_made_within_the_rounds() -> None:
    found = RULE.interval(rounds(1, 15, 0.98, 0.005, drift=10.0))
    assert found.low <= 0.98 <= found.high
    assert found.high - found.low < 0.02


@pytest.mark.parametrize(("cost", "wrong"), [(0.99, Verdict.MISSED), (1.05, Verdict.MET)])
def test_chance_never_turns_a_verdict_round_and_rounds_decide_it(cost: float, wrong: Verdict) -> None:
    few = [RULE.verdict(rounds(seed, 10, cost, 0.05)) for seed in range(20)]
    many = [RULE.verdict(rounds(seed, 300, cost, 0.05)) for seed in range(5)]
    assert wrong not in few + many
    assert Verdict.UNDECIDED in few
    assert Verdict.UNDECIDED not in many


def test_versions_are_compared_by_what_each_costs_over_its_own_direct() -> None:
    rule = Rule("new / old", ("new", "old direct"), ("old", "new direct"), "<= 1.02", column=1)
    one = {"new": [0, 33.0], "new direct": [0, 30.0], "old": [0, 22.0], "old direct": [0, 20.0]}
    assert rule.of(one) == pytest.approx(1.0)
    assert rule.applies(one)
    assert not rule.applies(one.keys() - {"old"})


def test_a_rule_over_nothing_is_the_number_itself() -> None:
    assert Rule("share", ("controller",), column=1).of({"controller": [5, 0.8]}) == 0.8
