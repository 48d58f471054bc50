"""Connections are ended beside the loop, and beside the thread that programs routes: found, then ended at a rate."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from skedge.core.ending import Ender, Ending, batches, gap_s
from skedge.core.errors import DataplaneError
from skedge.core.reasons import Reason

log = logging.getLogger("skedge.daemon")


class Endings:
    """Ends connections by way of whoever holds them, on a thread of its own; ``ended`` counts them by reason."""

    def __init__(self, enders: Sequence[Ender]) -> None:
        self._enders = enders
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="endings")
        self.ended: Counter[Reason] = Counter()

    async def end(self, ending: Ending) -> int:
        """End what is meant now; return how many connections were ended.

        The log says how many were found, too: some end by themselves meanwhile, some cannot be ended (of IPVS). Whoever
        cannot be asked is logged as failed, and the others are asked.
        """
        began, found, ended = time.monotonic(), 0, 0
        for ender in self._enders:
            try:
                some, all_ = await self._end(ender, ending)
            except DataplaneError as error:
                log.error("op=end reason=%s what=%r failed=%r", ending.reason.word, ending.what, str(error))
                continue
            ended, found = ended + some, found + all_
        took = time.monotonic() - began
        log.info(
            "op=end reason=%s what=%r found=%d ended=%d took_s=%.2f",
            *(ending.reason.word, ending.what, found, ended, took),
        )
        return ended

    async def _end(self, ender: Ender, ending: Ending) -> tuple[int, int]:
        """Return how many of one holder's were ended, and how many were found. Raises DataplaneError."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._thread, ender.find, ending.selection)
        ended, due = 0, loop.time()
        for batch in batches(found, ending.rate):
            await asyncio.sleep(due - loop.time())
            due = loop.time() + gap_s(len(batch), ending.rate)
            number = await loop.run_in_executor(self._thread, ender.end, batch)
            self.ended[ending.reason] += number
            ended += number
        return ended, len(found)

    def close(self) -> None:
        """Let the running call end; what waits for its turn is not ended any more."""
        self._thread.shutdown(wait=True, cancel_futures=True)
