"""Connections that enter at several sites: exact against what each heard, and off by what came since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skedge.core.model import WorkloadId
from skedge.core.objects import Candidate, Target
from skedge.core.placement.rule import Ledger

from .kit import Clients, Line, Site, running, until

EACH = 4


class FiveSites(Line):
    """A line as the other, by names of its own, and two more sites behind the first."""

    NAMES = "vwxyz"
    LINKS = (
        ("v", "w", 10, "10.93.1"),
        ("w", "x", 20, "10.93.2"),
        ("v", "x", 100, "10.93.3"),
        ("v", "y", 15, "10.93.4"),
        ("v", "z", 25, "10.93.5"),
    )

    def settle(self, sites: Iterable[str] = NAMES) -> None:
        super().settle(sites)


@pytest.fixture
def five(tmp_path: Path) -> Iterator[Line]:
    with running(FiveSites(tmp_path)) as made:
        yield made


class Judge:
    """Knows every connection at once; each site's own path costs are what its controller says."""

    def __init__(self, line: Line, names: str) -> None:
        self.opens: dict[str, Counter[WorkloadId]] = {name: Counter() for name in names}
        self._ledgers = {name: Ledger() for name in names}
        self._costs = {name: line.sites[name].candidates() for name in names}

    def enter(self, name: str) -> None:
        """Place one connection."""
        others = sum((self.opens[other] for other in self.opens if other != name), Counter[WorkloadId]())
        at = Target("100.64.0.1", 61000)
        rows = [
            Candidate(one := WorkloadId(site, "web"), row.path_cost, target4=at, others=others[one])
            for site, row in sorted(self._costs[name].items())
        ]
        placement = self._ledgers[name].place(rows)
        assert placement is not None
        self.opens[name][rows[placement.winner].workload] += 1

    def counts(self, name: str) -> dict[str, int]:
        return {workload.site: number for workload, number in self.opens[name].items()}

    def total(self) -> Counter[str]:
        return sum((Counter(self.counts(name)) for name in self.opens), Counter[str]())


def heard(site: Site, total: Counter[str]) -> bool:
    """Whether a site knows of all connections."""
    opens, others = site.opens(), site.others()
    return all(opens[one] + others[one] == total[one] for one in opens)


def run_entering(line: Line, names: str) -> None:
    judge = Judge(line, names)
    clients = {name: Clients(line.sites[name]) for name in names}
    try:
        for turn in range(2 * len(names)):
            name = names[turn % len(names)]
            until(lambda at=name: heard(line.sites[at], judge.total()), 5, f"all connections known at {name}")
            clients[name].open(EACH)
            for _ in range(EACH):
                judge.enter(name)
            assert clients[name].names() == judge.counts(name), f"what {name} knows is all there is: exact"
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: clients[name].open(EACH), names))
        for name in names * EACH:
            judge.enter(name)
        found = sum((Counter(clients[name].names()) for name in names), Counter[str]())
        off = sum(abs(found[site] - judge.total()[site]) for site in line.NAMES) // 2
        assert off <= EACH * len(names), "no more is off than came before the others could hear of it"
    finally:
        for one in clients.values():
            one.quit()


def test_two_entering_sites(line: Line) -> None:
    run_entering(line, "ac")


@pytest.mark.long
def test_five_entering_sites(five: Line) -> None:
    run_entering(five, "vwxyz")
