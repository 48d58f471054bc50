"""Health of workloads: a look at sockets, TCP connect, TLS, HTTP GET; ``fall`` bad ones in a row: unhealthy.

`Counter` decides and is pure; `HealthMonitor` does the I/O, one task a workload, all in one asyncio loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from skedge.control.health.accepting import AcceptQueue, Backlog
from skedge.control.health.host import Host, NoHost
from skedge.control.health.probe_failed import ProbeFailed
from skedge.control.health.probes import WorkloadAddresses, converse
from skedge.core.linkstate.pacing import jitter
from skedge.core.model import Health, HealthType, WorkloadId
from skedge.core.names import address_port
from skedge.core.objects import Target

log = logging.getLogger(__name__)

URGENT_S = 0.05  # between the probes that settle a suspicion
NOBODY_ACCEPTS = "listens, but does not accept"


@dataclass(frozen=True, slots=True)
class CheckedWorkload:
    """What to probe: host (name or address) and port of a workload, and how.

    ``here``: it is this site's, so the host's own tables tell more of a connection to it.
    """

    host: str
    port: int
    health: Health
    here: bool = False


@dataclass(frozen=True, slots=True)
class HealthState:
    """A workload's health. ``cause`` says in a few words why the last bad probe was bad.

    ``known`` is False until the first result; ``address`` is the host as last resolved; ``since`` monotonic seconds.
    ``at`` is where a connection to it ends, as last seen: not at its host and port where the host translates.
    """

    healthy: bool
    known: bool
    since: float
    cause: str = ""
    address: str = ""
    at: Target | None = None
    good: int = 0
    bad: int = 0


class Counter:
    """Turns results into health. The very first result decides alone, later ones by ``fall`` and ``rise``."""

    def __init__(self, fall: int, rise: int) -> None:
        self.fall, self.rise = fall, rise
        self.healthy: bool | None = None
        self._run = 0

    def result(self, good: bool) -> bool:
        """Note a result; tell whether health changed (or became known)."""
        if self.healthy is None:
            self.healthy = good
            return True
        if good == self.healthy:
            self._run = 0
            return False
        self._run += 1
        if self._run < (self.fall if self.healthy else self.rise):
            return False
        self.healthy, self._run = good, 0
        return True

    @property
    def settled(self) -> bool:
        """Tell whether no contradicting result is waiting for more of its kind."""
        return self._run == 0


class HealthMonitor:
    """Probes workloads: this site's connectors, and suspended workloads of other sites at their endpoints.

    ``on_change(workload, state)`` when health changes or becomes known, a healthy one is at another place, or an
    unhealthy one has another cause; ``on_good(workload)`` at every good probe (which ends a suspension). All are called
    in the loop, as what is asked of the ``host``.
    """

    def __init__(
        self,
        on_change: Callable[[WorkloadId, HealthState], None],
        on_good: Callable[[WorkloadId], None] = lambda _workload: None,
        host: Host | None = None,
    ) -> None:
        self._on_change, self._on_good, self._host = on_change, on_good, host or NoHost()
        self._checks: dict[WorkloadId, _Check] = {}

    def set_targets(self, targets: Mapping[WorkloadId, CheckedWorkload]) -> None:
        """Probe exactly these; an unchanged target keeps its state, a changed one keeps its health until probed."""
        for workload, check in list(self._checks.items()):
            if targets.get(workload) != check.target:
                check.task.cancel()
                if workload not in targets:
                    del self._checks[workload]
        for workload, target in targets.items():
            old = self._checks.get(workload)
            if old is None or old.target != target:
                self._checks[workload] = _Check(workload, target, self._on_change, self._on_good, self._host, old)

    def probe_now(self, workload: WorkloadId) -> None:
        """Probe at once (a socket closed, a connect failed), again and again until the suspicion is settled."""
        check = self._checks.get(workload)
        if check:
            check.urgent.set()

    def snapshot(self) -> Mapping[WorkloadId, HealthState]:
        """Return the present health of every target."""
        return {workload: check.state for workload, check in self._checks.items()}

    async def close(self) -> None:
        """Stop all probes."""
        tasks = [check.task for check in self._checks.values()]
        self._checks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Check:
    """One workload's probes."""

    def __init__(
        self,
        workload: WorkloadId,
        target: CheckedWorkload,
        on_change: Callable[[WorkloadId, HealthState], None],
        on_good: Callable[[WorkloadId], None],
        host: Host,
        old: _Check | None,
    ) -> None:
        self.workload, self.target = workload, target
        self.urgent = asyncio.Event()
        self.state = old.state_of(target) if old else HealthState(False, False, time.monotonic())
        self._on_change, self._on_good, self._host = on_change, on_good, host if target.here else NoHost()
        self._counter = Counter(target.health.fall, target.health.rise)
        self._resolver = WorkloadAddresses(target.host, target.port)
        self._at: Target | None = None
        self._queue = AcceptQueue(self._host.waits, self._serves)
        self._backlog = Backlog()
        self._ways: object = None  # those by which the last connect that came to be went
        self._next_ways: object = None
        self.task = asyncio.get_running_loop().create_task(self._run())

    def state_of(self, target: CheckedWorkload) -> HealthState:
        """Return what is known of a workload that is checked in another way, or is elsewhere, from now on."""
        same = (target.host, target.port) == (self.target.host, self.target.port)
        return self.state if same else replace(self.state, at=None)

    async def _run(self) -> None:
        health = self.target.health
        urgent = False
        while True:
            self._result(await self._probe())
            urgent = not self._counter.settled and (urgent or self.urgent.is_set())
            self.urgent.clear()
            if not urgent:
                spread = 0.95 + 0.1 * jitter(self.workload, self.state.good, self.state.bad)
                urgent = await self._suspicion(health.interval_s * spread)
            if urgent:
                await asyncio.sleep(URGENT_S)

    async def _suspicion(self, within_s: float) -> bool:
        """Wait; tell whether `probe_now` cut the wait short."""
        try:
            async with asyncio.timeout(within_s):
                await self.urgent.wait()
        except TimeoutError:
            return False
        self.urgent.clear()
        return True

    async def _probe(self) -> str:
        """Return "" for a good probe, else its cause."""
        health = self.target.health
        try:
            async with asyncio.timeout(health.timeout_s):
                await self._ask(health)
        except TimeoutError:
            silent = self._queue.silent(time.monotonic())
            return NOBODY_ACCEPTS if silent else f"no answer within {health.timeout_s:g} s"
        except ProbeFailed as failed:
            return str(failed)
        except OSError as error:
            self._resolver.forget()
            return os.strerror(error.errno) if error.errno else str(error)
        except Exception as error:  # a check that ended would leave its last verdict standing for ever
            log.exception("workload=%s the check failed", self.workload)
            return f"the check failed: {error}"
        return ""

    async def _ask(self, health: Health) -> None:
        """Probe once. Raises ProbeFailed or OSError."""
        if health.type is HealthType.NONE:
            with contextlib.suppress(ProbeFailed):
                await self._resolver.addresses()
            return
        if health.type is HealthType.SOCKET:
            await self._resolver.addresses()
            self._host.bound(self._resolver.last, self.target.port)
            return
        if health.type is HealthType.LISTEN and await self._listens():
            return
        if self._queue.stuck(time.monotonic()):
            raise ProbeFailed(NOBODY_ACCEPTS)  # and no more of them into the queue
        sock, asked = await self._resolver.connect()
        self._follow(Target(*sock.getsockname()[:2]), asked)
        self._ways = self._next_ways
        await converse(sock, asked, self.target.host, health)
        if health.tls or health.type is HealthType.HTTP:
            self._queue.answered()

    async def _listens(self) -> bool:
        """Look at the workload's socket; return whether that was enough. Raises ProbeFailed where it takes nothing.

        A server's log is not filled by looks, nor are they counted as connections that broke off. A connect is needed
        where no socket is to be seen, and where the host's rules may lead it elsewhere: once, until they change.
        """
        await self._resolver.addresses()
        asked = Target(self._resolver.last, self.target.port)
        found = self._host.listening(asked)
        if found is None or self._at not in (None, asked):
            return False
        if found.full:
            raise ProbeFailed(f"its queue is full: {found.waiting} connections wait to be accepted")
        if self._backlog.stuck(found.waiting, time.monotonic()) and not self._serves():
            raise ProbeFailed(NOBODY_ACCEPTS)
        self._next_ways = found.ways
        return found.ways in (None, self._ways)

    def _follow(self, own: Target, asked: Target) -> None:
        """See where the host led a connection; one that it did not lead on is in the queue of a listening socket."""
        at = self._host.led_to(own, asked)
        if at == asked:
            self._queue.opened((own, asked), time.monotonic())
        if at != (self._at or asked):
            log.info("workload=%s led_to=%s", self.workload, address_port(at.address, at.port))
        self._at = at

    def _place(self, state: HealthState) -> tuple[str, Target]:
        return state.address, state.at or Target(state.address, self.target.port)

    def _serves(self) -> bool:
        return self._host.serves(self.workload, Target(self._resolver.last, self.target.port))

    def _result(self, cause: str) -> None:
        changed = self._counter.result(not cause)
        old, healthy = self.state, bool(self._counter.healthy)
        self.state = HealthState(
            healthy=healthy,
            known=True,
            since=time.monotonic() if changed and (healthy != old.healthy or not old.known) else old.since,
            cause=cause or ("" if healthy else old.cause),
            address=self._resolver.last,
            at=self._at or old.at,
            good=old.good + (not cause),
            bad=old.bad + bool(cause),
        )
        if changed and (not old.known or healthy != old.healthy):
            text = "" if healthy else f" cause={cause!r}"
            log.info("workload=%s healthy=%s%s", self.workload, healthy, text)
            self._on_change(self.workload, self.state)
        elif healthy and self._place(self.state) != self._place(old):
            self._on_change(self.workload, self.state)
        elif not healthy and self.state.cause != old.cause:
            log.info("workload=%s healthy=False cause=%r", self.workload, self.state.cause)
            self._on_change(self.workload, self.state)
        if not cause:
            self._on_good(self.workload)
