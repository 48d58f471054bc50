"""What clients saw of each fault, and whether that is within its bounds. Pure: times are CLOCK_MONOTONIC's, seconds.

A client's trouble belongs to the fault in whose time it began.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NOT_AT_ONCE_S = 0.5  # less is a busy machine


@dataclass(frozen=True)
class Bounds:
    """The most that clients may see of a fault; None is any.

    Attributes:
        failed: connects that failed.
        lost: held connections that ended.
        stall: the longest that a held connection stood still, in seconds.
        again: seconds from the fault, and from its end, after which all who came were served at once.
        served: the longest that a new connection took to be served, in seconds.
    """

    failed: int | None = 0
    lost: int | None = 0
    stall: float | None = None
    again: float | None = None
    served: float | None = None


@dataclass(frozen=True)
class Episode:
    """One fault that was made: its time is from ``start`` to the next one's; ``mended`` is when it was taken back.

    ``trouble`` is why the network was not itself again afterwards, empty if it was.
    """

    fault: str
    start: float
    mended: float
    bounds: Mapping[str, Bounds] = field(default_factory=dict)  # by service; of others nothing may be seen
    trouble: str = ""


@dataclass
class Row:
    """What the clients of one service saw of one episode."""

    episode: Episode
    service: str
    failed: int = 0
    lost: int = 0
    stall: float = 0.0
    again: float = 0.0
    served: float = 0.0
    why: Counter[str] = field(default_factory=Counter)

    def not_served(self, began: float) -> None:
        """Note that one who came then was not served at once."""
        since = self.episode.start if began < self.episode.mended else self.episode.mended
        self.again = max(self.again, began - since)

    def beyond(self, slack: float = 1.0) -> list[str]:
        """Return what is out of bounds; with `slack`, times may be so many times as long."""
        bounds, found = self.episode.bounds.get(self.service, Bounds()), []
        for name, times in (("failed", 1.0), ("lost", 1.0), ("stall", slack), ("again", slack), ("served", slack)):
            limit = getattr(bounds, name)
            if limit is not None and getattr(self, name) > limit * times:
                found.append(name)
        return [*found, *([self.episode.trouble] if self.episode.trouble else [])]


def rows(service: str, episodes: Sequence[Episode], rate: Mapping[str, Any], pulse: Mapping[str, Any]) -> list[Row]:
    """Return a service's row for each episode.

    Args:
        service: whose clients these are.
        episodes: in the order of their starts; what was before the first is of starting up.
        rate: what tests/workloads/rate.py said.
        pulse: what tests/workloads/steady.py said.
    """
    made = [Row(one, service) for one in episodes]

    def at(when: float) -> Row:
        return next((row for row in reversed(made) if row.episode.start <= when), before)

    before = Row(Episode("before", 0.0, 0.0), service)
    for began, why in rate["failures"]:
        row = at(rate["started"] + began)
        row.failed += 1
        row.why[why] += 1
        row.not_served(rate["started"] + began)
    for when, why in pulse["unopened"]:
        at(when).failed += 1
        at(when).why[why] += 1
    for when, why in pulse["lost"]:
        at(when).lost += 1
        at(when).why[why] += 1
    for began, took in rate["slow"]:
        row = at(rate["started"] + began)
        row.served = max(row.served, took)
        if took > NOT_AT_ONCE_S:
            row.not_served(rate["started"] + began)
    for asked, took in pulse["stalls"]:
        at(asked).stall = max(at(asked).stall, took)
    return made
