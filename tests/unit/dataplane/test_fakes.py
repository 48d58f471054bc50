"""The drivers in memory keep the contract of the real ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey
from tests.fakes.drivers import (
    FakeAddressDriver,
    FakeDriver,
    FakeEndpointDriver,
    FakeLinkDriver,
    FakeRouteDriver,
)
from tests.unit.dataplane import samples
from tests.unit.dataplane.contract import Case, check

MAKERS: dict[str, Callable[[], Case]] = {
    "links": lambda: Case(FakeLinkDriver(), *samples.links("eth1")),
    "routes": lambda: Case(FakeRouteDriver(devices={"sk-a", "sk-b"}), *samples.routes("sk-a", "sk-b")),
    "addresses": lambda: Case(FakeAddressDriver(), *samples.addresses()),
    "endpoints": lambda: Case(FakeEndpointDriver(), *samples.endpoints()),
}


@pytest.mark.parametrize("kind", MAKERS)
@check
def test_contract(kind: str, check: Callable[[Case], None]) -> None:
    check(MAKERS[kind]())


def test_foreign_objects_are_never_seen_nor_touched() -> None:
    driver: FakeDriver[str, str] = FakeDriver()
    driver.foreign.add("theirs")
    with pytest.raises(DataplaneError, match="not ours"):
        driver.put("theirs", "mine")
    driver.delete("theirs")
    assert driver.read() == {}
    assert driver.log == []


def test_a_key_that_the_kernel_refuses_stays_as_it_was() -> None:
    driver: FakeDriver[str, str] = FakeDriver({"a": "1"})
    driver.fail.add("a")
    with pytest.raises(DataplaneError):
        driver.put("a", "2")
    with pytest.raises(DataplaneError):
        driver.delete("a")
    assert driver.read() == {"a": "1"}


def test_two_udp_endpoints_of_one_workload_address_are_refused() -> None:
    driver = FakeEndpointDriver()
    driver.put(EndpointKey(61000, Protocol.UDP), Endpoint(WorkloadId("a", "x"), "127.0.0.1", 53))
    with pytest.raises(DataplaneError, match="a/x"):
        driver.put(EndpointKey(61001, Protocol.UDP), Endpoint(WorkloadId("a", "y"), "127.0.0.1", 53))
