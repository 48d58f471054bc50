"""Answers to the local API: state into documents of `core.api.documents`."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace

from skedge.control.peer import NOBODY, Peer
from skedge.core.api.documents import Answer, Explain, PlanReport, Problem, Request, Rows, Status, Sync
from skedge.core.api.shown import LinkRow
from skedge.core.errors import ApiError, DataplaneError, SkedgeError
from skedge.core.placement.explain import explain, find_service
from skedge.core.routing.alternates import Protection
from skedge.daemon import link_status
from skedge.daemon.api import drain, findings, rows
from skedge.daemon.api.filters import Filter
from skedge.daemon.api.problems import Problems
from skedge.daemon.state import SOFTWARE
from skedge.dataplane.host import reserved_ports

LIMIT_MAX = 10_000
LOOK_S = 5.0
KERNEL_S = 5.0  # for a look at the kernel
NAMED = 3  # objects in a sentence


class Answers:
    """Answers requests about one controller; ``answer`` is the API's handler."""

    def __init__(self, at: drain.Drainable) -> None:
        self._at = at
        self._problems = Problems()

    async def watch(self) -> None:
        """Look at the problems every few seconds, asked or not: so that each knows since when it is there."""
        while True:
            self._at.refresh_heard()
            self.status()
            await asyncio.sleep(LOOK_S)

    async def answer(self, request: Request, peer: Peer = NOBODY) -> Answer:
        """Return the document asked for, or a sentence in ``error``; commands are done for who may command."""
        try:
            return await self._answer(request, peer)
        except SkedgeError as error:
            return Answer(error=str(error))

    async def _answer(self, request: Request, peer: Peer) -> Answer:
        self._at.refresh_heard()
        if request.op == "status":
            return Answer(status=await self._looked() if request.what == "kernel" else self.status())
        if request.op == "show":
            return Answer(sync=self._sync()) if request.what == "sync" else Answer(rows=await self._rows(request))
        if request.op == "explain":
            return Answer(explain=self._explain(request))
        if request.op == "explain-connection":
            return Answer(rows=await self._connection(request))
        if request.op == "plan":
            return Answer(plan=await self._plan())
        if request.op in drain.OPS:
            return Answer(rows=Rows(drains=tuple(await drain.command(self._at, request, peer))))
        raise ApiError(f"op {request.op!r} is not known to this controller ({SOFTWARE})")

    def status(self) -> Status:
        """Return liveness, readiness and every problem."""
        at, now = self._at, time.monotonic()
        ports = reserved_ports.complaint(at.state.config)
        look = findings.Look(
            now=now,
            state=at.state,
            desired=at.desired,
            applied=at.applied,
            link_rows=self.link_rows(),
            refusals=at.refusals.recent(),
            synced=at.life.synced and not at.life.arriving,
            config_error=at.config_error,
            certificate_days=at.identity.days_left,
            drift=at.tally.count_drift,
            ports=ports or reserved_ports.at_next_boot(at.state.config),
            stream_causes=at.control.stream_causes(),
            unproven=at.control.unproven(),
            in_force=at.identity.in_force(),
            programs=at.worker.kernel.programs(),
        )
        problems = self._problems.update(now, findings.findings(look))
        synced = (
            look.synced and look.in_force and not (at.applied.failed or look.unproven or look.config_error or ports)
        )
        hops = at.state.forwarding.hops().values()
        protected = sum(one.protection is not Protection.NONE for one in hops)
        return Status(at.state.config.site, True, at.life.ready, synced, problems, len(hops), protected)

    async def _looked(self) -> Status:
        """Return the same after a look at the kernel: what somebody else changed just now is not waited for."""
        waiting = self._at.applied.waiting
        try:
            async with asyncio.timeout(KERNEL_S):
                steps = [step for step in (await self._plan()).steps if f"{step.kind} {step.key}" not in waiting]
        except (TimeoutError, DataplaneError) as error:
            return _unsynced(
                self.status(), f"it could not be looked at: {str(error) or f'no answer within {KERNEL_S:g} s'}"
            )
        status = self.status()
        if not steps:
            return status
        named = ", ".join(f"{step.kind} {step.key}" for step in steps[:NAMED])
        more = f" and {len(steps) - NAMED} more" if len(steps) > NAMED else ""
        return _unsynced(status, f"not as wanted: {named}{more}; see skedge plan")

    def link_rows(self) -> list[LinkRow]:
        """Return one row a configured link."""
        at, now = self._at, time.monotonic()
        facts = link_status.facts(at.control.link_stats(), at.flooder.adjacencies(now))
        shown = at.control.shown()
        found = rows.links(at.state, facts, now, at.tunnels.facts)
        return [replace(row, certificate=shown.get(row.link, "")) for row in found]

    def _sync(self) -> Sync:
        at, now = self._at, time.monotonic()
        waiting = link_status.waiting(at.state.configured_links(), at.control.link_stats(), at.flooder.adjacencies(now))
        return Sync(
            synced=at.life.synced,
            records=len(at.flooder.database),
            waiting_for=tuple(sorted(str(link) for link in waiting)),
            reconcile_runs=at.tally.reconcile_runs,
            reconcile_failures=at.tally.reconcile_failures,
            last_reconcile_s=None if at.tally.last_reconcile is None else now - at.tally.last_reconcile,
            dirty=tuple(sorted(at.applied.failed)),
            count_drift=at.tally.count_drift_total,
            config_error=at.config_error,
        )

    async def _rows(self, request: Request) -> Rows:
        at, now = self._at, time.monotonic()
        state, limit, engine = at.state, min(max(request.limit, 1), LIMIT_MAX), at.worker.kernel.engine
        match request.what:
            case "site" | "sites":
                found = rows.sites(
                    state,
                    at.flooder.database,
                    engine=engine.name,
                    engine_why=at.worker.kernel.why,
                    programs=at.worker.kernel.programs().origin,
                    certificate_days=at.identity.days_left,
                    software=SOFTWARE,
                )
                return Rows(sites=tuple(found if request.what == "sites" else found[:1]))
            case "links":
                return Rows(links=tuple(self.link_rows()))
            case "routes":
                return Rows(routes=tuple(rows.routes(state, at.desired, at.applied.routes)))
            case "services":
                return Rows(services=tuple(rows.services(state, now)))
            case "listeners":
                return Rows(listeners=tuple(rows.listeners(state, at.desired)))
            case "connections":
                receipts, wanted = engine.connections(request.since), Filter.of(request)
                found_rows = await at.worker.beside(rows.connections, receipts, limit, _since_boot(), wanted)
                return Rows(connections=tuple(found_rows[:limit]), truncated=len(found_rows) > limit)
            case "flows":
                table, wanted = engine.flows(), Filter.of(request)
                flow_rows = await at.worker.beside(rows.flows, table, limit, _since_boot(), wanted)
                return Rows(flows=tuple(flow_rows[:limit]), truncated=len(flow_rows) > limit)
            case "drops":
                counted = Counter(await at.worker.call(at.worker.kernel.drops)) + at.refusals.counts
                return Rows(drops=tuple(rows.drops(counted)))
            case "drains":
                return Rows(drains=tuple(await drain.rows(at)))
        raise ApiError(f"show {request.what!r} is not known to this controller ({SOFTWARE})")

    async def _connection(self, request: Request) -> Rows:
        receipts, wanted = self._at.worker.kernel.engine.connections(), Filter(client=request.name)
        found = await self._at.worker.beside(rows.connections, receipts, 1, _since_boot(), wanted)
        if not found:
            raise ApiError(
                f"no open connection from {request.name} was placed at this site; see: skedge show connections"
            )
        return Rows(connections=tuple(found[:1]))

    def _explain(self, request: Request) -> Explain:
        at, facts = self._at, self._at.state.facts()
        site = request.site or facts.config.site
        if site != facts.config.site and site not in facts.network_map.links:
            raise ApiError(f"site {site!r} is not known here; see: skedge show sites")
        key = find_service(facts, request.name)
        if key is None:
            raise ApiError(f"no site offers or listens to service {request.name!r}; see: skedge show services")
        return explain(facts, key, site, time.monotonic(), rows.listeners(at.state, at.desired))

    async def _plan(self) -> PlanReport:
        at = self._at
        steps = await at.worker.call(at.worker.kernel.plan, at.state.config, at.wanted(), allow_delete=at.life.deleting)
        return PlanReport(steps)


def _unsynced(status: Status, cause: str) -> Status:
    problems = (*status.problems, Problem("warning", "kernel", cause, 0.0))
    return replace(status, synced=False, problems=problems)


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
