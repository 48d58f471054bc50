"""Placements as they happen: what is new at each look, of what is placed and still open (pure)."""

from __future__ import annotations

from collections.abc import Iterable

from skedge.core.api.shown import ConnectionRow

OVERLAP_S = 2.0  # a placement may be seen after one that was made later


class Following:
    """Remembers which placements were seen; ``since`` is from when the next look should ask (seconds since boot)."""

    def __init__(self, since: float) -> None:
        self.since = self._start = since
        self._seen: dict[tuple[str, str, float], float] = {}

    def fresh(self, rows: Iterable[ConnectionRow], began: float) -> list[ConnectionRow]:
        """Return those of a look that no look before had, in the order of their placement.

        Args:
            rows: what was placed since `since`.
            began: when the look began, seconds since boot.
        """
        found = sorted((row for row in rows if _key(row) not in self._seen), key=lambda row: row.placed_s)
        self._seen.update((_key(row), row.placed_s) for row in found)
        self.since = max(self._start, began - OVERLAP_S)
        self._seen = {one: placed for one, placed in self._seen.items() if placed >= self.since}
        return found


def _key(row: ConnectionRow) -> tuple[str, str, float]:
    """Return what a placement is told from others by; the client is not known before its socket is bound."""
    return row.workload, row.listener, row.placed_s
