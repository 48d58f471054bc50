"""Follows the far ends of wireguard links, which may change their key and their address."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from skedge.core.model import LinkId
from skedge.core.state import TunnelFacts
from skedge.daemon.worker import Worker


class Tunnels:
    """What the wireguard links of this site do, as last looked at."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.facts: Mapping[LinkId, TunnelFacts] = {}

    async def run(self) -> None:
        """Look again and again, on the kernel's thread."""
        while True:
            self.facts, wait_s = await self._worker.call(self._worker.kernel.tend)
            await asyncio.sleep(wait_s)
