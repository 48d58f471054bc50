"""The row of a client on the LAN: direct routing, skedge, haproxy and nftables to a server of another site.

The ratios are made within a round, as in all of the benchmark. Processor time is that of the whole machine, client,
both hosts and server together, since much of it is nobody's (softirq): run it on a machine with nothing else to do.
Memory is what the machine uses more with the connections than before (programs, sockets, kernel tables), less what
direct routing needs for the same connections, which is their two ends.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from tests.bench.probes import places, serve
from tests.bench.ways import FAR, Client, Way, ways
from tests.lab.lab import Lab
from tests.lab.sh import LabError, run, say

OURS = (9090, 9101, 9102, 9103, 9104, 9105)
CONNECTIONS, MANY, TURNS, STREAM_S = 1500, 4000, 4000, 0.7
# haproxy needs two descriptors a connection, and a little more, where processes may not have more than this
IDLE = min(10_000, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 1000) // 2)
PATIENCE, SETTLE_S = 20.0, 1.0
USED = ("AnonPages", "Shmem", "Slab", "KernelStack", "PageTables", "Percpu", "VmallocUsed")

Found = dict[str, list[list[float]]]


class Bench(Protocol):
    """What is needed of the whole benchmark."""

    lab: Lab
    rounds: int
    program: Path

    def row(self, what: str, value: float, unit: str = "", target: str = "", good: bool | None = None) -> None:
        """Note one result."""

    def deploy(self, transport: str, *extra: str) -> None:
        """Deploy both hosts."""


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

    def interleave(self, mode: str, amount: float, rounds: int) -> Found:
        """Measure every way once a round, in a new order each time; the last number is the processors' time.

        A way that cannot carry this to its end is a missed target, and the others go on.
        """
        found: Found = {way.name: [] for way in self.ways}
        able = list(self.ways)
        order = random.Random(2)
        for number in range(rounds + 1):
            for way in order.sample(able, len(able)):
                try:
                    numbers = self._once(way, mode, amount)
                except LabError as error:
                    if way.name == "direct":
                        raise
                    say(str(error))
                    self.bench.row(f"lan: {way.name} carries {mode} to its end", 0, "", "1", False)
                    able.remove(way)
                    del found[way.name]
                    continue
                if number:  # the first round warms up
                    found[way.name].append(numbers)
        return found

    def _once(self, way: Way, mode: str, amount: float) -> list[float]:
        with way.open():
            before = busy()
            numbers = self.client.measure(self.bench.program, mode, way.address, way.port, amount)
            return [*numbers, busy() - before]

    def ratios(self, what: str, found: Found, pick: Callable[[list[float]], float], limit: str) -> None:
        """Note each way's ratio to direct; skedge's has a target, and must be better than that of nftables."""
        sign, bound = limit.split()
        got = {
            name: statistics.median(pick(a) / pick(b) for a, b in zip(rows, found["direct"], strict=True))
            for name, rows in found.items()
            if name != "direct"
        }
        for name, value in got.items():
            good = (value <= float(bound) if sign == "<=" else value >= float(bound)) if name == "skedge" else None
            self.bench.row(f"{what}, {name} / direct", value, "", limit if name == "skedge" else "", good)
        if "skedge" in got and "nftables" in got:
            ahead = (got["nftables"] - got["skedge"]) * (1 if sign == "<=" else -1)
            self.bench.row(f"{what}, better than nftables by", ahead, "", "> 0", ahead > 0)

    def each(self, what: str, unit: str, numbers: Iterable[tuple[str, float]]) -> None:
        """Note one number of each way."""
        for name, value in numbers:
            self.bench.row(f"{what}, {name}", value, unit)

    def traffic(self, label: str, rounds: int) -> None:
        """Measure streams, round trips and connections."""
        found = self.interleave("stream", STREAM_S, rounds)
        self.each(f"{label}: one stream", "Gbit/s", ((n, _median(r, 0) * 8 / 1e9) for n, r in found.items()))
        self.ratios(f"{label}: throughput", found, lambda r: r[0], ">= 0.97")
        per_gb = ((n, sum(r[-1] for r in rows) / sum(r[0] * STREAM_S / 1e9 for r in rows)) for n, rows in found.items())
        self.each(f"{label}: processor time a GB", "s", per_gb)

        found = self.interleave("turn", TURNS, rounds)
        self.each(f"{label}: round trip, p50", "µs", ((n, _median(r, 0) / 1000) for n, r in found.items()))
        self.ratios(f"{label}: round trip", found, lambda r: r[0], "<= 1.05")

        found = self.interleave("conn", CONNECTIONS, rounds)
        self.each(f"{label}: whole connection, p50", "µs", ((n, _median(r, 0) / 1000) for n, r in found.items()))
        self.ratios(f"{label}: whole connection", found, lambda r: r[0], "<= 1.18")

        found = self.interleave("many", MANY, rounds)
        self.each(f"{label}: connections a second", "1/s", ((n, _median(r, 0)) for n, r in found.items()))
        self.ratios(f"{label}: connections a second", found, lambda r: r[0], ">= 0.90")
        per_10k = ((n, sum(r[-1] for r in rows) / len(rows) * 10_000 / MANY) for n, rows in found.items())
        self.each(f"{label}: processor time of 10,000 connections", "s", per_10k)

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
            self.bench.row(what if name == "direct" else f"{what}, more than direct",
                           statistics.median(rows) - (0 if name == "direct" else least), "MiB")  # fmt: skip

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
            self.bench.row(f"lan: {way.name} holds {IDLE} connections", 0, "", "1", False)
        time.sleep(SETTLE_S)
        return more


def _median(rows: list[list[float]], column: int) -> float:
    return statistics.median(row[column] for row in rows)


def offload(lab: Lab, client: Client, on: bool) -> None:
    """Switch segmentation offloads of every device of the hosts, the client and the switch."""
    state = "on" if on else "off"
    command = (
        f"for d in $(ls /sys/class/net); do ethtool -K $d tso {state} gso {state} gro {state} 2>/dev/null; done; true"
    )
    names = [*lab.plan.topology.hosts, client.machine.name]
    for namespace in (*map(lab.plan.namespace, names), lab.plan.switch):
        run("ip", "netns", "exec", namespace, "sh", "-c", command)


def measure(bench: Bench) -> None:
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
            offload(lab, client, on=False)
            row.traffic("lan, no offloads", max(5, bench.rounds // 2))
            offload(lab, client, on=True)


def _leading(bench: Bench, client: Client, found: list[Way]) -> list[Way]:
    """Return the ways that lead to the server; without direct routing there is nothing to compare with."""
    good = [way for way in found if way.answers(client, bench.program, PATIENCE)]
    for way in found:
        if way not in good:
            say(f"{way.name}: a client on the LAN gets no answer from {way.address}:{way.port}")
            bench.row(f"lan: {way.name} answers a client on the LAN", 0, "", "1", False)
    if not good or good[0].name != "direct":
        raise LabError("edge-a does not route the LAN's packets to edge-b: nothing to compare with")
    return good
