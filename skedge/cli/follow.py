"""`skedge show … --follow`: a line for each placement as it happens, by asking again and again for what is new."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from skedge.core.api.documents import Answer, Request
from skedge.core.api.new_placements import Following
from skedge.core.api.shown import ConnectionRow

ASK_S = 0.3


def placements(ask: Callable[[Request], Answer], wanted: Request, since: float) -> Iterator[ConnectionRow]:
    """Yield every connection that is placed from now on and still open at the next look, in order, for ever.

    Args:
        ask: sends a request to the controller.
        wanted: the request, whose filters hold.
        since: seconds since boot, as the kernel's monotonic clock counts.
    """
    following = Following(since)
    while True:
        began = time.monotonic()
        rows = ask(_request(wanted, following.since)).rows
        yield from following.fresh((rows.connections if rows else None) or (), began)
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
