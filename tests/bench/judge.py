"""Whether a target is met, as far as the rounds measured so far can say: bootstrap intervals and verdicts, no I/O.

A machine that others use as well shifts one round by more than the differences that matter, so a median alone passes or
fails by chance. A verdict is given only where the whole interval lies on one side of the target.
"""

from __future__ import annotations

import math
import operator
import random
import statistics
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

SHARE = 0.99  # rounds are added until the interval decides, so it is looked at several times: 95 % would err too often
RESAMPLES = 2000
LEAST = 8  # below this even the smallest and largest of n rounds do not enclose the median in SHARE of all cases

Round = Mapping[str, Sequence[float]]
Statistic = Callable[[Sequence[float]], float]
SIGNS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


class Verdict(StrEnum):
    """What an interval says about a target."""

    MET = "met"
    MISSED = "missed"
    UNDECIDED = "not decided"


@dataclass(frozen=True)
class Interval:
    """A statistic of the rounds, and the ends of its confidence interval."""

    low: float
    value: float
    high: float


def interval(
    values: Sequence[float],
    statistic: Statistic = statistics.median,
    *,
    share: float = SHARE,
    resamples: int = RESAMPLES,
    seed: int = 1,
) -> Interval:
    """Return the statistic and its percentile bootstrap interval.

    Args:
        values: one number a round; the rounds are resampled with replacement.
        statistic: what is made of the rounds, the median by default.
        share: confidence, 0 to 1.
        resamples: how many resamples are drawn.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: there is no round.
    """
    if not values:
        raise ValueError("no round was measured")
    order = random.Random(seed)
    found = sorted(statistic(order.choices(values, k=len(values))) for _ in range(resamples))
    cut, middle = int((1 - share) / 2 * resamples), statistic(values)
    return Interval(min(found[cut], middle), middle, max(found[-1 - cut], middle))


@dataclass(frozen=True)
class Target:
    """A bound, and the side of it that is good: ``<= 1.02``."""

    words: str

    def holds(self, value: float) -> bool:
        """Tell whether a value that is certain is on the good side."""
        sign, bound = self.words.split()
        return bool(SIGNS[sign](value, float(bound)))

    def verdict(self, found: Interval, rounds: int) -> Verdict:
        """Return what an interval of that many rounds says; fewer than ``LEAST`` say nothing."""
        ends = {self.holds(found.low), self.holds(found.high)}
        if rounds < LEAST or len(ends) == 2:
            return Verdict.UNDECIDED
        return Verdict.MET if ends == {True} else Verdict.MISSED


@dataclass(frozen=True)
class Rule:
    """One row of the benchmark that is made within a round: a product of ways' numbers over another."""

    what: str
    over: tuple[str, ...]
    under: tuple[str, ...] = ()
    target: str = ""
    column: int = 0
    unit: str = ""
    statistic: Statistic = statistics.median

    def applies(self, ways: Container[str]) -> bool:
        """Tell whether all the ways that this row compares are among some."""
        return all(way in ways for way in (*self.over, *self.under))

    def of(self, one: Round) -> float:
        """Return the row's number in one round."""
        over, under = (math.prod(one[way][self.column] for way in ways) for ways in (self.over, self.under))
        return over / under

    def interval(self, rounds: Sequence[Round]) -> Interval:
        """Return the row's number over the rounds, with its interval."""
        return interval([self.of(one) for one in rounds], self.statistic)

    def verdict(self, rounds: Sequence[Round]) -> Verdict:
        """Return whether the row's target is met, which it must have."""
        return Target(self.target).verdict(self.interval(rounds), len(rounds))
