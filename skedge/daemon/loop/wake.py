"""What ends the controller's wait: every event does, and several that come together are answered as one."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Wake:
    """Between those who change the controller's state and the task that draws the consequences: one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """End the wait that is on, or the next one."""
        self._event.set()

    async def wait(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds; even when there is nothing to wait for, other tasks get their turn."""
        if self._event.is_set():
            await asyncio.sleep(0)
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, timeout)):
                    await self._event.wait()
        self._event.clear()
