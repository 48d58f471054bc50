"""Changes of our kernel objects that somebody else made: found by comparing one run with the next. Pure.

A key that was right at the end of a run and is wanted as it was, and yet differs when it is looked at again, was
changed by somebody else. So was a key that nobody wanted, and that was not there.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from skedge.core.desired.reconcile import KindReport
from skedge.core.desired.render import describe

REMOVED, CHANGED, ADDED = "removed", "changed", "added"
RECENT_S = 600.0  # for how long what was repaired is told
_RECENT_MAX = 64  # changes of one kind


@dataclass(frozen=True, slots=True)
class Drift:
    """One object that somebody else removed, changed or added; ``found`` is what was there, as one line."""

    kind: str
    key: str
    what: str
    found: str = ""

    def __str__(self) -> str:
        """Return it as a sentence's part."""
        return f"{self.kind} {self.key} was {self.what}" + (f" ({self.found})" if self.found else "")


@dataclass
class DriftBook:
    """What was right when the last run ended, and what others have changed since, by kind."""

    totals: Counter[str] = field(default_factory=Counter)
    _right: dict[str, dict[Any, Any]] = field(default_factory=dict)
    _rests_on: dict[str, Hashable] = field(default_factory=dict)
    _left: dict[str, frozenset[Any]] = field(default_factory=dict)
    _recent: dict[str, deque[tuple[float, Drift]]] = field(default_factory=dict)

    def take(self, now: float, reports: Mapping[str, KindReport[Any]]) -> tuple[Drift, ...]:
        """Compare a run with the one before; return what others had changed. ``now``: monotonic seconds."""
        found: list[Drift] = []
        for kind, report in reports.items():
            if report.unread is not None:
                continue  # as it was
            if report.rests_on == self._rests_on.setdefault(kind, report.rests_on):
                found += self._compare(kind, report)
            self._rests_on[kind] = report.rests_on
            right = {key: value for key, value in report.wanted.items() if key not in report.failed}
            self._right[kind] = right
            self._left[kind] = frozenset({*right, *report.held_back, *report.failed})
        for drift in found:
            self.totals[drift.kind] += 1
            self._recent.setdefault(drift.kind, deque(maxlen=_RECENT_MAX)).append((now, drift))
        return tuple(found)

    def _compare(self, kind: str, report: KindReport[Any]) -> list[Drift]:
        right = self._right.get(kind)
        if right is None:
            return []  # the first look of this process: it cannot know who changed what
        found = []
        for key, value in right.items():
            if report.wanted.get(key) != value or key in report.fallen:
                continue
            if key not in report.before:
                found.append(Drift(kind, describe(key), REMOVED))
            elif report.before[key] != value and (key in report.changed or key in report.failed):
                found.append(Drift(kind, describe(key), CHANGED, describe(report.before[key])))
        added = report.before.keys() - self._left[kind] - report.wanted.keys()
        found += [Drift(kind, describe(key), ADDED, describe(report.before[key])) for key in sorted(added, key=str)]
        return found

    def recent(self, now: float) -> Mapping[str, tuple[tuple[float, Drift], ...]]:
        """Return what others changed in the last `RECENT_S` seconds, oldest first, by kind: when, and what."""
        return {
            kind: told
            for kind, times in self._recent.items()
            if (told := tuple((at, drift) for at, drift in times if now - at < RECENT_S))
        }
