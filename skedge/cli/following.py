"""`skedge show … --follow`: a line for each placement as it happens, by asking again and again for what is new."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from skedge.core.report import Answer, ConnectionRow, Request

ASK_S = 0.3
OVERLAP_S = 2.0  # a placement may be seen after one that was made later


def placements(ask: Callable[[Request], Answer], wanted: Request, since: float) -> Iterator[ConnectionRow]:
    """Yield every connection that is placed from now on and still open at the next look, in order, for ever.

    Args:
        ask: sends a request to the controller.
        wanted: the request, whose filters hold.
        since: seconds since boot, as the kernel's monotonic clock counts.
    """
    seen: dict[tuple[str, str, float], float] = {}
    start = since
    while True:
        began = time.monotonic()
        rows = ask(_request(wanted, since)).rows
        fresh = [row for row in (rows.connections if rows else None) or () if _key(row) not in seen]
        for row in sorted(fresh, key=lambda row: row.placed_s):
            seen[_key(row)] = row.placed_s
            yield row
        since = max(start, began - OVERLAP_S)
        seen = {one: placed for one, placed in seen.items() if placed >= since}
        time.sleep(ASK_S)


def _request(wanted: Request, since: float) -> Request:
    """Return the request for what was placed since then."""
    return Request(
        "show",
        what="connections",
        limit=wanted.limit,
        service=wanted.service,
        workload=wanted.workload,
        client=wanted.client,
        since=since,
    )


def _key(row: ConnectionRow) -> tuple[str, str, float]:
    """Return what a placement is told from others by; the client is not known before its socket is bound."""
    return row.workload, row.listener, row.placed_s
