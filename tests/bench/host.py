"""The rows of a client on an edge host: over both transports, the controller at rest, and the pick.

direct    client and server outside of skedge's cgroup, straight to the server over the same devices
macvlan   (direct links only) the same over a plain macvlan made by hand: a direct link's device without skedge
not ours  the same connection from within skedge's cgroup: what everyone else on the host pays
through   from within, to the listener, placed and delivered by skedge
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tests.bench.judge import LEAST, Rule
from tests.bench.pick import FEW, MANY, picks
from tests.bench.probes import Place, at_rest, places, serve
from tests.bench.rounds import Series
from tests.bench.run import Bench

OURS, PLAIN, LISTENER = 9090, 9091, 8080
CONNECTIONS, TURNS, STREAM_S = 1500, 4000, 0.7
OTHER_VXLAN = "4799"
LOOK_S = 5.0  # one look at the controller at rest


@dataclass(frozen=True)
class Kind:
    """One way to the server: where the client runs and what it connects to."""

    name: str
    place: Place
    address: str
    port: int


def ways(bench: Bench, kinds: list[Kind], mode: str, amount: float) -> dict[str, Callable[[], list[float]]]:
    """Return what measures each kind, by name."""
    return {
        kind.name: partial(kind.place.measure, bench.program, mode, kind.address, kind.port, amount) for kind in kinds
    }


def connections(bench: Bench, kinds: list[Kind], label: str, targets: bool) -> Series:
    """Return whole connections: connect, request, answer, close."""
    rules = [
        Rule(f"{label}: speed of a whole connection, {name} / direct", ("direct",), (name,), least if targets else "")
        for name, least in (("through", ">= 0.94"), ("not ours", ">= 0.975"), ("macvlan", ""))
    ]
    return Series(f"{label}: whole connection", ways(bench, kinds, "conn", CONNECTIONS), rules)


def turns(bench: Bench, kinds: list[Kind], label: str, targets: bool) -> Series:
    """Return round trips on an open connection."""
    rules = [
        Rule(f"{label}: round trip, {name} / direct", (name,), ("direct",), most if targets else "")
        for name, most in (("macvlan", ""), ("not ours", ""), ("through", "<= 1.02"))
    ]
    return Series(f"{label}: round trip", ways(bench, kinds, "turn", TURNS), rules)


def streams(bench: Bench, kinds: list[Kind], label: str, targets: bool) -> Series:
    """Return the throughput of one stream."""
    rules = [
        Rule(f"{label}: throughput, {name} / direct", (name,), ("direct",), least if targets else "")
        for name, least in (("through", ">= 0.98"), ("macvlan", ""), ("not ours", ""))
    ]
    return Series(f"{label}: one stream", ways(bench, kinds, "stream", STREAM_S), rules)


def tell(bench: Bench, *all_series: Series) -> None:
    """Note what the clients printed, way by way, and then the rows made within the rounds."""
    report = bench.report
    for series in all_series:
        label, what = series.label.rsplit(": ", 1)
        for way in series.ways:
            if what == "one stream":
                report.value(f"{series.label}, {way}", series.median(way, 0) * 8 / 1e9, "Gbit/s")
                continue
            report.value(f"{series.label}, {way}, p50", series.median(way, 0) / 1000, "µs")
            report.value(f"{series.label}, {way}, p99", series.median(way, 1) / 1000, "µs")
            if what == "whole connection":
                report.value(f"{label}: connections a second, {way}", series.median(way, 2), "1/s")
        report.rules(series)


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


def bare(bench: Bench) -> str:
    """Return edge-b's address on the segment itself."""
    plan = bench.lab.plan
    return str(plan.segment_address(plan.topology.segments[0], "edge-b"))


@contextlib.contextmanager
def three_kinds(bench: Bench, far: str) -> Iterator[list[Kind]]:
    """Serve on edge-b and give the kinds that every transport has, over edge-b's address ``far``."""
    with places(bench.lab.host("edge-b")) as (b_in, b_out), places(bench.lab.host("edge-a")) as (a_in, a_out):
        serve(b_in, bench.program, OURS)
        serve(b_out, bench.program, PLAIN)
        bench.wait_ready()
        yield [
            Kind("direct", a_out, far, PLAIN),
            Kind("not ours", a_in, far, OURS),
            Kind("through", a_in, "127.0.0.1", LISTENER),
        ]


def transport(bench: Bench, name: str, far: Callable[[Bench], str], targets: bool) -> None:
    """Deploy one transport and measure all kinds over it, with offloads and without."""
    bench.deploy(name)
    with three_kinds(bench, far(bench)) as kinds:
        if name == "direct":
            kinds.append(Kind("macvlan", kinds[0].place, plain_macvlan(bench), PLAIN))
        part = bench.measure if targets else bench.show
        conn, turn, stream = (make(bench, kinds, name, targets) for make in (connections, turns, streams))
        part(conn, turn, stream)
        tell(bench, conn, turn, stream)
        bench.offload(on=False)
        stream = streams(bench, kinds, f"{name}, no offloads", targets)
        turn = turns(bench, kinds, f"{name}, no offloads", targets=False)
        part(stream, turn)
        tell(bench, stream, turn)
        bench.offload(on=True)


def controller(bench: Bench, rest: float) -> None:
    """Watch edge-a's controller while nothing happens, for so many seconds at least."""
    look = partial(at_rest, bench.lab, "edge-a", LOOK_S)
    # The mean of the looks, since what the controller does every half a minute counts as well.
    share = Rule("controller at rest, share of one processor", ("controller",), (), "< 1", 0, "%", statistics.fmean)
    series = Series("controller", {"controller": look}, [share], base="controller")
    bench.measure(series, rounds=max(LEAST, round(rest / LOOK_S)), warm_up=False)
    bench.report.rules(series)
    bench.report.certain("controller at rest, resident memory", series.median("controller", 1), "< 80", "MiB")


def pick(bench: Bench) -> None:
    """Measure the pick itself among few and many workloads."""
    more = Rule(f"pick among {MANY} workloads, more than among {FEW}", ("pick",), (), "< 3", 2, "µs")
    with picks() as once:
        series = Series("pick", {"pick": once}, [more], base="pick")
        bench.measure(series)
    bench.report.value(f"pick among {FEW} workloads", series.median("pick", 0), "µs")
    bench.report.rules(series)


PARTS = 4  # of the run that have targets: with offloads, without, the controller, the pick


def rows(bench: Bench, rest: float) -> None:
    """Measure everything of a client on the host."""
    transport(bench, "direct", bare, targets=True)
    controller(bench, rest)
    pick(bench)
    transport(bench, "vxlan", plain_vxlan, targets=False)
