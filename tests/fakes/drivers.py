"""Drivers in memory, held to the same contract tests as the real ones (tests/unit/dataplane/contract.py)."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Generic, TypeVar

from skedge.core.errors import DataplaneError, Waiting
from skedge.core.model import Protocol
from skedge.core.names import PREFIX
from skedge.core.objects import Endpoint, EndpointKey, KernelRoute, LinkDevice

K = TypeVar("K")
V = TypeVar("V")


class FakeDriver(Generic[K, V]):
    """Driver[K, V] in memory. ``foreign`` are others' objects: never read, never touched.

    ``fail`` names keys whose next puts and deletes the kernel refuses; ``log`` holds what was done.
    """

    def __init__(self, objects: Mapping[K, V] | None = None) -> None:
        self.objects: dict[K, V] = dict(objects or {})
        self.foreign: set[K] = set()
        self.fail: set[K] = set()
        self.log: list[tuple[str, K]] = []

    def read(self) -> Mapping[K, V]:
        """Return all objects."""
        return dict(self.objects)

    def put(self, key: K, value: V) -> None:
        """Create or replace one object. Raises DataplaneError as the real driver would."""
        self.check(key, value)
        if key in self.fail or key in self.foreign:
            raise DataplaneError(f"{key}: exists and is not ours" if key in self.foreign else f"{key}: refused")
        self.objects[key] = value
        self.log.append(("put", key))

    def delete(self, key: K) -> None:
        """Remove one object; one that is already gone, or not ours, is success."""
        if key in self.fail:
            raise DataplaneError(f"{key}: refused")
        if self.objects.pop(key, None) is not None:
            self.log.append(("delete", key))

    def check(self, key: K, value: V) -> None:
        """Raise DataplaneError for what the real driver refuses by itself."""


class FakeLinkDriver(FakeDriver[str, LinkDevice]):
    """`links.LinkDriver` in memory."""

    def check(self, key: str, value: LinkDevice) -> None:
        """Refuse wireguard links without a far end's key, and devices without our prefix."""
        if value.transport.facts.encrypted and not value.keys:
            raise Waiting(f"link {value.link}: the key of its far end is not known")
        if not key.startswith(PREFIX):
            raise DataplaneError(f"link {value.link}: device {key} has not the prefix {PREFIX} of our devices")


class FakeAddressDriver(FakeDriver[str, str]):
    """`addresses.AddressDriver` in memory."""

    def check(self, key: str, value: str) -> None:
        """Refuse another device than ``lo``."""
        if value != "lo":
            raise DataplaneError(f"overlay address {key}: it belongs on lo, not on {value}")


class FakeRouteDriver(FakeDriver[str, KernelRoute]):
    """`routes.RouteDriver` in memory; ``devices`` are those that exist (None: all that are named)."""

    def __init__(self, objects: Mapping[str, KernelRoute] | None = None, devices: set[str] | None = None) -> None:
        super().__init__(objects)
        self.devices = devices

    def check(self, key: str, value: KernelRoute) -> None:
        """Refuse a route without next hops or over a device that is not there."""
        ip_network(key)
        if not value.next_hops:
            raise DataplaneError(f"route to {key}: it has no next hop")
        for hop in value.next_hops:
            if self.devices is not None and hop.device not in self.devices:
                raise DataplaneError(f"route to {key}: there is no device {hop.device}")


class FakeEndpointDriver(FakeDriver[EndpointKey, Endpoint]):
    """`endpoints.EndpointDriver` in memory."""

    def check(self, key: EndpointKey, value: Endpoint) -> None:
        """Refuse what is no address, and two UDP endpoints of one workload address."""
        try:
            ip_address(value.host)
        except ValueError as error:
            raise DataplaneError(f"endpoint {key.port} of {value.workload}: host {value.host} is no address") from error
        for other, endpoint in self.objects.items():
            same = (endpoint.host, endpoint.port) == (value.host, value.port)
            if other != key and same and key.protocol is Protocol.UDP and other.protocol is Protocol.UDP:
                raise DataplaneError(f"endpoint {key.port}/udp: {endpoint.workload} has the same workload")
