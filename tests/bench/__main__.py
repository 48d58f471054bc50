"""`make bench`: what a connection through a listener to a remote site costs, beside the same path without skedge.

Everything is measured on this machine in one run, the kinds interleaved in each round, in changing order; a ratio is
made within a round and the median over the rounds is shown. The kinds:

    direct    client and server outside of skedge's cgroup, straight to the server over the same devices
    macvlan   (direct links only) the same over a plain macvlan made by hand: a direct link's device without skedge
    not ours  the same connection from within skedge's cgroup: what everyone else on the host pays
    through   from within, to the listener, placed and delivered by skedge

Then a client on the LAN behind a host, in four ways (``lan.py``). Streams are sent with cubic. Numbers go to
``.cache/bench/last.json`` too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.bench import lan as lan_row
from tests.bench.pick import pick_cost
from tests.bench.probes import Place, at_rest, build, places, serve
from tests.lab import lab as labs
from tests.lab.sh import CACHE, REPO, LabError, run, say

OUT = CACHE / "bench"
INVENTORY = Path(__file__).parent / "inventory"
OURS, PLAIN = 9090, 9091
CONNECTIONS, TURNS, STREAM_S = 1500, 4000, 0.7
OTHER_VXLAN = "4799"


@dataclass(frozen=True)
class Kind:
    """One way to the server: where the client runs and what it connects to."""

    name: str
    place: Place
    address: str
    port: int


class Bench:
    """All measurements of one run, collected as rows of (what, value, target)."""

    def __init__(self, lab: labs.Lab, rounds: int) -> None:
        self.lab, self.rounds = lab, rounds
        self.program = build(OUT)
        self.rows: list[dict[str, object]] = []

    def row(self, what: str, value: float, unit: str = "", target: str = "", good: bool | None = None) -> None:
        """Note one result and show it."""
        self.rows.append({"what": what, "value": round(value, 4), "unit": unit, "target": target, "good": good})
        verdict = "" if good is None else "  met" if good else "  MISSED"
        print(f"   {what:66} {value:12.3f} {unit:8} {target:8}{verdict}", flush=True)

    def interleave(self, kinds: list[Kind], mode: str, amount: float, rounds: int) -> dict[str, list[list[float]]]:
        """Measure every kind once a round, in a new order each time."""
        found: dict[str, list[list[float]]] = {kind.name: [] for kind in kinds}
        order = random.Random(1)
        for number in range(rounds + 1):
            for kind in order.sample(kinds, len(kinds)):
                numbers = kind.place.measure(self.program, mode, kind.address, kind.port, amount)
                if number:  # the first round warms up
                    found[kind.name].append(numbers)
        return found

    def deploy(self, transport: str, *extra: str) -> None:
        """Deploy both hosts with that transport of their link, and wait until traffic can go."""
        say(f"bench: deploying with a {transport} link")
        argv = ["ansible-playbook", "-i", INVENTORY, "-i", self.lab.directory / "inventory"]
        done = subprocess.run(
            [*argv, "-e", f"bench_transport={transport}", *extra, "deploy.yml"],
            cwd=REPO,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise LabError(f"the playbook failed:\n{done.stdout[-3000:]}")

    def wait_ready(self) -> None:
        """Wait until edge-a may choose edge-b's workload."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            done = self.lab.ssh("edge-a", "skedge explain backend --json", check=False)
            if done.returncode == 0 and yaml.safe_load(done.stdout)["winner"]:
                return
            time.sleep(0.2)
        raise LabError("edge-a has no workload to choose")


def ratio(found: dict[str, list[list[float]]], one: str, other: str, column: int) -> float:
    """Return the median over the rounds of one kind's number divided by the other's."""
    return statistics.median(a[column] / b[column] for a, b in zip(found[one], found[other], strict=True))


def median(found: dict[str, list[list[float]]], kind: str, column: int) -> float:
    """Return the median over the rounds of one number."""
    return statistics.median(numbers[column] for numbers in found[kind])


