"""The one queue through which everything reaches the one task that owns all state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import ParamSpec

P = ParamSpec("P")
log = logging.getLogger("skedge.daemon")

BATCH = 512  # steps handled before the consequences are computed


class Inbox:
    """Steps to run in the owner's task, in order of arrival. `post` may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[Callable[[], object]] = asyncio.Queue()

    def post(self, step: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Queue one step; from the loop's own thread at once, from another by way of the loop."""
        call = partial(step, *args, **kwargs)
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._queue.put_nowait(call)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, call)

    async def run_some(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for a step, then run what is there, at most `BATCH` steps.

        A step that raises is logged and never stops the others.
        """
        steps: list[Callable[[], object]] = []
        if self._queue.empty():
            try:
                steps.append(await asyncio.wait_for(self._queue.get(), max(0.0, timeout)))
            except TimeoutError:
                return
        else:
            await asyncio.sleep(0)  # a full queue leaves the loop's other tasks their turn
        while len(steps) < BATCH and not self._queue.empty():
            steps.append(self._queue.get_nowait())
        for step in steps:
            try:
                step()
            except Exception:
                log.exception("a step of the inbox failed")
