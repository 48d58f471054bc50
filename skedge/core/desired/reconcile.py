"""Read, compare, change the least: one kind of kernel object, or all of them in dependency order.

What others refer to is created first and deleted last. A key that fails stays different, so the next run retries
it; the others go on. Before this site is in sync nothing is deleted, neither whole objects nor candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic

from skedge.core.api.documents import PlanStep
from skedge.core.desired.compute import Desired, redispatched
from skedge.core.desired.render import describe
from skedge.core.engine import Driver, K, V
from skedge.core.errors import DataplaneError
from skedge.core.objects import (
    Dispatch,
    Endpoint,
    EndpointKey,
    KernelRoute,
    LinkDevice,
    ListenerKey,
    ServiceKey,
    ServiceTable,
)
from skedge.core.placement.candidates import keep_candidates

Merge = Callable[[V, V], V]
"""Join what the kernel has with what is wanted, so that nothing is lost before this site is in sync."""


@dataclass(frozen=True, slots=True)
class Delta(Generic[K, V]):
    """The least that makes ``current`` equal ``desired``."""

    put: Mapping[K, V]
    delete: tuple[K, ...]


@dataclass(slots=True)
class Report(Generic[K]):
    """What one run did (or, as a dry run, would do) to one kind; ``failed`` keys stay different and are retried.

    ``kept`` would be deleted were it allowed. ``unread`` is set when the kernel could not be read at all.
    """

    changed: list[K] = field(default_factory=list)
    failed: dict[K, DataplaneError] = field(default_factory=dict)
    kept: list[K] = field(default_factory=list)
    unread: DataplaneError | None = None

    @property
    def clean(self) -> bool:
        """Return whether everything that should have changed did."""
        return not self.failed and self.unread is None


@dataclass(frozen=True, slots=True)
class Drivers:
    """The drivers of one site's kernel, one a kind."""

    links: Driver[str, LinkDevice]
    addresses: Driver[str, str]
    routes: Driver[str, KernelRoute]
    endpoints: Driver[EndpointKey, Endpoint]
    services: Driver[ServiceKey, ServiceTable]
    listeners: Driver[ListenerKey, Dispatch]


# kind as printed -> field of Drivers and Desired, in the order of creation
KINDS: Mapping[str, str] = {
    "link": "links",
    "address": "addresses",
    "route": "routes",
    "endpoint": "endpoints",
    "service": "services",
    "listener": "listeners",
}
MERGES: Mapping[str, Merge[Any]] = {"service": keep_candidates}


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
) -> Report[K]:
    """Make one kind of kernel object match ``desired``; one failed key never stops the others.

    Args:
        driver: reads and writes the objects of that kind.
        desired: all of them, as they should be.
        allow_delete: False before this site is in sync; what would go is reported as kept.
        dry_run: report what would change, change nothing.
        merge: applied to values that exist, only while deletion is not allowed.
    """
    report: Report[K] = Report()
    delta = _read_and_diff(driver, desired, report, None if allow_delete else merge)
    if delta is not None:
        _put(driver, delta, report, dry_run=dry_run)
        _delete(driver, delta, report, allow_delete=allow_delete, dry_run=dry_run)
    return report


def reconcile_all(
    drivers: Drivers, desired: Desired, *, allow_delete: bool = True, dry_run: bool = False
) -> Mapping[str, Report[Any]]:
    """Make the whole kernel state match: create kind by kind, then delete in the reverse order.

    Returns one report a kind, keyed by the words of `KINDS`.
    """
    reports: dict[str, Report[Any]] = {kind: Report() for kind in KINDS}
    deltas: dict[str, Delta[Any, Any]] = {}
    if not allow_delete:
        try:
            desired = _unsure(drivers, desired)
        except DataplaneError as error:
            reports["listener"].unread = error
            desired = replace(desired, listeners={}, choosers={})
    for kind, driver, wanted in _each(drivers, desired):
        delta = _read_and_diff(driver, wanted, reports[kind], None if allow_delete else MERGES.get(kind))
        if delta is not None:
            deltas[kind] = delta
            _put(driver, delta, reports[kind], dry_run=dry_run)
    for kind, driver, _ in reversed(_each(drivers, desired)):
        if kind in deltas:
            _delete(driver, deltas[kind], reports[kind], allow_delete=allow_delete, dry_run=dry_run)
    return reports


def plan(drivers: Drivers, desired: Desired, *, allow_delete: bool = True) -> tuple[PlanStep, ...]:
    """Return exactly what `reconcile_all` would do now, in its order; nothing is changed.

    Raises:
        DataplaneError: the kernel could not be read.
    """
    if not allow_delete:
        desired = _unsure(drivers, desired)
    creates: list[PlanStep] = []
    deletes: list[PlanStep] = []
    for kind, driver, wanted in _each(drivers, desired):
        current = driver.read()
        delta = diff(wanted, current, merge=None if allow_delete else MERGES.get(kind))
        for key, value in delta.put.items():
            action = "replace" if key in current else "create"
            creates.append(PlanStep(action, kind, describe(key), describe(current.get(key)), describe(value)))
        if allow_delete:
            gone = [PlanStep("delete", kind, describe(key), before=describe(current[key])) for key in delta.delete]
            deletes[:0] = gone
    return (*creates, *deletes)


def _unsure(drivers: Drivers, desired: Desired) -> Desired:
    """Return the desired state for a kernel whose tables are merged: listeners use the services that these allow."""
    if not desired.choosers:
        return desired
    current = drivers.services.read()
    tables = {
        key: keep_candidates(current[key], table) if key in current else table
        for key, table in desired.services.items()
    }
    return replace(desired, listeners=redispatched(desired, tables))


def _each(drivers: Drivers, desired: Desired) -> list[tuple[str, Driver[Any, Any], Mapping[Any, Any]]]:
    return [(kind, getattr(drivers, name), getattr(desired, name)) for kind, name in KINDS.items()]


def _read_and_diff(
    driver: Driver[K, V], desired: Mapping[K, V], report: Report[K], merge: Merge[V] | None
) -> Delta[K, V] | None:
    try:
        return diff(desired, driver.read(), merge=merge)
    except DataplaneError as error:
        report.unread = error
        return None


def _put(driver: Driver[K, V], delta: Delta[K, V], report: Report[K], *, dry_run: bool) -> None:
    for key, value in delta.put.items():
        _step(key, partial(driver.put, key, value), report, dry_run=dry_run)


def _delete(driver: Driver[K, V], delta: Delta[K, V], report: Report[K], *, allow_delete: bool, dry_run: bool) -> None:
    if not allow_delete:
        report.kept.extend(delta.delete)
        return
    for key in delta.delete:
        _step(key, partial(driver.delete, key), report, dry_run=dry_run)


def _step(key: K, step: Callable[[], None], report: Report[K], *, dry_run: bool) -> None:
    try:
        if not dry_run:
            step()
    except DataplaneError as error:
        report.failed[key] = error
    else:
        report.changed.append(key)
