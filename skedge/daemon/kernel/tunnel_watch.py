"""Follows the far ends of wireguard links, which may change their key and their address."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from skedge.core.model import LinkId
from skedge.core.observed import TunnelFacts
from skedge.daemon.kernel.worker import Worker


class Tunnels:
    """What the wireguard links of this site do, as last looked at."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._news = asyncio.Event()
        self.facts: Mapping[LinkId, TunnelFacts] = {}

    def look(self) -> None:
        """Look at once: a link came up or went down, or was changed, and what is shown of it is to be of now."""
        self._news.set()

    async def run(self) -> None:
        """Look again and again, on the kernel's thread."""
        while True:
            self._news.clear()
            self.facts, wait_s = await self._worker.call(self._worker.kernel.tend)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
