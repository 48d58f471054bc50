"""Listeners in the kernel: which addresses are caught, and to which services their connections go."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Mapping

from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol
from skedge.core.objects import ListenerKey, ListenerTarget, ServiceKey
from skedge.core.placement.policies import SCHEDULE_SIZE
from skedge.dataplane.ebpf.layout_listener import ListenerValue
from skedge.dataplane.ebpf.maps import Maps
from skedge.dataplane.ebpf.services import ServiceDriver


class ListenerDriver:
    """Driver[ListenerKey, ListenerTarget]."""

    def __init__(self, maps: Maps, services: ServiceDriver, lock: threading.RLock) -> None:
        self._maps = maps
        self._services = services
        self._lock = lock
        self._ports: dict[tuple[int, Protocol], set[ListenerKey]] | None = None  # as of the last look; changed by us

    def read(self) -> Mapping[ListenerKey, ListenerTarget]:
        """Return all listeners. One that is not whole (a service without a table, no mark) has a nameless service."""
        with self._lock:
            keys = {ident: key for key, ident in self._services.ids.items()}
            found = self._maps.listeners()
            self._ports = _by_port(found)
            return {one: self._target_of(one, value, keys) for one, value in found.items()}

    def _target_of(self, key: ListenerKey, value: ListenerValue, keys: Mapping[int, ServiceKey]) -> ListenerTarget:
        if not (value.services <= keys.keys() and self._maps.has_port(key.port, key.protocol)):
            return ListenerTarget(ServiceKey("", key.protocol))
        schedule = tuple(keys[ident] for ident in value.schedule)
        return ListenerTarget(keys[value.service], schedule, value.affinity_s, value.preserves_src)

    def glance(self) -> Hashable:
        """Return what changes with every change of a listener by others."""
        with self._lock:
            return self._maps.listener_state()

    def put(self, key: ListenerKey, value: ListenerTarget) -> None:
        """Place connects to this address, in one step.

        Raises:
            DataplaneError: a service has no table yet, the schedule is too long, or the kernel refused.
        """
        where = f"listener {key.address} port {key.port}"
        if len(value.schedule) > SCHEDULE_SIZE:
            raise DataplaneError(f"{where}: {len(value.schedule)} turns are more than {SCHEDULE_SIZE}")
        with self._lock:
            schedule = tuple(self._ident(where, service) for service in value.schedule)
            wanted = ListenerValue(self._ident(where, value.service), schedule, value.affinity_s, value.preserves_src)
            try:
                self._maps.put_listener(key, wanted)
            except ValueError as error:
                raise DataplaneError(f"{where}: {error}") from error
            self._maps.set_port(key.port, key.protocol, True)
            self._at(key).add(key)

    def _ident(self, where: str, service: ServiceKey) -> int:
        ident = self._services.ids.get(service)
        if ident is None:
            raise DataplaneError(f"{where}: service {service.name} has no table yet")
        return ident

    def delete(self, key: ListenerKey) -> None:
        """Leave connects to this address alone; open connections go on."""
        with self._lock:
            self._maps.delete_listener(key)
            left = self._at(key)
            left.discard(key)
            if not left:
                self._maps.set_port(key.port, key.protocol, False)

    def _at(self, key: ListenerKey) -> set[ListenerKey]:
        """Return the listeners at the same port, not read anew for each: a host may have thousands of addresses."""
        if self._ports is None:
            self._ports = _by_port(self._maps.listeners())
        return self._ports.setdefault((key.port, key.protocol), set())


def _by_port(keys: Iterable[ListenerKey]) -> dict[tuple[int, Protocol], set[ListenerKey]]:
    found: dict[tuple[int, Protocol], set[ListenerKey]] = {}
    for key in keys:
        found.setdefault((key.port, key.protocol), set()).add(key)
    return found
