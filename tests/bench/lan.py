"""The row of a client on the LAN: direct routing, skedge, haproxy and nftables to a server of another site.

The ratios are made within a round, as in all of the benchmark. Processor time is that of the whole machine, client,
both hosts and server together, since much of it is nobody's (softirq): run it on a machine with nothing else to do.
Memory is what the machine uses more with the connections than before (programs, sockets, kernel tables), less what
direct routing needs for the same connections, which is their two ends.
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.bench.judge import Rule
from tests.bench.probes import places, serve
from tests.bench.rounds import Series
from tests.bench.run import Bench
from tests.bench.ways import FAR, Client, Way, ways
from tests.lab.sh import LabError, say

OURS = (9090, 9101, 9102, 9103, 9104, 9105)
CONNECTIONS, MANY, TURNS, STREAM_S = 1500, 4000, 4000, 0.7
# haproxy needs two descriptors a connection, and a little more, where processes may not have more than this
IDLE = min(10_000, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 1000) // 2)
PATIENCE, SETTLE_S = 20.0, 1.0
USED = ("AnonPages", "Shmem", "Slab", "KernelStack", "PageTables", "Percpu", "VmallocUsed")


def busy() -> float:
    """Return the seconds that this machine's processors have worked."""
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def used() -> float:
    """Return the MiB in use on this machine, without caches of files and empty slabs."""
    for cache in Path("/sys/kernel/slab").glob("*/shrink"):
        with contextlib.suppress(OSError):
            cache.write_text("1")
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(lines[key].split()[0]) for key in USED if key in lines) / 1024


class LanRow:
    """The measurements of one run."""

    def __init__(self, bench: Bench, client: Client, found: list[Way]) -> None:
        self.bench, self.client, self.ways = bench, client, found

    def series(self, label: str, what: str, mode: str, amount: float, limit: str) -> Series:
        """Return one thing to measure in all ways; the last number of each is the processors' time.

        skedge's ratio to direct has a target, and must be better than that of nftables.
        """
        name, better = f"{label}: {what}", "< 1" if limit.startswith("<") else "> 1"
        rules = [
            Rule(f"{name}, {way.name} / direct", (way.name,), ("direct",), limit if way.name == "skedge" else "")
            for way in self.ways
            if way.name != "direct"
        ]
        rules.append(Rule(f"{name}, skedge / nftables", ("skedge",), ("nftables",), better))
        return Series(name, {way.name: partial(self._once, way, mode, amount) for way in self.ways}, rules)

    def _once(self, way: Way, mode: str, amount: float) -> list[float]:
        with way.open():
            before = busy()
            numbers = self.client.measure(self.bench.program, mode, way.address, way.port, amount)
            return [*numbers, busy() - before]

    def each(self, what: str, unit: str, series: Series, number: Callable[[list[list[float]]], float]) -> None:
        """Note one number of each way, made of all its rounds."""
        for name in series.ways:
            value = number([list(one[name]) for one in series.rounds])
            self.bench.report.value(f"{what}, {name}", value, unit)

    def traffic(self, label: str, rounds: int) -> None:
        """Measure streams, round trips and connections."""
        stream = self.series(label, "throughput", "stream", STREAM_S, ">= 0.97")
        turn = self.series(label, "round trip", "turn", TURNS, "<= 1.05")
        conn = self.series(label, "whole connection", "conn", CONNECTIONS, "<= 1.18")
        many = self.series(label, "connections a second", "many", MANY, ">= 0.90")
        self.bench.measure(stream, turn, conn, many, rounds=rounds)
        show, report = self.each, self.bench.report
        show(f"{label}: one stream", "Gbit/s", stream, lambda rows: _median(rows, 0) * 8 / 1e9)
        report.rules(stream)
        show(f"{label}: processor time a GB", "s", stream, _per_gb)
        show(f"{label}: round trip, p50", "µs", turn, lambda rows: _median(rows, 0) / 1000)
        report.rules(turn)
        show(f"{label}: whole connection, p50", "µs", conn, lambda rows: _median(rows, 0) / 1000)
        report.rules(conn)
        show(f"{label}: connections a second", "1/s", many, lambda rows: _median(rows, 0))
        report.rules(many)
        show(f"{label}: processor time of 10,000 connections", "s", many, _per_10k)

    def idle(self, rounds: int = 3) -> None:
        """Measure memory while very many connections are open and nothing is said on them."""
        found: dict[str, list[float]] = {}
        for number in range(rounds + 1):
            for way in self.ways:
                with way.open():
                    more = self._held(way)
                if number and more:
                    found.setdefault(way.name, []).append(more)
        least = statistics.median(found["direct"])
        for name, rows in found.items():
            what = f"lan: memory of {IDLE} idle connections, {name}"
            more = statistics.median(rows) - (0 if name == "direct" else least)
            self.bench.report.value(what if name == "direct" else f"{what}, more than direct", more, "MiB")

    def _held(self, way: Way) -> float:
        """Return the MiB more in use while the connections are held; 0 where not so many can be."""
        before = used()
        argv = self.client.argv(self.bench.program, "idle", way.address, way.many or way.port, IDLE)
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdin is not None
            held = holder.stdout.readline().strip() == str(IDLE)
            more = used() - before if held else 0.0
            holder.stdin.close()
        if not held:
            self.bench.report.fails(f"lan: {way.name} holds {IDLE} connections")
        time.sleep(SETTLE_S)
        return more


def _median(rows: list[list[float]], column: int) -> float:
    return statistics.median(row[column] for row in rows)


def _per_gb(rows: list[list[float]]) -> float:
    return sum(row[-1] for row in rows) / sum(row[0] * STREAM_S / 1e9 for row in rows)


def _per_10k(rows: list[list[float]]) -> float:
    return sum(row[-1] for row in rows) / len(rows) * 10_000 / MANY


PARTS = 2  # of the run that have targets: with offloads and without


def rows(bench: Bench) -> None:
    """Deploy, measure all ways that lead to the server, note those that do not as a missed target."""
    bench.deploy("direct", "-e", "bench_lan=true")
    lab = bench.lab
    client = Client(lab.lan("client"))
    with places(lab.host("edge-b")) as (b_in, b_out), places(lab.host("edge-a")) as (_, a_out):
        serve(b_in, bench.program, *OURS)
        serve(b_out, bench.program, *FAR)
        with ways(lab, client, a_out, IDLE, bench.program.with_name("haproxy.log")) as found:
            row = LanRow(bench, client, _leading(bench, client, found))
            row.traffic("lan", bench.rounds)
            row.idle()
            bench.offload(on=False, clients=[client.machine.name])
            row.traffic("lan, no offloads", bench.fewer())
            bench.offload(on=True, clients=[client.machine.name])


def _leading(bench: Bench, client: Client, found: list[Way]) -> list[Way]:
    """Return the ways that lead to the server; without direct routing there is nothing to compare with."""
    good = [way for way in found if way.answers(client, bench.program, PATIENCE)]
    for way in found:
        if way not in good:
            say(f"{way.name}: a client on the LAN gets no answer from {way.address}:{way.port}")
            bench.report.fails(f"lan: {way.name} answers a client on the LAN")
    if not good or good[0].name != "direct":
        raise LabError("edge-a does not route the LAN's packets to edge-b: nothing to compare with")
    return good
