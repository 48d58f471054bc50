"""What every driver promises (core.engine.Driver), as one list of checks: run on the fakes and on the real kernel.

A case brings a driver and samples of keys with two different values each, in an order in which they can be put.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import pytest

from skedge.core.desired.reconcile import reconcile
from skedge.core.errors import DataplaneError


@dataclass
class Case:
    driver: Any
    samples: dict[Hashable, tuple[Any, Any]]
    refused: dict[Hashable, Any] = field(default_factory=dict)  # what put must refuse with a DataplaneError
    call: Callable[..., Any] = lambda function, *args: function(*args)

    def read(self) -> dict[Hashable, Any]:
        return dict(self.call(self.driver.read))

    def put(self, key: Hashable, value: Any) -> None:
        self.call(self.driver.put, key, value)

    def delete(self, key: Hashable) -> None:
        self.call(self.driver.delete, key)

    def wanted(self, which: int = 0) -> dict[Hashable, Any]:
        return {key: values[which] for key, values in self.samples.items()}

    def reconcile(self, wanted: dict[Hashable, Any], **options: Any) -> Any:
        return self.call(lambda: reconcile(self.driver, wanted, **options))


def read_gives_what_put_wrote(case: Case) -> None:
    for key, values in case.samples.items():
        for value in values:
            case.put(key, value)
            assert case.read()[key] == value


def put_again_changes_nothing(case: Case) -> None:
    for key, (value, _) in case.samples.items():
        case.put(key, value)
        before = case.read()
        case.put(key, value)
        assert case.read() == before


def delete_removes_and_may_be_repeated(case: Case) -> None:
    for key, (value, _) in case.samples.items():
        case.put(key, value)
    for key in reversed(list(case.samples)):
        case.delete(key)
        assert key not in case.read()
        case.delete(key)
    assert case.read() == {}


def a_second_reconcile_changes_nothing(case: Case) -> None:
    for which in (0, 1):
        first = case.reconcile(case.wanted(which))
        assert first.clean, first.failed
        assert case.read() == case.wanted(which)
        assert case.reconcile(case.wanted(which)).changed == []
    report = case.reconcile({})
    assert report.clean, report.failed
    assert case.read() == {}


def a_dry_run_changes_nothing(case: Case) -> None:
    report = case.reconcile(case.wanted(), dry_run=True)
    assert set(report.changed) == set(case.samples)
    assert case.read() == {}


def a_refusal_is_one_error_and_stops_nobody(case: Case) -> None:
    for key, value in case.refused.items():
        with pytest.raises(DataplaneError) as caught:
            case.put(key, value)
        assert "\n" not in str(caught.value)
    report = case.reconcile({**case.refused, **case.wanted()})
    assert set(report.failed) == set(case.refused)
    assert case.read() == case.wanted()


CHECKS = (
    read_gives_what_put_wrote,
    put_again_changes_nothing,
    delete_removes_and_may_be_repeated,
    a_second_reconcile_changes_nothing,
    a_dry_run_changes_nothing,
    a_refusal_is_one_error_and_stops_nobody,
)
check = pytest.mark.parametrize("check", CHECKS, ids=lambda function: function.__name__)
