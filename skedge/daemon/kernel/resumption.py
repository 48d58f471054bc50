"""Connections go on at once when their path is back, or another one serves: they are told, off the loop.

What is to be told is read from the kernel at each look. Flows are looked at during an outage, too, and just before the
routes come: a machine of the LAN is seen to stand still only as long as it alone speaks, and the far end, which is told
at about the same time, may speak first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from math import inf
from typing import Protocol

from skedge.core.errors import SkedgeError
from skedge.core.objects import KernelRoute
from skedge.core.stalls import ROUNDS, Outage, Stalled, StallKind, messages, returned, towards

log = logging.getLogger("skedge.daemon")

Connection = tuple[bytes, int, bytes, int]

REST = 3  # times the processor time of a look: with very many connections they take a quarter of one processor
FAILED_LOG_S = 60.0
HOW = {
    StallKind.SENT: "told",
    StallKind.SEES_ERRORS: "left-out",
    StallKind.PUSHED: "pushed",
    StallKind.FLOW: "lan",
}
"""What became of each kind, in logs and metrics."""


class Stalls(Protocol):
    """The connections of this host that stand still. All block, and raise DataplaneError."""

    def sockets(self) -> Iterable[Stalled]:
        """Return those of this host's sockets; what was never sent is sent."""
        ...

    def flows(self) -> Iterable[Stalled]:
        """Return those of the LAN's machines."""
        ...

    def tell(self, wanted: Iterable[tuple[Stalled, int]]) -> None:
        """Take back so many doublings of each one's time-out."""
        ...


class Resumption:
    """Follows the routes that the kernel has, and tells connections towards those that came."""

    def __init__(self, stalls: Stalls | None) -> None:
        """Take what finds and tells them; None where the engine has nothing of the kind."""
        self.tally: Counter[str] = Counter()
        self._stalls = stalls
        self._loop = asyncio.get_running_loop()
        self._routes: dict[str, KernelRoute] = {}
        self._wanted: set[str] = set()
        self._rounds: list[tuple[float, int]] = []
        self._outage = Outage()
        self._expecting = False
        self._expected: dict[Connection, Stalled] = {}
        self._seen: dict[Connection, StallKind] = {}
        self._took_s = 0.0
        self._news = asyncio.Event()
        self._failed_log_at = 0.0

    def expect(self, routes: Mapping[str, KernelRoute]) -> None:
        """Take what routes there are about to be."""
        if self._stalls is not None and returned(self._routes, routes):
            self._expecting = True
            self._news.set()

    def came(self, to: str, route: KernelRoute) -> None:
        """Take a route that the kernel has just been given; from any thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._came, to, route)

    def _came(self, to: str, route: KernelRoute) -> None:
        news, self._routes[to] = returned(self._routes, {to: route}), route
        if news:
            self._begin(news)

    def follow(self, routes: Mapping[str, KernelRoute]) -> None:
        """Take what routes there are now. At first all are news: what a life before has seen is not known."""
        wanted, lost = returned(self._routes, routes), self._routes.keys() - routes.keys()
        self._routes = dict(routes)
        if lost:
            self._wanted.difference_update(lost)
            self._outage.begin(time.monotonic(), lost)
            self._news.set()
        if wanted:
            self._begin(wanted)

    def _begin(self, wanted: Collection[str]) -> None:
        now = time.monotonic()
        self._outage.end(wanted)
        self._wanted.update(wanted)
        self._rounds = [(now + after_s, most) for after_s, most in ROUNDS]
        self._news.set()

    async def run(self) -> None:
        """Tell for ever."""
        while self._stalls is not None:
            if not self._expecting:
                await self._wait(min(self._rounds[0][0] if self._rounds else inf, self._outage.look_at))
            self._took_s = 0.0
            try:
                if self._expecting or self._outage.due(time.monotonic()):
                    self._expecting = False
                    flows = await self._look(self._stalls.flows)
                    self._expected.update((_connection(one), one) for one in flows)
                if self._rounds and time.monotonic() >= self._rounds[0][0]:
                    _, most = self._rounds.pop(0)
                    self._count(await self._look(partial(self._tell, self._stalls, frozenset(self._wanted), most)))
                    if not self._rounds:
                        self._end()
            except SkedgeError as error:
                self._failed(error)
            await asyncio.sleep(REST * self._took_s)
        await asyncio.Event().wait()

    async def _look(self, what: Callable[[], Iterable[Stalled]]) -> Iterable[Stalled]:
        """Do something in a thread, and count the processor time that it took."""

        def timed() -> tuple[Iterable[Stalled], float]:
            began = time.thread_time()
            return what(), time.thread_time() - began

        found, took_s = await asyncio.to_thread(timed)
        self._took_s += took_s
        return found

    async def _wait(self, until: float) -> None:
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until - time.monotonic()) if until < inf else None):
                await self._news.wait()

    def _tell(self, stalls: Stalls, wanted: frozenset[str], most: int) -> list[Stalled]:
        flows = {**self._expected, **{_connection(one): one for one in stalls.flows()}}
        found = towards(wanted, (*flows.values(), *stalls.sockets()))
        told = (StallKind.SENT, StallKind.FLOW)
        stalls.tell((one, messages(one, most)) for one in found if one.kind in told)
        return found

    def _count(self, found: Iterable[Stalled]) -> None:
        """Count each connection once for what became of it."""
        for one in found:
            if self._seen.get(_connection(one)) is not one.kind:
                self._seen[_connection(one)] = one.kind
                self.tally[HOW[one.kind]] += 1

    def _failed(self, error: SkedgeError) -> None:
        if time.monotonic() >= self._failed_log_at:
            self._failed_log_at = time.monotonic() + FAILED_LOG_S
            log.warning("op=resume failed=%r", str(error))

    def _end(self) -> None:
        """Say what was done since the first of these routes came."""
        if self._seen:
            found = Counter(HOW[kind] for kind in self._seen.values())
            counts = " ".join(f"{how}={found[how]}" for how in HOW.values())
            log.info("op=resume %s", counts)
        self._wanted.clear()
        self._expected.clear()
        self._seen.clear()


def _connection(one: Stalled) -> Connection:
    return one.local, one.local_port, one.remote, one.remote_port
