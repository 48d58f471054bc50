"""A driver over a dict, with failures on demand and a log of what was done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skedge.core.desired.reconcile import KINDS, Drivers
from skedge.core.errors import DataplaneError


class MemoryDriver:
    def __init__(self, kind: str = "", log: list[tuple[str, str, Any]] | None = None) -> None:
        self.kind = kind
        self.objects: dict[Any, Any] = {}
        self.log = [] if log is None else log
        self.broken: set[Any] = set()
        self.unreadable = False

    def read(self) -> Mapping[Any, Any]:
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


def memory_drivers() -> tuple[Drivers, list[tuple[str, str, Any]]]:
    """All six drivers of one site, writing into one log."""
    log: list[tuple[str, str, Any]] = []
    return Drivers(*(MemoryDriver(kind, log) for kind in KINDS)), log