def connections(bench: Bench, kinds: list[Kind], label: str, targets: bool) -> None:
    """Measure whole connections: connect, request, answer, close."""
    found = bench.interleave(kinds, "conn", CONNECTIONS, bench.rounds)
    for kind in kinds:
        bench.row(f"{label}: whole connection, {kind.name}, p50", median(found, kind.name, 0) / 1000, "µs")
        bench.row(f"{label}: whole connection, {kind.name}, p99", median(found, kind.name, 1) / 1000, "µs")
        bench.row(f"{label}: connections a second, {kind.name}", median(found, kind.name, 2), "1/s")
    for name, least in (("through", 0.94), ("not ours", 0.975), ("macvlan", 0)):
        if name in found:
            speed = ratio(found, "direct", name, 0)
            shown = target(targets and least > 0, speed >= least, f">= {least}")
            bench.row(f"{label}: speed of a whole connection, {name} / direct", speed, "", *shown)


def turns(bench: Bench, kinds: list[Kind], label: str, targets: bool) -> None:
    """Measure round trips on an open connection."""
    found = bench.interleave(kinds, "turn", TURNS, bench.rounds)
    for kind in kinds:
        bench.row(f"{label}: round trip, {kind.name}, p50", median(found, kind.name, 0) / 1000, "µs")
        bench.row(f"{label}: round trip, {kind.name}, p99", median(found, kind.name, 1) / 1000, "µs")
    for name in ("macvlan", "not ours"):
        if name in found:
            bench.row(f"{label}: round trip, {name} / direct", ratio(found, name, "direct", 0))
    value = ratio(found, "through", "direct", 0)
    bench.row(f"{label}: round trip, through / direct", value, "", *target(targets, value <= 1.02, "<= 1.02"))


def streams(bench: Bench, kinds: list[Kind], label: str, targets: bool) -> None:
    """Measure the throughput of one stream."""
    found = bench.interleave(kinds, "stream", STREAM_S, bench.rounds)
    for kind in kinds:
        bench.row(f"{label}: one stream, {kind.name}", median(found, kind.name, 0) * 8 / 1e9, "Gbit/s")
    value = ratio(found, "through", "direct", 0)
    bench.row(f"{label}: throughput, through / direct", value, "", *target(targets, value >= 0.98, ">= 0.98"))
    for name in sorted(found.keys() - {"through", "direct"}):
        bench.row(f"{label}: throughput, {name} / direct", ratio(found, name, "direct", 0))


def target(counts: bool, good: bool, words: str) -> tuple[str, bool | None]:
    """Return the columns of a target; None where a number is shown for information only."""
    return (words, good) if counts else ("", None)


def offload(bench: Bench, on: bool) -> None:
    """Switch segmentation offloads of all devices of both hosts: veth passes 64 KiB super-packets otherwise."""
    state = "on" if on else "off"
    for host in bench.lab.plan.topology.hosts:
        bench.lab.ssh(
            host,
            "for d in $(ls /sys/class/net | grep -v lo); do "
            f"ethtool -K $d tso {state} gso {state} gro {state} 2>/dev/null || true; done",
        )


def plain_vxlan(bench: Bench) -> str:
    """Make a tunnel like ours without skedge, and return the far address in it."""
    segment = bench.lab.plan.topology.segments[0]
    for host, own in ((segment.a, 1), (segment.b, 2)):
        ends = [bench.lab.plan.segment_address(segment, h) for h in (host, segment.far(host))]
        bench.lab.ssh(
            host,
            f"ip link del bench-vx 2>/dev/null; ip link add bench-vx type vxlan id 77 local {ends[0]} remote {ends[1]} "
            f"dstport {OTHER_VXLAN} dev {segment.device(host)} && ip addr add 10.99.0.{own}/30 dev bench-vx && "
            "ip link set bench-vx up",
        )
    return "10.99.0.2"


