"""The slow rounds: read this site's counters, repair drift, sweep flows. What follows from the counters is the
controller's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from skedge.core.errors import SkedgeError
from skedge.core.observed import FlowKind
from skedge.core.reasons import Reason
from skedge.daemon.events import CounterEvents
from skedge.daemon.kernel.kernel import Applied, Kernel
from skedge.daemon.kernel.worker import Worker

log = logging.getLogger("skedge.daemon")

COUNT_S = 0.2  # load reports go out at most 5 times a second, so counters are read as often
SWEEP_S = 5.0  # idle flows; a long table is swept less often
SWEEP_SHARE = 0.02  # of a processor, at most
DRIFT_S = 30.0  # stored placements against counters, the drop counters, the number of flows
FAILED_LOG_S = 60.0


@dataclass
class Tally:
    """Counters of the controller itself; times are monotonic seconds."""

    reconcile_runs: int = 0
    reconcile_failures: int = 0
    reconcile_changes: int = 0
    last_reconcile: float | None = None
    last_duration_s: float = 0.0
    spf_runs: int = 0
    count_drift: int = 0
    count_drift_total: int = 0

    def reconciled(self, applied: Applied, now: float, took_s: float) -> None:
        """Count a reconcile run that ended now."""
        self.reconcile_runs += 1
        self.reconcile_failures += bool(applied.failed)
        self.reconcile_changes += len(applied.changed)
        self.last_reconcile, self.last_duration_s = now, took_s

    def repaired(self, drift: int) -> None:
        """Count open connections that the counters were off by."""
        self.count_drift = drift
        self.count_drift_total += drift


class Counting:
    """Polls the engine's counters."""

    def __init__(self, worker: Worker, tally: Tally, events: CounterEvents) -> None:
        self._worker, self._tally, self._events = worker, tally, events
        self.drops: Mapping[Reason, int] = {}
        self.flows: Mapping[FlowKind, int] = {}
        self.half_open = 0
        self.flow_room = 0
        self._failed_log_at = 0.0

    async def run(self) -> None:
        """Poll for ever. An engine that cannot be read is logged once a minute and asked again."""
        await asyncio.gather(self._read(), self._look())

    async def _read(self) -> None:
        while True:
            await asyncio.sleep(COUNT_S)
            with self._logged():
                self._events.counted(await self._worker.call(self._worker.kernel.readings))

    async def _look(self) -> None:
        """Sweep and compare, beside what programs the kernel: with many connections either takes a while."""
        drift_at = time.monotonic() + DRIFT_S
        sweep_at = time.monotonic() + SWEEP_S
        while True:
            await asyncio.sleep(max(0.0, min(drift_at, sweep_at) - time.monotonic()))
            with self._logged():
                if time.monotonic() >= sweep_at:
                    sweep_at = time.monotonic() + SWEEP_S
                    took = await self._worker.beside(_processor_s, self._worker.kernel.engine.sweep_flows)
                    sweep_at += max(0.0, took / SWEEP_SHARE - SWEEP_S)
                if time.monotonic() >= drift_at:
                    drift_at = time.monotonic() + DRIFT_S
                    await self._repair(self._worker.kernel)

    @contextmanager
    def _logged(self) -> Iterator[None]:
        try:
            yield
        except SkedgeError as error:
            if time.monotonic() >= self._failed_log_at:
                self._failed_log_at = time.monotonic() + FAILED_LOG_S
                log.error("op=count failed=%r", str(error))

    async def _repair(self, kernel: Kernel) -> None:
        self._tally.repaired(await self._worker.beside(kernel.engine.reconcile_counts))
        self.drops = await self._worker.call(kernel.drops)
        sums = await self._worker.beside(kernel.engine.flow_sums)
        self.flows, self.half_open = sums.kinds, sums.half_open
        self.flow_room = await self._worker.beside(kernel.engine.flow_room)


def _processor_s(what: Callable[[], object]) -> float:
    """Return how long a processor worked for this, s: a machine that others load is not swept less often."""
    before = time.thread_time()
    what()
    return time.thread_time() - before
