"""Work beside the loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

log = logging.getLogger("skedge.daemon")

Work = Coroutine[object, object, object]


class Background:
    """Calls of the kernel that nobody waits for."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    def spawn(self, work: Work) -> None:
        """Start a call; what it raises is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("op=kernel failed=%r", str(error))


class Together:
    """Works that live and end together."""

    def __init__(self) -> None:
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End all of them."""
        self._stop.set()

    async def run(self, *works: Work) -> set[asyncio.Task[object]]:
        """Run all until `stop`, or until the first ends; return those that ended by themselves."""
        tasks = [asyncio.create_task(work) for work in works]
        stopped: asyncio.Task[object] = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, stopped):
            task.cancel()
        await asyncio.gather(*tasks, stopped, return_exceptions=True)
        return done - {stopped}
