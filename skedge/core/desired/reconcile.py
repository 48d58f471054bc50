"""Read, compare, change the least: one kind of kernel object, or the whole registry in dependency order.

What others refer to is created first and deleted last. A key that fails stays different, so the next run retries
it; the others go on. Before this site is in sync nothing that is learned from others is deleted, neither whole objects
nor candidates. A plan is a run that changes nothing: there is one code for both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic

from skedge.core.api.documents import PlanStep
from skedge.core.desired.compute import Desired, listeners_again
from skedge.core.desired.kinds import Kind, Merge, Registry
from skedge.core.desired.render import describe
from skedge.core.engine import Batches, Driver, K, V
from skedge.core.errors import DataplaneError
from skedge.core.model import SiteConfig
from skedge.core.placement.candidates import merge_candidates

SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Delta(Generic[K, V]):
    """The least that makes ``current`` equal ``desired``."""

    put: Mapping[K, V]
    delete: tuple[K, ...]


@dataclass(slots=True)
class KindReport(Generic[K]):
    """What one run did (or, as a dry run, would do) to one kind; ``failed`` keys stay different and are retried.

    ``held_back`` would be deleted were it allowed. ``unread`` is set when the kernel could not be read at all.
    ``before`` is what the kernel had, ``wanted`` what it should have, merged with that while nothing may be deleted;
    ``fallen`` are keys that went with a link made anew. ``rests_on``: see `Kind`.
    """

    changed: list[K] = field(default_factory=list)
    failed: dict[K, DataplaneError] = field(default_factory=dict)
    held_back: list[K] = field(default_factory=list)
    unread: DataplaneError | None = None
    before: Mapping[K, Any] = field(default_factory=dict)
    wanted: Mapping[K, Any] = field(default_factory=dict)
    fallen: frozenset[K] = frozenset()
    rests_on: Hashable = None
    steps: list[PlanStep] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Return whether everything that should have changed did."""
        return not self.failed and self.unread is None


def diff(desired: Mapping[K, V], current: Mapping[K, V], *, merge: Merge[V] | None = None) -> Delta[K, V]:
    """Return what to put and what to delete; ``merge`` joins the values of keys that both have."""
    put: dict[K, V] = {}
    for key, value in desired.items():
        if key not in current:
            put[key] = value
            continue
        wanted = merge(current[key], value) if merge else value
        if current[key] != wanted:
            put[key] = wanted
    return Delta(put, tuple(sorted((key for key in current if key not in desired), key=str)))


def reconcile(
    driver: Driver[K, V],
    desired: Mapping[K, V],
    *,
    allow_delete: bool = True,
    dry_run: bool = False,
    merge: Merge[V] | None = None,
) -> KindReport[K]:
    """Make one kind of kernel object match ``desired``; one failed key never stops the others.

    Args:
        driver: reads and writes the objects of that kind.
        desired: all of them, as they should be.
        allow_delete: False before this site is in sync; what would go is reported as kept.
        dry_run: report what would change, change nothing.
        merge: applied to values that exist, only while deletion is not allowed.
    """
    kind: Kind[K, V] = Kind("object", driver, lambda _config, _desired, _held: desired, waits=True, merge=merge)
    run = _Run(KindReport(), kind, allow_delete=allow_delete, dry_run=dry_run)
    try:
        run.begin(desired, driver.read())
    except DataplaneError as error:
        run.report.unread = error
        return run.report
    run.put()
    run.delete()
    return run.report


def reconcile_all(
    registry: Registry, config: SiteConfig, desired: Desired, *, allow_delete: bool = True, dry_run: bool = False
) -> Mapping[str, KindReport[Any]]:
    """Make the whole kernel state match: create kind by kind, then delete in the reverse order.

    Returns one report a kind, keyed by its name.
    """
    reports: dict[str, KindReport[Any]] = {kind.name: KindReport() for kind in registry}
    if not allow_delete:
        try:
            desired = _unsure(registry, desired)
        except DataplaneError as error:
            reports["listener"].unread = error
            desired = replace(desired, listeners={}, choosers={})
    runs: list[_Run[Any, Any]] = []
    remade: frozenset[str] = frozenset()
    for kind in registry:
        run = _Run(reports[kind.name], kind, allow_delete=allow_delete or not kind.waits, dry_run=dry_run)
        try:
            held = kind.driver.read()
            wanted = kind.wanted(config, desired, held)
        except DataplaneError as error:
            run.report.unread = error
            continue
        if wanted is None:
            run.report.before = run.report.wanted = held
            continue
        run.begin(wanted, held, remade)
        run.put()
        runs.append(run)
        remade |= run.remade
    for run in reversed(runs):
        run.delete()
    return reports


