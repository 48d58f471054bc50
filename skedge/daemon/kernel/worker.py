"""The one thread that talks to the kernel, so that the loop never waits for it. Newest wish first, one at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from skedge.core.desired.compute import Desired
from skedge.core.model import SiteConfig
from skedge.daemon.kernel.kernel import Applied, Kernel

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger("skedge.kernel")

RETRY_S = 1.0
DRAIN_S = 5.0  # what is left of another engine goes soon after its last connection
FULL_S = 60.0  # a full read-and-compare at least so often: state that can drift is re-read


class Worker:
    """Runs `Kernel` calls in order on its own thread; reconcile wishes that pile up are merged into the newest."""

    def __init__(self, kernel: Kernel, on_applied: Callable[[Applied, float], None]) -> None:
        self.kernel = kernel
        self._on_applied = on_applied
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kernel")
        self._wish: tuple[SiteConfig, Desired, bool] | None = None
        self._wanted = asyncio.Event()
        self.busy_since: float | None = None

    def want(self, config: SiteConfig, desired: Desired, *, allow_delete: bool) -> None:
        """Set what the kernel should hold from now on."""
        self._wish = (config, desired, allow_delete)
        self._wanted.set()

    def again(self) -> None:
        """Compare again with what was last wanted (the kernel changed under us)."""
        if self._wish is not None:
            self._wanted.set()

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one call on the thread and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    async def run(self) -> None:
        """Reconcile whenever something is wanted, after a failure a second later, and every minute anyway."""
        timeout = FULL_S
        while True:
            try:
                async with asyncio.timeout(timeout):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            if self._wish is None:
                continue
            config, desired, allow_delete = self._wish
            self.busy_since = started = time.monotonic()
            applied = await self.call(self.kernel.apply, config, desired, allow_delete=allow_delete)
            self.busy_since = None
            timeout = RETRY_S if applied.failed else DRAIN_S if applied.draining else FULL_S
            for key, text in applied.failed.items():
                log.warning("op=reconcile key=%r failed=%r", key, text)
            if applied.changed:
                log.info("op=reconcile changed=%d first=%r", len(applied.changed), applied.changed[0])
            self._on_applied(applied, time.monotonic() - started)

    def close(self) -> None:
        """Let the running call end; nothing is undone in the kernel."""
        self._thread.shutdown(wait=True, cancel_futures=True)
