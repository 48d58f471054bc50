"""A driver over a dict, with failures on demand and a log of what was done; a registry of such drivers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from skedge.core.desired.kinds import Kind, Registry
from skedge.core.desired.kinds import field as desired_field
from skedge.core.errors import DataplaneError
from skedge.core.placement.candidates import merge_candidates

# kind as printed -> field of Desired, in the order of creation
FIELDS = {
    "link": "links",
    "address": "addresses",
    "route": "routes",
    "endpoint": "endpoints",
    "service": "services",
    "listener": "listeners",
}


class MemoryDriver:
    def __init__(self, kind: str = "", log: list[tuple[str, str, Any]] | None = None) -> None:
        self.kind = kind
        self.objects: dict[Any, Any] = {}
        self.log = [] if log is None else log
        self.broken: set[Any] = set()
        self.unreadable = False
        self.reads = 0

    def read(self) -> Mapping[Any, Any]:
        self.reads += 1
        if self.unreadable:
            raise DataplaneError(f"{self.kind}: the kernel does not answer")
        return dict(self.objects)

    def put(self, key: Any, value: Any) -> None:
        self._check(key)
        self.log.append(("put", self.kind, key))
        self.objects[key] = value

    def delete(self, key: Any) -> None:
        self._check(key)
        self.log.append(("delete", self.kind, key))
        self.objects.pop(key, None)

    def _check(self, key: Any) -> None:
        if key in self.broken:
            raise DataplaneError(f"{self.kind} {key}: refused")


class MemoryRoutes(MemoryDriver):
    """That of routes, which also puts many in one step, and leads them another way."""

    def put_all(self, wanted: Mapping[Any, Any]) -> Mapping[Any, DataplaneError]:
        return self._each(lambda key: self.put(key, wanted[key]), wanted)

    def delete_all(self, keys: Collection[Any]) -> Mapping[Any, DataplaneError]:
        return self._each(self.delete, keys)

    def lead(self, routes: Mapping[Any, Any]) -> Mapping[Any, DataplaneError]:
        return self.put_all(routes)

    @staticmethod
    def _each(act: Callable[[Any], None], keys: Iterable[Any]) -> Mapping[Any, DataplaneError]:
        failed = {}
        for key in keys:
            try:
                act(key)
            except DataplaneError as error:
                failed[key] = error
        return failed


@dataclass
class MemoryDrivers:
    """The drivers of one site, writing into one log; ``rules`` stand for what comes before the links."""

    log: list[tuple[str, str, Any]]
    rules: MemoryDriver = field(init=False)
    links: MemoryDriver = field(init=False)
    addresses: MemoryDriver = field(init=False)
    routes: MemoryDriver = field(init=False)
    endpoints: MemoryDriver = field(init=False)
    services: MemoryDriver = field(init=False)
    listeners: MemoryDriver = field(init=False)

    def __post_init__(self) -> None:
        self.rules = MemoryDriver("rule", self.log)
        for kind, name in FIELDS.items():
            setattr(self, name, (MemoryRoutes if name == "routes" else MemoryDriver)(kind, self.log))

    @property
    def registry(self) -> Registry:
        """All kinds, links first."""
        return tuple(
            Kind(
                kind,
                getattr(self, name),
                desired_field(name),
                waits=True,
                merge=merge_candidates if kind == "service" else None,
            )
            for kind, name in FIELDS.items()
        )

    def with_rules(self) -> Registry:
        """The same, behind one rule that every site has."""
        return (Kind("rule", self.rules, lambda _config, _desired, _held: {"rule inet": ""}), *self.registry)


def memory_drivers() -> tuple[MemoryDrivers, list[tuple[str, str, Any]]]:
    """All drivers of one site, writing into one log."""
    log: list[tuple[str, str, Any]] = []
    return MemoryDrivers(log), log
