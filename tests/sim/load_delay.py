"""How far several entering sites are from the exact split, since each hears of the others' connections late.

``python -m tests.sim.load_delay`` prints the tables of docs/benchmarks.md and draws docs/load-reports.svg. The rule
(`Ledger`), the pace of reports (`LoadSchedule`), their datagrams and the book that keeps them are the real ones, on a
virtual clock. Modelled: arrivals and ends of connections (seeded), the delay of a datagram, and that counters are read
every `COUNT_S`. The judge is one site that knows everything at once and places the same connections.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from math import exp, inf
from pathlib import Path
from statistics import fmean

from skedge.control.loads.exchange import decode, encode
from skedge.control.loads.schedule import LoadBook, LoadSchedule
from skedge.core.model import WorkloadId
from skedge.core.objects import Candidate, Target
from skedge.core.placement.rule import Ledger
from skedge.core.reasons import Reason
from skedge.core.records import Version
from skedge.daemon.counter_polling import COUNT_S
from tests.sim.svg import Line, Panel, svg

NETWORK, WEB = "sim", "web"
COSTS = (10, 10, 20, 40)  # of the workloads, the same from every entering site: all would run to the same one
WORKLOADS = tuple(WorkloadId(f"s{number}", "w") for number in range(len(COSTS)))
TARGET = Target("100.64.0.1", 61000)
UNSIGNED = bytes(64)
SITES = (1, 2, 5, 20)
DELAYS = (0.01, 0.03, 0.1, 0.3, 1.0)  # seconds
SEEDS = range(3)


@dataclass(frozen=True)
class Load:
    """What clients do: ``rate`` connections a second arrive in all, each is open for ``held_s`` in the mean."""

    rate: float
    held_s: float  # inf: never closed
    seconds: float


LOADS = (  # about 200 open in each
    ("60 s", Load(3.3, 60.0, 120.0)),
    ("10 s", Load(20.0, 10.0, 60.0)),
    ("1 s", Load(200.0, 1.0, 20.0)),
    ("0.2 s", Load(1000.0, 0.2, 5.0)),
    ("all come within 0.1 s and stay", Load(2000.0, inf, 0.1)),
)


@dataclass(frozen=True)
class Connection:
    at: float
    site: int
    until: float


@dataclass
class Entering:
    """One entering site: its kernel's counters, its controller's schedule and book."""

    name: str
    ledger: Ledger = field(default_factory=Ledger)
    schedule: LoadSchedule = field(default_factory=LoadSchedule)
    book: LoadBook = field(default_factory=LoadBook)
    table: tuple[Candidate, ...] | None = None  # None: what was heard changed
    means: dict[WorkloadId, float] = field(default_factory=dict)
    sequence: int = 0
    pumps_at: float = inf

    def candidates(self) -> tuple[Candidate, ...]:
        if self.table is None:
            others: Counter[WorkloadId] = Counter()
            for report in self.book.reports().values():
                others.update(report.open)
            self.table = candidates(others)
        return self.table


@dataclass
class Found:
    """Result of one run, sampled at each arrival after the first fifth (where connections close).

    ``off``: connections that are not where the judge has them. ``gap``: by how much (in units of cost) the dearest
    workload that has connections costs more than the cheapest. ``series``: time, connections to the first workload,
    the judge's.
    """

    off: list[int] = field(default_factory=list)
    gap: list[int] = field(default_factory=list)
    open: int = 0
    series: list[tuple[float, int, int]] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Return the part of the open connections that is not where the judge has it, in the mean."""
        return fmean(self.off) / self.open


def candidates(others: Mapping[WorkloadId, int]) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(one, cost, target4=TARGET, others=others.get(one, 0))
        for one, cost in zip(WORKLOADS, COSTS, strict=True)
    )


ALONE = candidates({})


def place(ledger: Ledger, table: tuple[Candidate, ...]) -> WorkloadId:
    placement = ledger.place(table)
    assert placement is not None
    return table[placement.winner].workload


def connections(load: Load, sites: int, rng: random.Random) -> list[Connection]:
    """Return what clients do; the same for every delay."""
    found, now = [], 0.0
    while (now := now + rng.expovariate(load.rate)) < load.seconds:
        site = rng.randrange(sites)
        held = rng.expovariate(1 / load.held_s) if load.held_s < inf else inf
        found.append(Connection(now, site, now + held))
    return found


