"""The bound that docs/benchmarks.md gives for the engine `ipvs`: as many as come between two looks, and no more."""

from __future__ import annotations

import pytest

from tests.sim.ipvs_error import RATES, ROWS, measure, seeds

CASES = [(workloads, n) for _, workloads, numbers in ROWS for n in numbers]


@pytest.mark.parametrize(("workloads", "n"), CASES)
@pytest.mark.parametrize("rate", [rate for _, rate in RATES], ids=[name for name, _ in RATES])
def test_no_workload_is_off_by_more_than_came_between_two_looks(workloads, n: int, rate: float) -> None:
    for seed in seeds(rate, 3):
        found = measure(workloads, n, rate, seed)
        assert found.worst <= (0 if rate == 0.0 else found.crowd)


@pytest.mark.parametrize(("workloads", "n"), [case for case in CASES if case[1] >= 100])
def test_what_a_crowd_did_is_made_good_by_those_that_come_after(workloads, n: int) -> None:
    """Each look aims from the counts that there are, so an error does not add up."""
    for seed in seeds(1000.0, 3):
        found = measure(workloads, n, 1000.0, seed)
        assert found.last <= 8
