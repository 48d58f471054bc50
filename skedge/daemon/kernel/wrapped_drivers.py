"""What the controller lays over two of the engine's and the routes' drivers, for what changes beside a run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from skedge.core.engine import Batches, Driver
from skedge.core.errors import DataplaneError
from skedge.core.model import WorkloadId
from skedge.core.objects import KernelRoute, ServiceKey, ServiceTable
from skedge.core.reasons import Reason
from skedge.daemon.state import ServiceWorkload


class Routes(Driver[str, KernelRoute], Batches[str, KernelRoute], Protocol):
    """The driver of routes."""

    def lead(self, routes: Mapping[str, KernelRoute]) -> Mapping[str, DataplaneError]:
        """Lead routes that are there another way, in one step; return why some could not be. Raises DataplaneError."""
        ...


class Services:
    """The engine's services driver with the other sites' load left out of comparisons: it changes all the time.

    `Kernel.set_others` writes it; a table that is put takes it from there.
    """

    def __init__(self, inner: Driver[ServiceKey, ServiceTable]) -> None:
        self._inner = inner
        self.others: Mapping[ServiceWorkload, int] = {}

    def read(self) -> Mapping[ServiceKey, ServiceTable]:
        """Return the tables as they are compared."""
        return {key: without_others(table) for key, table in self._inner.read().items()}

    def loads(self) -> Mapping[ServiceWorkload, int]:
        """Return what the kernel counts now for others."""
        tables = self._inner.read()
        return {(key, one.workload): one.others for key, table in tables.items() for one in table.candidates}

    def put(self, key: ServiceKey, value: ServiceTable) -> None:
        """Put a table, with the other sites' load as it was last heard."""
        known = self.others
        missing = any((key, one.workload) not in known for one in value.candidates)
        present = self._present(key) if missing else {}
        candidates = tuple(
            replace(one, others=known.get((key, one.workload), present.get(one.workload, 0)))
            for one in value.candidates
        )
        self._inner.put(key, ServiceTable(candidates))

    def _present(self, key: ServiceKey) -> Mapping[WorkloadId, int]:
        """Return what the kernel counts now for others: before sync it knows more than this controller was told."""
        table = self._inner.read().get(key, ServiceTable())
        return {one.workload: one.others for one in table.candidates}

    def delete(self, key: ServiceKey) -> None:
        """Remove a table."""
        self._inner.delete(key)


class LedRoutes:
    """The driver of routes; whatever a run was told when it began, what it puts is the newest that is wanted.

    `lead` may be called on another thread at any time, `wanted` may be set at any time. `on_put` is told what the
    kernel was given, on the thread that gave it.
    """

    def __init__(self, inner: Routes) -> None:
        self._inner, self._lock = inner, threading.Lock()
        self.wanted: Mapping[str, KernelRoute] = {}
        self.on_put: Callable[[str, KernelRoute], None] = lambda _to, _route: None

    def read(self) -> Mapping[str, KernelRoute]:
        """Return the routes that are there."""
        return self._inner.read()

    def put(self, key: str, value: KernelRoute) -> None:
        """Put a route."""
        with self._lock:
            value = self.wanted.get(key, value)
            self._inner.put(key, value)
        self.on_put(key, value)

    def put_all(self, wanted: Mapping[str, KernelRoute]) -> Mapping[str, DataplaneError]:
        """Put all that can be; return why the others cannot."""
        with self._lock:
            newest = {key: self.wanted.get(key, value) for key, value in wanted.items()}
            failed = self._inner.put_all(newest)
        return self._told(newest, failed)

    def delete(self, key: str) -> None:
        """Remove a route."""
        self._inner.delete(key)

    def delete_all(self, keys: Collection[str]) -> Mapping[str, DataplaneError]:
        """Remove all that can be; return why the others cannot."""
        return self._inner.delete_all(keys)

    def lead(self, keys: Iterable[str]) -> Mapping[str, DataplaneError]:
        """Lead these routes as they are wanted now, in one step; return why some could not be."""
        with self._lock:
            wanted = self.wanted
            routes = {key: wanted[key] for key in keys if key in wanted}
            failed = self._inner.lead(routes)
        return self._told(routes, failed)

    def _told(
        self, routes: Mapping[str, KernelRoute], failed: Mapping[str, DataplaneError]
    ) -> Mapping[str, DataplaneError]:
        for key in routes.keys() - failed.keys():
            self.on_put(key, routes[key])
        return failed


def without_others(table: ServiceTable) -> ServiceTable:
    """Return the table with no load of other sites and no suspension: what a comparison looks at."""
    return ServiceTable(
        tuple(
            replace(one, others=0, out=Reason.NONE if one.out is Reason.SUSPENDED else one.out)
            for one in table.candidates
        )
    )