def plain_macvlan(bench: Bench) -> str:
    """Make the device of a direct link without skedge, and return the far address on it."""
    segment = bench.lab.plan.topology.segments[0]
    for host, own in ((segment.a, 1), (segment.b, 2)):
        bench.lab.ssh(
            host,
            f"ip link del bench-mv 2>/dev/null; ip link add bench-mv link {segment.device(host)} type macvlan "
            f"mode private && ip addr add 10.99.1.{own}/30 dev bench-mv && ip link set bench-mv up",
        )
    return "10.99.1.2"


def transport(bench: Bench, name: str, far: Callable[[], str], targets: bool) -> None:
    """Deploy one transport and measure all kinds over it, with offloads and without."""
    bench.deploy(name)
    direct = far()
    with places(bench.lab.host("edge-b")) as (b_in, b_out), places(bench.lab.host("edge-a")) as (a_in, a_out):
        serve(b_in, bench.program, OURS)
        serve(b_out, bench.program, PLAIN)
        bench.wait_ready()
        kinds = [
            Kind("direct", a_out, direct, PLAIN),
            Kind("not ours", a_in, direct, OURS),
            Kind("through", a_in, "127.0.0.1", 8080),
        ]
        if name == "direct":
            kinds.append(Kind("macvlan", a_out, plain_macvlan(bench), PLAIN))
        connections(bench, kinds, name, targets)
        turns(bench, kinds, name, targets)
        streams(bench, kinds, name, targets)
        offload(bench, on=False)
        streams(bench, kinds, f"{name}, no offloads", targets)
        turns(bench, kinds, f"{name}, no offloads", False)
        offload(bench, on=True)


def host_rows(bench: Bench, rest: float) -> None:
    """Measure clients on the host, over both transports, the controller at rest, and the pick."""
    plan = bench.lab.plan
    transport(bench, "direct", lambda: str(plan.segment_address(plan.topology.segments[0], "edge-b")), targets=True)
    share, memory = at_rest(bench.lab, "edge-a", rest)
    bench.row("controller at rest, share of one processor", share, "%", "< 1", share < 1)
    bench.row("controller at rest, resident memory", memory, "MiB", "< 80", memory < 80)
    few, many = pick_cost()
    bench.row("pick among 2 workloads", few / 1000, "µs")
    bench.row("pick among 256 workloads, more than among 2", (many - few) / 1000, "µs", "< 3", many - few < 3000)
    transport(bench, "vxlan", lambda: plain_vxlan(bench), targets=False)


def main() -> int:
    """Run everything; exit code 1 if it could not be measured, 3 if --strict and a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rest", type=float, default=20.0, help="seconds to watch the controller at rest")
    parser.add_argument("--only", choices=["host", "lan"], help="clients on the hosts, or on the LAN")
    parser.add_argument("--strict", action="store_true", help="exit code 3 when a target is missed")
    args = parser.parse_args()
    name = os.environ.get("LAB") or "bench"
    lab = labs.create("bench" if name == "demo" else name, "lan-pair")
    try:
        lab.up()
        bench = Bench(lab, args.rounds)
        print(f"\nkernel {platform.release()}, {os.cpu_count()} processors, {args.rounds} rounds\n", flush=True)
        if args.only != "lan":
            host_rows(bench, args.rest)
        if args.only != "host":
            lan_row.measure(bench)
    except LabError as error:
        say(str(error))
        return 1
    finally:
        lab.down()
    OUT.mkdir(parents=True, exist_ok=True)
    commit = run("git", "rev-parse", "--short", "HEAD", check=False).strip()
    document = {"command": "make bench", "commit": commit, "kernel": platform.release(), "rows": bench.rows}
    (OUT / "last.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    missed = [str(row["what"]) for row in bench.rows if row["good"] is False]
    print(f"\n{len(missed)} targets missed: {'; '.join(missed)}" if missed else "\nall targets met")
    return 3 if missed and args.strict else 0


if __name__ == "__main__":
    sys.exit(main())