class World:
    """Sites, clients and the event queue."""

    def __init__(self, load: Load, sites: int, delay_s: float, *, seed: int, mean_s: float) -> None:
        self.load, self.delay_s, self.mean_s = load, delay_s, mean_s
        self.now, self._count = 0.0, 0
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self.sites = [Entering(f"e{number:02}") for number in range(sites)]
        self.judge = Ledger()
        self.total: Counter[WorkloadId] = Counter()
        self.found = Found()
        phases = random.Random(seed + 1)
        names = {site.name: frozenset({WEB}) for site in self.sites}
        for site in self.sites:
            site.schedule.set_sites({name: services for name, services in names.items() if name != site.name})
            self._at(phases.random() * COUNT_S, partial(self._read_counters, site))
        for one in connections(load, sites, random.Random(seed)):
            self._at(one.at, partial(self._arrive, one))

    def run(self) -> Found:
        while self._queue and self._queue[0][0] < self.load.seconds:
            self.now, _, step = heappop(self._queue)
            step()
        return self.found

    def _at(self, when: float, step: Callable[[], object]) -> None:
        self._count += 1
        heappush(self._queue, (when, self._count, step))

    # ---- clients --------------------------------------------------------------------------------------------------

    def _arrive(self, one: Connection) -> None:
        site = self.sites[one.site]
        chosen, wanted = place(site.ledger, site.candidates()), place(self.judge, ALONE)
        self.total[chosen] += 1
        self._at(one.until, partial(self._leave, site, chosen, wanted))
        self._judge()

    def _leave(self, site: Entering, chosen: WorkloadId, wanted: WorkloadId) -> None:
        site.ledger.release(chosen)
        self.judge.release(wanted)
        self.total[chosen] -= 1

    def _judge(self) -> None:
        found, exact = self.found, self.judge.opens
        off = sum(abs(self.total[one] - exact.get(one, 0)) for one in WORKLOADS) // 2
        found.series.append((self.now, self.total[WORKLOADS[0]], exact.get(WORKLOADS[0], 0)))
        if self.load.held_s < inf and self.now < self.load.seconds / 5:
            return
        found.off.append(off)
        found.gap.append(gap(self.total))
        found.open = max(found.open, sum(exact.values()))

    # ---- reports --------------------------------------------------------------------------------------------------

    def _read_counters(self, site: Entering) -> None:
        site.schedule.set_counts({WEB: self._said(site)})
        self._pump(site)
        self._at(self.now + COUNT_S, partial(self._read_counters, site))

    def _said(self, site: Entering) -> Mapping[WorkloadId, int]:
        """Return what a site reports: its counters, or (to see what that would do) their mean of late."""
        if not self.mean_s:
            return site.ledger.opens
        part = 1 - exp(-COUNT_S / self.mean_s)
        for one, opens in site.ledger.opens.items():
            mean = site.means.setdefault(one, opens)
            site.means[one] = mean + part * (opens - mean)
        return {one: round(mean) for one, mean in site.means.items()}

    def _pump(self, site: Entering) -> None:
        """Send what is due, as `LoadExchange` does, and come back when the next is."""
        for to in site.schedule.due(self.now):
            site.sequence += 1
            content = site.schedule.content(to)
            datagrams = encode(NETWORK, site.name, to, Version(1, site.sequence), content, lambda _: UNSIGNED)
            site.schedule.sent(to, self.now, len(datagrams))
            for datagram in datagrams:
                self._at(self.now + self.delay_s, partial(self._hear, to, datagram))
        at = max(site.schedule.wake_at(self.now), self.now + 0.001)
        if at < inf and not self.now < site.pumps_at <= at:
            site.pumps_at = at
            self._at(at, lambda: self._pump(site) if site.pumps_at == at else None)

    def _hear(self, to: str, datagram: bytes) -> None:
        site = self.sites[int(to[1:])]
        said, _, _ = decode(datagram)
        open_ = {WorkloadId(entry.site, entry.connector): entry.open for entry in said.entries}
        version = Version(said.incarnation, said.sequence)
        reason = site.book.part(said.site, version, said.part, said.parts, open_, self.now)
        assert reason is Reason.NONE
        site.table = None


def gap(opens: Mapping[WorkloadId, int]) -> int:
    costs = [(cost + opens.get(one, 0), opens.get(one, 0)) for one, cost in zip(WORKLOADS, COSTS, strict=True)]
    return max((cost for cost, number in costs if number), default=0) - min(cost for cost, _ in costs)


def measure(load: Load, sites: int, delay_s: float, *, seed: int = 1, mean_s: float = 0.0) -> Found:
    return World(load, sites, delay_s, seed=seed, mean_s=mean_s).run()


def cell(load: Load, sites: int, delay_s: float, mean_s: float = 0.0) -> str:
    found = [measure(load, sites, delay_s, seed=seed, mean_s=mean_s) for seed in SEEDS]
    worst = max(max(one.off) / one.open for one in found)
    gaps = f"{fmean(fmean(one.gap) for one in found):.0f}"
    return f"{fmean(one.share for one in found):.1%} / {worst:.0%} / {gaps}"


def table(loads: Sequence[tuple[str, Load]] = LOADS, mean_s: float = 0.0) -> None:
    print("| open for | sites | " + " | ".join(f"{delay * 1000:.0f} ms" for delay in DELAYS) + " |")
    print("|---|---|" + "---|" * len(DELAYS))
    for name, load in loads:
        for sites in SITES[1:]:
            print(f"| {name} | {sites} | " + " | ".join(cell(load, sites, delay, mean_s) for delay in DELAYS) + " |")


def shares(load: Load, sites: int) -> Line:
    at = tuple((delay, measure(load, sites, delay).share * 100) for delay in DELAYS)
    return Line(f"{sites} sites", at)


def of(load: Load) -> list[Line]:
    return [shares(load, sites) for sites in SITES]


def picture() -> str:
    """Return the plot: what is off by the delay, and how a herd runs."""
    panels = [
        Panel(
            f"% elsewhere than exact; open for {name}", "delay of a report, s", True, [shares(load, n) for n in SITES]
        )
        for name, load in LOADS
        if load.held_s in (10.0, 1.0)
    ]
    herd = measure(dict(LOADS)["1 s"], 20, 1.0).series[::10]
    series = [
        Line("20 sites, reports 1 s late", tuple((at, float(number)) for at, number, _ in herd)),
        Line("exact", tuple((at, float(number)) for at, _, number in herd)),
    ]
    return svg([*panels, Panel("connections to one workload, open for 1 s", "time, s", decades=False, lines=series)])


def main() -> None:
    table()
    print("\nThe mean of the last 2 s in the place of the counters:\n")
    table(LOADS[1:3], 2.0)
    Path("docs/load-reports.svg").write_text(picture())


if __name__ == "__main__":
    main()
