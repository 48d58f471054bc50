"""The thread that programs the kernel, so that the loop never waits for it. Newest wish first, one at a time.

Two more wait for none of its comparisons: one does nothing but lead routes round a failure, and what only looks and
may take long runs on the other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import inf
from typing import ParamSpec, TypeVar

from skedge.core.desired.compute import Desired
from skedge.core.errors import DataplaneError
from skedge.core.model import SiteConfig
from skedge.core.objects import KernelRoute
from skedge.daemon.kernel.kernel import Applied, Kernel

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger("skedge.kernel")

RETRY_S = 1.0
DRAIN_S = 5.0  # what is left of another engine goes soon after its last connection
FULL_S = 60.0  # a full read-and-compare at least so often: state that can drift is re-read
GLANCE_SHARE = 0.01
GLANCE_S = 1.5  # a look at what the kernel does not announce; longer where it takes more than a hundredth of that
ECHO_S = 0.05  # announcements that come so soon after a run are most likely of its own changes
SETTLED_S = 2.0  # who waits for a run that does not end goes on
SPACE_S = 0.2  # between two runs that announcements ask for


class Worker:
    """Runs `Kernel` calls in order on its own thread; of what is wanted, only the newest counts."""

    def __init__(self, kernel: Kernel, on_applied: Callable[[Applied, float], None]) -> None:
        self.kernel = kernel
        self._on_applied = on_applied
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kernel")
        self._leading = ThreadPoolExecutor(1, thread_name_prefix="routes")
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="counting")
        self._desired: tuple[SiteConfig, Desired, bool] | None = None
        self._wanted, self._news, self._made = asyncio.Event(), asyncio.Event(), asyncio.Condition()
        self._asked_for = self._made_so = 0  # how often something was wanted, and which of these the last run was for
        self._due = inf
        self._ended = -inf
        self.busy_since: float | None = None
        self._told: dict[str, str] = {}

    def want(self, config: SiteConfig, desired: Desired, *, allow_delete: bool) -> None:
        """Set what the kernel should hold from now on."""
        self._desired = (config, desired, allow_delete)
        self._asked_for += 1
        self.kernel.want_routes(desired.routes)
        self._wanted.set()
        self._news.set()

    async def settled(self) -> None:
        """Wait until a run has ended that was for what is wanted now, or for something newer; or for a while."""
        asked = self._asked_for
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_S), self._made:
                await self._made.wait_for(lambda: self._made_so >= asked)

    def again(self) -> None:
        """Compare again with what was last wanted: the kernel announced a change.

        What is announced during a run or right after it is mostly that run's own doing: one look a moment later
        is enough to tell.
        """
        now = time.monotonic()
        own = self.busy_since is not None or now - self._ended < ECHO_S
        self._due = min(self._due, now + GLANCE_S if own else max(now, self._ended + SPACE_S))
        self._news.set()

    def lead(self, routes: Mapping[str, KernelRoute], keys: Collection[str]) -> None:
        """Lead the routes of these keys as ``routes`` says at once, whatever the thread is at; `want` them, too."""
        self.kernel.want_routes(routes)
        if keys:
            self._leading.submit(self._lead, keys, time.monotonic())

    def _lead(self, keys: Collection[str], asked: float) -> None:
        """Log what was done and how long it took; what could not be is for the run that follows."""
        began = time.monotonic()
        try:
            refused = len(self.kernel.lead(keys))
        except DataplaneError as error:
            log.warning("op=reroute failed=%r", str(error))
            return
        waited, took = (began - asked) * 1000, (time.monotonic() - began) * 1000
        log.info("op=reroute routes=%d refused=%d waited_ms=%.1f took_ms=%.1f", len(keys), refused, waited, took)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one call on the thread and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    async def beside(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one call that may take long, and that `call` need not wait for; return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._beside, lambda: function(*args, **kwargs))

    async def run(self) -> None:
        """Reconcile whenever something is wanted or was changed by others, after a failure, and every minute anyway."""
        full, glance = time.monotonic() + FULL_S, inf
        while True:
            if not self._wanted.is_set():
                await self._wait(min(full, glance, self._due))
            if self._desired is None:
                continue
            now = time.monotonic()
            if not self._wanted.is_set() and now < min(full, self._due):
                if now >= glance:
                    moved, took = await self.call(self._look)
                    glance = time.monotonic() + max(GLANCE_S, took / GLANCE_SHARE)
                    self._due = self._due if not moved else now
                continue
            applied = await self._apply(*self._desired)
            self._ended = time.monotonic()
            full = self._ended + (RETRY_S if applied.failed else DRAIN_S if applied.draining else FULL_S)
            glance = self._ended + GLANCE_S

    def _look(self) -> tuple[bool, float]:
        """Return whether the kernel moved, and the seconds of processor time that the look took.

        A machine that others load is not looked at less often.
        """
        began = time.thread_time()
        return self.kernel.moved(), time.thread_time() - began

    async def _wait(self, until: float) -> None:
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until - time.monotonic()) if until < inf else None):
                await self._news.wait()

    async def _apply(self, config: SiteConfig, desired: Desired, allow_delete: bool) -> Applied:
        self._wanted.clear()
        self._due, asked = inf, self._asked_for
        self.busy_since = started = time.monotonic()
        applied = await self.call(self.kernel.apply, config, desired, allow_delete=allow_delete)
        self.busy_since = None
        self._tell(applied.failed)
        for drift in applied.drift:
            log.warning("op=drift kind=%s key=%r what=%s found=%r", drift.kind, drift.key, drift.what, drift.found)
        if applied.changed:
            log.info("op=reconcile changed=%d first=%r", len(applied.changed), applied.changed[0])
        self._on_applied(applied, time.monotonic() - started)
        async with self._made:
            self._made_so = asked
            self._made.notify_all()
        return applied

    def _tell(self, failed: Mapping[str, str]) -> None:
        """Log what failed once, not at every retry, and its end."""
        for key, text in failed.items():
            if self._told.get(key) != text:
                log.warning("op=reconcile key=%r failed=%r", key, text)
        for key in self._told.keys() - failed.keys():
            log.info("op=reconcile key=%r failed=no", key)
        self._told = dict(failed)

    def close(self) -> None:
        """Let the running calls end; nothing is undone in the kernel."""
        for thread in (self._leading, self._thread, self._beside):
            thread.shutdown(wait=True, cancel_futures=True)
