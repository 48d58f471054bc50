"""Measuring in rounds: every way once a round, in random order, and more rounds until the targets are decided."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from tests.bench.judge import LEAST, Round, Rule, Verdict
from tests.lab.sh import LabError, say

LOOK_AGAIN = 1.5  # rounds until the next look at the intervals: looking after each would find chance findings


class Series:
    """One thing that is measured in several ways, and the rows that are made of it."""

    def __init__(
        self,
        label: str,
        ways: Mapping[str, Callable[[], list[float]]],
        rules: Sequence[Rule] = (),
        base: str = "direct",
    ) -> None:
        """Take what measures each way; without the way ``base`` there is nothing to compare with."""
        self.label, self.ways, self.base = label, dict(ways), base
        self.all_rules = tuple(rules)
        self.rounds: list[Round] = []
        self.unable: list[str] = []
        self._order = random.Random(1)

    @property
    def rules(self) -> list[Rule]:
        """The rows whose ways are all able."""
        return [rule for rule in self.all_rules if rule.applies(self.ways)]

    def round(self, keep: bool = True) -> None:
        """Measure every way once, in a new order; a way that cannot carry this to its end takes no further part.

        Raises:
            LabError: the way ``base`` cannot.
        """
        found: dict[str, list[float]] = {}
        for name in self._order.sample(sorted(self.ways), len(self.ways)):
            try:
                found[name] = self.ways[name]()
            except LabError as error:
                if name == self.base:
                    raise
                say(str(error))
                self.unable.append(name)
        self.ways = {name: way for name, way in self.ways.items() if name not in self.unable}
        if keep:
            self.rounds.append(found)

    def undecided(self) -> list[str]:
        """Return the rows that have a target which is neither met nor missed."""
        rules = [rule for rule in self.rules if rule.target]
        return [rule.what for rule in rules if rule.verdict(self.rounds) == Verdict.UNDECIDED]

    def median(self, way: str, column: int) -> float:
        """Return the median over the rounds of one number of a way."""
        return statistics.median(one[way][column] for one in self.rounds)


class Budget:
    """The time of a run, shared out evenly among its parts; what one part leaves is there for those that follow."""

    def __init__(self, seconds: float, parts: int, now: float) -> None:
        self._end, self._parts = now + seconds, parts

    def next_end(self, now: float) -> float:
        """Return when the next part has to end."""
        share = max(0.0, self._end - now) / max(1, self._parts)
        self._parts -= 1
        return now + share


def measure(
    series: Sequence[Series], least: int, end: float, clock: Callable[[], float] = time.monotonic, warm_up: bool = True
) -> None:
    """Measure rounds of all series, then more of those that are not decided, until they are or the time is up.

    The series take turns round by round, so that a minute in which the machine was busy falls on all of them.

    Args:
        series: what to measure; those without a target have ``least`` rounds.
        least: rounds that are measured however long they take.
        end: no round begins after this time of the clock, but for the least.
        clock: seconds.
        warm_up: whether a first round of each is thrown away.
    """
    if warm_up:
        for one in series:
            one.round(keep=False)
    done, look, going = 0, max(least, LEAST), list(series)
    while going and (done < least or clock() < end):
        for one in going:
            one.round()
        done += 1
        if done == least:
            going = [one for one in going if any(rule.target for rule in one.rules)]
        if done >= look:
            rows = {one: one.undecided() for one in going}
            going = [one for one in going if rows[one]]
            if going:
                say(f"bench: not decided after {done} rounds: {'; '.join(row for one in going for row in rows[one])}")
            look = math.ceil(look * LOOK_AGAIN)
