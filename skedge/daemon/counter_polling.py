"""The slow rounds: read this site's counters, report them to other sites, repair drift, end suspensions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skedge.core.errors import SkedgeError
from skedge.core.model import WorkloadId
from skedge.core.objects import Target
from skedge.core.observed import FlowKind
from skedge.core.reasons import Reason
from skedge.daemon.kernel.kernel import Kernel, Readings
from skedge.daemon.state import Slot

if TYPE_CHECKING:
    from skedge.daemon.controller import Controller

log = logging.getLogger("skedge.daemon")

COUNT_S = 0.2  # load reports go out at most 5 times a second, so counters are read as often
SWEEP_S = 5.0  # idle flows; a long table is swept less often
SWEEP_SHARE = 0.02  # of the time, at most
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


class Counting:
    """Polls the engine's counters for one controller."""

    def __init__(self, controller: Controller) -> None:
        self._at = controller
        self.drops: Mapping[Reason, int] = {}
        self.flows: Mapping[FlowKind, int] = {}
        self.flow_room = 0
        self._failed_log_at = 0.0

    async def run(self) -> None:
        """Poll for ever. An engine that cannot be read is logged once a minute and asked again."""
        drift_at = time.monotonic() + DRIFT_S
        sweep_at = time.monotonic() + SWEEP_S
        while True:
            await asyncio.sleep(COUNT_S)
            try:
                self._counted(await self._at.worker.call(self._at.worker.kernel.readings))
                if (started := time.monotonic()) >= sweep_at:
                    await self._at.worker.call(self._at.worker.kernel.engine.sweep_flows)
                    took = time.monotonic() - started
                    sweep_at = started + max(SWEEP_S, took / SWEEP_SHARE)
                if time.monotonic() >= drift_at:
                    drift_at = time.monotonic() + DRIFT_S
                    await self._repair(self._at.worker.kernel)
            except SkedgeError as error:
                if time.monotonic() >= self._failed_log_at:
                    self._failed_log_at = time.monotonic() + FAILED_LOG_S
                    log.error("op=count failed=%r", str(error))

    async def _repair(self, kernel: Kernel) -> None:
        drift = await self._at.worker.call(kernel.engine.reconcile_counts)
        self._at.tally.count_drift = drift
        self._at.tally.count_drift_total += drift
        self.drops = await self._at.worker.call(kernel.drops)
        self.flows = await self._at.worker.call(kernel.flow_kinds)
        self.flow_room = await self._at.worker.call(kernel.engine.flow_room)

    def _counted(self, readings: Readings) -> None:
        state = self._at.state
        news, changed = readings.suspended - state.suspended, readings.suspended != state.suspended
        state.counts, state.suspended = readings.counts, readings.suspended
        if changed:
            self._at.suspensions_changed()
        self._at.wires.suspended(self._endpoints_of(readings.suspended))
        for service, workload in sorted(news):
            log.info("service=%s workload=%s reason=%s", service.name, workload, Reason.SUSPENDED.word)
            self._at.wires.probe_now(workload)
        self._at.wires.report()

    def _endpoints_of(self, slots: frozenset[Slot]) -> Mapping[WorkloadId, Target]:
        """Return where the workloads of other sites among these are reached."""
        return {
            one.workload: target
            for key, table in self._at.desired.services.items()
            for one in table.candidates
            if (key, one.workload) in slots and not one.local and (target := one.target4 or one.target6) is not None
        }
