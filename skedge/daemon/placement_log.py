"""The journal of placements, where the site asks for it (``log_placements``): a line each, and never too many."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from skedge.core.api.new_placements import Following
from skedge.core.api.shown import ConnectionRow
from skedge.core.errors import SkedgeError
from skedge.daemon.api import rows
from skedge.daemon.api.filters import Filter
from skedge.daemon.kernel.worker import Worker
from skedge.daemon.state import State

log = logging.getLogger("skedge.placements")

LOOK_S = 0.5
LINES_MAX = 50  # a look
ROWS_MAX = 10_000


class PlacementLog:
    """Looks at what was placed twice a second, as `skedge show flows --follow` does; not at all while nothing was."""

    def __init__(self, worker: Worker, state: State) -> None:
        self._worker, self._state = worker, state
        self._following: Following | None = None
        self._chosen = 0

    async def run(self) -> None:
        """Look for ever. What cannot be read is said by the counting rounds, and looked at again."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except SkedgeError:
                continue

    async def look(self) -> None:
        """Log what was placed since the last look."""
        if not self._state.config.log_placements:
            self._following = None
            return
        chosen = sum(counts.chosen for counts in self._state.counts.values())
        if self._following is None:
            self._following = Following(time.monotonic())
        elif chosen == self._chosen:
            return
        began = time.monotonic()
        since = self._following.since
        receipts = self._worker.kernel.engine.connections(since)
        found = await self._worker.beside(rows.connections, receipts, ROWS_MAX, began, Filter(since=since))
        self._chosen = chosen
        write(self._following.fresh(found, began))


def write(placed: Sequence[ConnectionRow]) -> None:
    """Write a line a placement, up to the limit, and how many were left out."""
    for row in placed[:LINES_MAX]:
        log.info(
            "op=place client=%s listener=%s service=%s workload=%s perceived=%s path_cost=%d runner_up=%s reason=%s",
            *(row.client or "-", row.listener, f"{row.service}/{row.protocol}", row.workload),
            *(row.perceived, row.path_cost, row.runner_up or "-", row.reason),
        )
    if len(placed) > LINES_MAX:
        log.info("op=place left_out=%d", len(placed) - LINES_MAX)