def plan(
    registry: Registry, config: SiteConfig, desired: Desired, *, allow_delete: bool = True
) -> tuple[PlanStep, ...]:
    """Return exactly what `reconcile_all` would do now, in its order; nothing is changed.

    Raises:
        DataplaneError: the kernel could not be read.
    """
    return steps_of(registry, reconcile_all(registry, config, desired, allow_delete=allow_delete, dry_run=True))


def steps_of(registry: Registry, reports: Mapping[str, KindReport[Any]]) -> tuple[PlanStep, ...]:
    """Return the steps of a run in their order. Raises DataplaneError when the kernel could not be read."""
    for report in reports.values():
        if report.unread is not None:
            raise report.unread
    each = [reports[kind.name].steps for kind in registry]
    creates = [step for steps in each for step in steps if step.action != "delete"]
    deletes = [step for steps in reversed(each) for step in steps if step.action == "delete"]
    return (*creates, *deletes)


class _Run(Generic[K, V]):
    """One kind in one run."""

    def __init__(self, report: KindReport[K], kind: Kind[K, V], *, allow_delete: bool, dry_run: bool) -> None:
        self.report, self._kind = report, kind
        self._allow_delete, self._dry_run = allow_delete, dry_run
        self._delta: Delta[K, V] = Delta({}, ())
        self._held: Mapping[K, V] = {}
        self.remade: frozenset[str] = frozenset()

    def begin(self, wanted: Mapping[K, V], held: Mapping[K, V], remade: Collection[str] = ()) -> None:
        """Decide what to do. ``remade``: devices that were (in a dry run: will be) made anew before."""
        kind = self._kind
        self.report.wanted, self.report.before = wanted, held
        if kind.fall is not None and remade:
            left = kind.fall(remade, wanted)
            self.report.fallen = frozenset(key for key, value in wanted.items() if left.get(key) != value)
            held = kind.fall(remade, held) if self._dry_run else held
        self._delta = diff(wanted, held, merge=None if self._allow_delete else kind.merge)
        if kind.merge is not None and not self._allow_delete:
            self.report.wanted = {key: self._delta.put.get(key, held.get(key)) for key in wanted}
        self.report.rests_on = None if kind.rests_on is None else kind.rests_on()
        self._held = held
        if kind.remakes is not None:
            changed = [(key, value) for key, value in self._delta.put.items() if key in held]
            self.remade = frozenset(str(key) for key, value in changed if kind.remakes(key, value))

    def put(self) -> None:
        """Create and replace."""
        driver, batches = self._kind.driver, self._batches()
        failed = batches.put_all(self._delta.put) if batches and self._delta.put else None
        for key, value in self._delta.put.items():
            action = "replace" if key in self._held else "create"
            step = PlanStep(action, self._kind.name, describe(key), describe(self._held.get(key)), describe(value))
            act = partial(driver.put, key, value) if failed is None else partial(_tell, failed.get(key))
            self._do(key, act, step)

    def delete(self) -> None:
        """Delete, or say what is kept."""
        if not self._allow_delete:
            self.report.held_back.extend(self._delta.delete)
            return
        driver, batches = self._kind.driver, self._batches()
        failed = batches.delete_all(self._delta.delete) if batches and self._delta.delete else None
        for key in self._delta.delete:
            step = PlanStep("delete", self._kind.name, describe(key), before=describe(self._held[key]))
            act = partial(driver.delete, key) if failed is None else partial(_tell, failed.get(key))
            self._do(key, act, step)

    def _batches(self) -> Batches[K, V] | None:
        """Return the driver where it changes many objects in one step."""
        driver = self._kind.driver
        return driver if isinstance(driver, Batches) and not self._dry_run else None

    def _do(self, key: K, act: Callable[[], None], step: PlanStep) -> None:
        try:
            if not self._dry_run:
                act()
        except DataplaneError as error:
            self.report.failed[key] = error
        else:
            self.report.changed.append(key)
            self.report.steps.append(step)


def _tell(error: DataplaneError | None) -> None:
    if error is not None:
        raise error


def _unsure(registry: Iterable[Kind[Any, Any]], desired: Desired) -> Desired:
    """Return the desired state for a kernel whose tables are merged: listeners use the services that these allow."""
    services = next((kind.driver for kind in registry if kind.name == SERVICE), None)
    if not desired.choosers or services is None:
        return desired
    current = services.read()
    tables = {
        key: merge_candidates(current[key], table) if key in current else table
        for key, table in desired.services.items()
    }
    return replace(desired, listeners=listeners_again(desired, tables))
