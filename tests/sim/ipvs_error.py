"""How far the engine `ipvs` is from the exact rule: the real balance over IPVS in memory, on a virtual clock.

``python -m tests.sim.ipvs_error`` prints the table of docs/benchmarks.md. Connections are held. They arrive one after
another (each seen before the next), at 50 and at 1,000 a second in random gaps, or all between two looks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from skedge.core.model import WorkloadId
from skedge.core.objects import Candidate, ServiceKey, ServiceTable, Target
from skedge.core.placement.rule import fill
from skedge.dataplane.ipvs.engine import PACE_S
from skedge.dataplane.ipvs.names_file import Memory, Virtual
from skedge.dataplane.ipvs.procfs import mark_of
from skedge.dataplane.ipvs.weight_loop import Balance
from tests.fakes.fake_ipvs import FakeIpvs

WEB = ServiceKey("web")
# The reference topologies: what it is, (path cost, capacity) of each workload, numbers of connections
ROWS: Sequence[tuple[str, Sequence[tuple[int, int]], Sequence[int]]] = (
    ("A, B at cost 1", ((0, 1), (1, 1)), (20,)),
    ("A, B at cost 9999", ((0, 1), (9999, 1)), (20, 1000)),
    ("A -10- B -20- C", ((0, 1), (10, 1), (30, 1)), (11, 12, 14, 50, 100)),
    ("the same, none at B", ((0, 1), (30, 1)), (100,)),
    ("A-B 10, A-D 50", ((0, 1), (10, 1), (50, 1)), (100,)),
    ("none at A; B 1, C 50", ((1, 1), (50, 1)), (100, 400, 500, 600)),
    ("capacity 4 and 1", ((10, 4), (10, 1)), (100,)),
)
INFINITE = float("inf")
RATES: Sequence[tuple[str, float]] = (
    ("one by one", 0.0),
    ("50/s", 50.0),
    ("1,000/s", 1000.0),
    ("at once", INFINITE),
)


@dataclass(frozen=True)
class Measured:
    """Result of one run: the most that any workload was off, at any moment and at the end, and the most in one look."""

    worst: int
    last: int
    crowd: int


def candidates(workloads: Sequence[tuple[int, int]]) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(WorkloadId(f"s{i}", "w"), cost, capacity=capacity, target4=Target(f"10.0.0.{i + 1}", 80))
        for i, (cost, capacity) in enumerate(workloads)
    )


def arrivals(n: int, rate: float, rng: random.Random) -> Iterator[float]:
    at = 0.0
    for _ in range(n):
        at += rng.expovariate(rate) if rate not in (0.0, INFINITE) else (PACE_S if rate == 0.0 else 0.0)
        yield at


def measure(workloads: Sequence[tuple[int, int]], n: int, rate: float, seed: int) -> Measured:
    """Hold ``n`` connections that arrive at ``rate``, looking every `PACE_S`."""
    table, memory, rng = FakeIpvs(), Memory(), random.Random(seed)
    balance = Balance(table, memory, lambda: 0.0)
    rows = candidates(workloads)
    memory.tables[WEB] = ServiceTable(rows)
    mark = mark_of(memory.ident(Virtual(WEB)), 4)
    table.put_service(mark, 0)
    balance.again([WEB])
    balance.follow()
    look, worst, off, crowd, since = rng.random() * PACE_S, 0, 0, 0, 0
    for k, at in enumerate(arrivals(n, rate, rng), 1):
        while look <= at and rate != INFINITE:
            balance.follow()
            look, since = look + PACE_S, 0
        table.connect(mark)
        since += 1
        crowd = max(crowd, since)
        counted = table.ours[mark]
        exact = fill(rows, k) if k <= 100 or k == n else None
        if exact is not None:
            off = max(
                abs(counted[one.target4].active - wanted)
                for one, wanted in zip(rows, exact, strict=True)
                if one.target4
            )
            worst = max(worst, off)
    return Measured(worst, off, crowd)


def sorted_like(counted: Mapping[Target, object], rows: Sequence[Candidate], exact: Sequence[int]) -> Sequence[int]:
    """Return the exact numbers in the order in which the kernel has the servers."""
    wanted = {one.target4: number for one, number in zip(rows, exact, strict=True)}
    return [wanted[target] for target in counted]


def seeds(rate: float, n: int = 20) -> range:
    return range(n if 0.0 < rate < INFINITE else 1)  # the others have no chance in them


def main() -> None:
    print("| topology | N | " + " | ".join(name for name, _ in RATES) + " |")
    print("|---|---|" + "---|" * len(RATES))
    for name, workloads, numbers in ROWS:
        for n in numbers:
            cells = []
            for _, rate in RATES:
                runs = [measure(workloads, n, rate, seed) for seed in seeds(rate)]
                cells.append(f"{max(run.worst for run in runs)} / {max(run.last for run in runs)}")
            print(f"| {name} | {n} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
