"""This site's kernel as one object: reconcile the registry, read counters. Blocking; called from one worker thread."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

from skedge.core.api.documents import PlanStep
from skedge.core.desired.compute import Desired
from skedge.core.desired.drift import Drift, DriftBook
from skedge.core.desired.kinds import Registry
from skedge.core.desired.reconcile import KindReport, reconcile_all, steps_of
from skedge.core.desired.render import describe
from skedge.core.ending import Ender
from skedge.core.engine import Engine
from skedge.core.errors import DataplaneError, Waiting
from skedge.core.model import LinkId, SiteConfig
from skedge.core.objects import Endpoint, EndpointKey, KernelRoute
from skedge.core.observed import Counts, ProgramsReport, TunnelFacts
from skedge.core.reasons import Reason
from skedge.core.routing.surroundings import Surroundings
from skedge.daemon.kernel.handover import Handover
from skedge.daemon.kernel.resumption import Stalls
from skedge.daemon.kernel.withdrawals import Host as Withdrawing
from skedge.daemon.kernel.withdrawals import Withdrawals
from skedge.daemon.kernel.wrapped_drivers import LedRoutes, Routes, Services, without_others
from skedge.daemon.state import ServiceWorkload

NO_TUNNELS_S = 60.0


class Tunnels(Protocol):
    """The links whose far ends may change key and address."""

    def tend(self) -> tuple[Mapping[LinkId, TunnelFacts], float]:
        """Follow them; return what they do, and in how many seconds to look again."""
        ...


class Uplinks(Protocol):
    """The routes of links that are bound to an uplink."""

    def strays(self) -> Mapping[int, str]:
        """Return the devices by which packets leave that are not those of their address. Raises DataplaneError."""
        ...


class Host(Withdrawing, Protocol):
    """What the host itself has."""

    def addresses(self) -> frozenset[str]:
        """Return the host's current addresses with their ``/len``. Raises DataplaneError."""
        ...

    def surroundings(self, prefixes: Collection[str], sites: Collection[str]) -> Surroundings:
        """Return what is around the host, and how these networks are reached. Raises DataplaneError."""
        ...

    def serving(self, ports: Collection[int]) -> int:
        """Return how many open TCP connections end at these ports of the host. Raises DataplaneError."""
        ...

    def forget(self) -> None:
        """Read anew what is only read when the kernel announces a change. Never waits."""
        ...


@dataclass(frozen=True)
class Applied:
    """Result of one reconcile run; ``failed`` maps ``kind key`` to the sentence of what the kernel refused.

    ``waiting`` are the same of what waits for another host; ``draining``: another engine's connections are going on.
    ``drift`` is what others had changed since the run before, ``recent`` the same of the last minutes with the time it
    was found (monotonic seconds), ``drifted`` how much it was in all, both by kind. ``strays``: mark of a link that is
    bound to an uplink -> another device, which its packets leave by. ``endpoints`` are those that it wanted.
    """

    changed: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    routes: Mapping[str, KernelRoute] = field(default_factory=dict)
    deleting: bool = False
    waiting: Mapping[str, str] = field(default_factory=dict)
    draining: bool = False
    drift: tuple[Drift, ...] = ()
    recent: Mapping[str, tuple[tuple[float, Drift], ...]] = field(default_factory=dict)
    drifted: Mapping[str, int] = field(default_factory=dict)
    surroundings: Surroundings = field(default_factory=Surroundings)
    strays: Mapping[int, str] = field(default_factory=dict)
    endpoints: Mapping[EndpointKey, Endpoint] = field(default_factory=dict)


@dataclass(frozen=True)
class Readings:
    """Counters as read at one moment."""

    counts: Mapping[ServiceWorkload, Counts]
    suspended: frozenset[ServiceWorkload]


