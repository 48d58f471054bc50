"""What docs/benchmarks.md says of the error of the engine `ipvs` holds in a real kernel, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.sim.ipvs_error import ROWS

from .error import FASTEST, ONE_BY_ONE, Bench

CASES = [(name, workloads, n) for name, workloads, numbers in ROWS for n in numbers if n in (14, 20, 100)]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack)


@pytest.mark.parametrize("rate", [ONE_BY_ONE, FASTEST], ids=["one by one", "as fast as they come"])
@pytest.mark.parametrize(("workloads", "n"), [case[1:] for case in CASES], ids=[f"{n} of {of}" for of, _, n in CASES])
def test_no_workload_is_off_by_more_than_came_meanwhile(
    bench: Bench, workloads: list[tuple[int, int]], n: int, rate: float
) -> None:
    """One by one by none. Else a look itself takes time here, so what comes meanwhile counts to that look, too."""
    found = bench.run(workloads, n, rate).error
    assert found.worst <= (0 if rate == ONE_BY_ONE else found.crowd)
