from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from skedge.core.desired import compute
from skedge.core.desired.reconcile import diff, plan, reconcile, reconcile_all
from skedge.core.model import SiteConfig
from skedge.core.records import NetworkMap
from tests.fakes.memory_driver import FIELDS, MemoryDriver, memory_drivers
from tests.fakes.networks import desired_at
from tests.property.strategies import networks

STATES = st.dictionaries(st.text("abcdef", max_size=2), st.integers(0, 3), max_size=12)
Network = tuple[dict[str, SiteConfig], NetworkMap]


@given(STATES, STATES)
def test_applying_the_difference_gives_the_desired_state(wanted: dict[str, int], current: dict[str, int]) -> None:
    delta = diff(wanted, current)
    applied = {key: value for key, value in current.items() if key not in delta.delete} | dict(delta.put)
    assert applied == wanted
    assert all(current.get(key) != value for key, value in delta.put.items())
    assert set(delta.delete) == current.keys() - wanted.keys()


@given(STATES, STATES, st.sets(st.text("abcdef", max_size=2)))
def test_what_failed_stays_different_and_everything_else_is_right(
    wanted: dict[str, int], current: dict[str, int], broken: set[str]
) -> None:
    driver = MemoryDriver()
    driver.objects, driver.broken = dict(current), broken
    report = reconcile(driver, wanted)
    for key in wanted.keys() | current.keys():
        expected = current.get(key) if key in broken else wanted.get(key)
        assert driver.objects.get(key) == expected
    assert set(report.failed) == set(diff(wanted, driver.objects).put) | set(diff(wanted, driver.objects).delete)
    driver.broken = set()
    reconcile(driver, wanted)
    assert driver.objects == wanted


def state(drivers: Any) -> dict[str, Any]:
    return {name: dict(getattr(drivers, name).read()) for name in FIELDS.values()}


@given(networks(6), networks(6))
def test_reconciling_twice_changes_nothing_the_second_time(before: Network, after: Network) -> None:
    drivers, log = memory_drivers()
    reconcile_all(drivers.registry, before[0]["s0"], desired_at(before[0]["s0"], before[1]))
    wanted = desired_at(after[0]["s0"], after[1])
    steps = plan(drivers.registry, after[0]["s0"], wanted)
    log.clear()
    reconcile_all(drivers.registry, after[0]["s0"], wanted)
    assert len(log) == len(steps)
    assert state(drivers) == {name: getattr(wanted, name) for name in FIELDS.values()}
    log.clear()
    reports = reconcile_all(drivers.registry, after[0]["s0"], wanted)
    assert log == []
    assert all(report.changed == [] for report in reports.values())


@given(networks(6), networks(6))
def test_before_sync_nothing_that_the_kernel_has_is_lost(before: Network, after: Network) -> None:
    drivers, log = memory_drivers()
    reconcile_all(drivers.registry, before[0]["s0"], desired_at(before[0]["s0"], before[1]))
    had = state(drivers)
    log.clear()
    reconcile_all(drivers.registry, after[0]["s0"], desired_at(after[0]["s0"], after[1]), allow_delete=False)
    assert not any(action == "delete" for action, _, _ in log)
    now = state(drivers)
    for name, objects in had.items():
        assert objects.keys() <= now[name].keys()
    for key, table in had["services"].items():
        kept = {one.workload for one in now["services"][key].candidates}
        assert {one.workload for one in table.candidates} <= kept


@given(networks(6))
def test_desired_state_is_a_function_of_its_arguments(network: Network) -> None:
    all_configs, network_map = network
    shuffled = NetworkMap(dict(reversed(network_map.links.items())), dict(reversed(network_map.services.items())))
    for config in all_configs.values():
        one: compute.Desired = desired_at(config, network_map, ["10.0.0.1", "10.0.0.2"])
        assert one == desired_at(config, shuffled, ["10.0.0.2", "10.0.0.1"])