class Kernel:
    """The registry of kernel objects, the engine, and what the host itself has."""

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        host: Host,
        tunnels: Tunnels | None = None,
        why: str = "",
        handover: Handover | None = None,
        refused: Sequence[Callable[[], Mapping[Reason, int]]] = (),
        clock: Callable[[], float] = time.monotonic,
        enders: Sequence[Ender] = (),
    ) -> None:
        """Take the parts.

        Args:
            registry: all kinds of objects, in the order of creation; links, routes and services are among them.
            engine: balances.
            host: what the host itself has.
            tunnels: the links whose far ends may change key and address.
            why: why it is this engine.
            handover: leads to it from another.
            refused: counters of what is refused beside the engine's, by reason; each may raise DataplaneError.
            clock: monotonic seconds.
            enders: who holds connections and can end them.
        """
        drivers = {kind.name: kind.driver for kind in registry}
        self._services, self.route_driver = Services(drivers["service"]), LedRoutes(cast("Routes", drivers["route"]))
        wrapped: Mapping[str, Any] = {"service": self._services, "route": self.route_driver}
        self._uplinks = cast("Uplinks | None", drivers.get("uplink"))
        self._registry: Registry = tuple(
            replace(kind, driver=wrapped[kind.name]) if kind.name in wrapped else kind for kind in registry
        )
        self._first = [kind.name for kind in registry][: [kind.name for kind in registry].index("link") + 1]
        self.engine = engine
        self.enders = enders
        self._why = why
        self.programs: Callable[[], ProgramsReport] = ProgramsReport  # what the last loading run says
        self.stalls: Stalls | None = None  # where the engine can find connections that stand still
        self._handover = handover or Handover(None)
        self._refused, self._clock = refused, clock
        self._tunnels = tunnels
        self.host = host
        self._drift = DriftBook()
        self._glance: object = None
        self._withdrawals = Withdrawals(host)
        self._read: tuple[object, Readings] | None = None
        self._found: Mapping[ServiceWorkload, int] | None = None

    @property
    def why(self) -> str:
        """Return why it is this engine, and what of another one is left."""
        return self._why + self._handover.note

    @property
    def withdrawn(self) -> int:
        """Return how many sockets were ended that waited for a withdrawn workload."""
        return self._withdrawals.ended

    def apply(self, config: SiteConfig, desired: Desired, *, allow_delete: bool) -> Applied:
        """Make the kernel match; what fails is in the result and stays different until the next run."""
        changed: list[str] = []
        failed: dict[str, str] = {}
        waiting: dict[str, str] = {}
        glance = self._look()
        reports = reconcile_all(self._registry, config, _comparable(desired), allow_delete=allow_delete)
        for kind, report in reports.items():
            changed += [f"{kind} {describe(key)}" for key in report.changed]
            for key, refusal in report.failed.items():
                (waiting if isinstance(refusal, Waiting) else failed)[f"{kind} {describe(key)}"] = str(refusal)
            if report.unread is not None:
                failed[kind] = str(report.unread)
        try:
            self._withdrawals.follow(desired, self.engine)
        except DataplaneError as error:
            failed["connects to withdrawn workloads"] = str(error)
        try:
            if self._handover.step(config, desired, ready=allow_delete and self._checked(reports)):
                changed.append("engine")
        except DataplaneError as error:
            failed["engine"] = str(error)
        now = self._clock()
        drift = self._drift.take(now, reports)
        # Of before the run: what others changed during it shows. After changes of ours only another run can tell.
        self._glance = None if changed or failed else glance
        routes = self._routes()
        return Applied(
            tuple(changed),
            failed,
            routes,
            allow_delete,
            waiting,
            self._handover.draining,
            drift,
            self._drift.recent(now),
            dict(self._drift.totals),
            self._surroundings(desired, routes),
            self._strays(),
            desired.endpoints,
        )

    def _surroundings(self, desired: Desired, routes: Collection[str]) -> Surroundings:
        """Return what is around the host, which has these routes; nothing is known where it cannot be read."""
        routed = {key.partition("/")[0] for key in routes if key in desired.routes}
        try:
            return self.host.surroundings(desired.prefixes, [one for one in sorted(desired.sites) if one in routed])
        except DataplaneError:
            return Surroundings()

    def _strays(self) -> Mapping[int, str]:
        try:
            return self._uplinks.strays() if self._uplinks else {}
        except DataplaneError:
            return {}

    def _checked(self, reports: Mapping[str, KindReport[Any]]) -> bool:
        """Return whether links and what is before them are as they should be, but for what waits for another host."""
        return all(
            reports[kind].unread is None and all(isinstance(one, Waiting) for one in reports[kind].failed.values())
            for kind in self._first
        )

    def moved(self) -> bool:
        """Return whether anything that the kernel does not announce may have changed since the last run; cheap.

        True after a run that changed something: what others changed meanwhile cannot be told from it.
        """
        return self._glance is None or self._look() != self._glance

    def _look(self) -> object:
        found: list[object] = []
        for kind in self._registry:
            if kind.glance is not None:
                try:
                    found.append(kind.glance())
                except DataplaneError as error:
                    found.append(str(error))
        return found

    def plan(self, config: SiteConfig, desired: Desired, *, allow_delete: bool) -> tuple[PlanStep, ...]:
        """Return exactly what `apply` would change now. Raises DataplaneError when the kernel cannot be read."""
        reports = reconcile_all(self._registry, config, _comparable(desired), allow_delete=allow_delete, dry_run=True)
        steps = steps_of(self._registry, reports)
        return (*steps, *self._handover.plan(ready=allow_delete and self._checked(reports)))

    def tend(self) -> tuple[Mapping[LinkId, TunnelFacts], float]:
        """Follow the far ends of tunnels; return what the tunnels do, and in how many seconds to look again."""
        return self._tunnels.tend() if self._tunnels is not None else ({}, NO_TUNNELS_S)

    def set_others(self, others: Mapping[ServiceWorkload, int]) -> None:
        """Write the other sites' load: the fast path, nothing else is touched."""
        self._services.others = others
        self.engine.set_others(others)

    def raise_others(self, others: Mapping[ServiceWorkload, int]) -> None:
        """Write the other sites' load, but no less than was found at first: not every site may have reported yet."""
        if self._found is None:
            self._found = self._services.loads()
        self.engine.set_others({slot: max(number, self._found.get(slot, 0)) for slot, number in others.items()})

    def readings(self) -> Readings:
        """Read this site's counters; the same object as before while nothing changed."""
        revision = self.engine.revision()  # before what it stands for
        if self._read is None or self._read[0] != revision:
            self._read = revision, Readings(self.engine.counts(), self.engine.suspended())
        return self._read[1]

    def drops(self) -> Mapping[Reason, int]:
        """Return all that was refused, by reason."""
        total = Counter(self.engine.drops())
        for refused in self._refused:
            with suppress(DataplaneError):
                total.update(refused())
        return dict(total)

    def want_routes(self, routes: Mapping[str, KernelRoute]) -> None:
        """Take what routes should be from now on, for runs that have begun, too. Never waits; of any thread."""
        self.route_driver.wanted = routes

    def lead(self, keys: Collection[str]) -> Mapping[str, DataplaneError]:
        """Lead these routes as they are wanted, in one step: the fast path of a failure, nothing is compared.

        May be called on another thread than the rest.
        """
        return self.route_driver.lead(keys)

    def _routes(self) -> Mapping[str, KernelRoute]:
        try:
            routes: Mapping[str, KernelRoute] = self.route_driver.read()
        except DataplaneError:
            return {}
        return routes


def _comparable(desired: Desired) -> Desired:
    return replace(desired, services={key: without_others(table) for key, table in desired.services.items()})
