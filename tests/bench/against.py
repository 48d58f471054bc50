"""Two versions of skedge on one machine in one run: not worse, worse, or not decided.

Each version is deployed in a lab of its own, at the same time, with the same inventory, and every round measures both
in random order. What is compared is the version's ratio to the same connection in its own lab without skedge, so that a
difference between the labs (whose devices were made earlier, whose memory lies elsewhere) counts for neither.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from functools import partial

from tests.bench.host import CONNECTIONS, LOOK_S, STREAM_S, TURNS, Kind, bare, three_kinds, ways
from tests.bench.judge import Rule
from tests.bench.probes import at_rest
from tests.bench.rounds import Series
from tests.bench.run import Bench

NEW, OLD = "new", "old"
PARTS = 3  # with offloads, without, the controllers


def rules(label: str, limit: str) -> list[Rule]:
    """Return the rows of one thing that is measured: new / old of each kind, relative to direct in the same lab."""
    found = [
        Rule(
            f"{label}, {kind}, new / old",
            (f"{NEW} {kind}", f"{OLD} direct"),
            (f"{OLD} {kind}", f"{NEW} direct"),
            limit,
        )
        for kind in ("through", "not ours")
    ]
    # Nobody's program is on this path: how far it is from 1 is how much the two labs differ.
    return [*found, Rule(f"{label}, direct, new / old", (f"{NEW} direct",), (f"{OLD} direct",))]


def rows(new: Bench, old: Bench, tolerance: float) -> None:
    """Deploy both versions and compare what a client on the host pays, with segmentation offloads and without.

    Args:
        new: the lab of this checkout.
        old: the lab of the other.
        tolerance: the share by which new may be slower without being worse.
    """
    for bench in (new, old):
        bench.deploy("direct")
    print(f"not worse: a time of at most {1 + tolerance:.3f}, a throughput of at least {1 - tolerance:.3f} of old\n")
    most, least = f"<= {1 + tolerance:.4g}", f">= {1 - tolerance:.4g}"
    with contextlib.ExitStack() as stack:
        both = {
            word: (bench, stack.enter_context(three_kinds(bench, bare(bench))))
            for word, bench in ((NEW, new), (OLD, old))
        }

        def series(what: str, mode: str, amount: float, limit: str) -> Series:
            return Series(what, _ways(both, mode, amount), rules(what, limit), base=f"{NEW} direct")

        conn = series("connect + request + close, p50", "conn", CONNECTIONS, most)
        turn = series("round trip, p50", "turn", TURNS, most)
        _part(new, conn, turn, series("throughput", "stream", STREAM_S, least))
        for bench in (new, old):
            bench.offload(on=False)
        turn = series("no offloads: round trip, p50", "turn", TURNS, most)
        _part(new, turn, series("no offloads: throughput", "stream", STREAM_S, least))
        for bench in (new, old):
            bench.offload(on=True)
    _controllers(new, old, most)


def _controllers(new: Bench, old: Bench, most: str) -> None:
    """Watch both controllers at rest, in turn; the mean counts what they do now and then as well."""
    looks = {word: partial(at_rest, bench.lab, "edge-a", LOOK_S) for word, bench in ((NEW, new), (OLD, old))}
    label = "controller at rest, share of one processor"
    rule = Rule(f"{label}, new / old", (NEW,), (OLD,), most, statistic=statistics.fmean)
    series = Series(label, looks, [rule], base=NEW)
    new.measure(series, warm_up=False)
    for word in looks:
        new.report.value(f"{label}, {word}", series.median(word, 0), "%")
    new.report.rules(series)


def _part(bench: Bench, *series: Series) -> None:
    bench.measure(*series)
    for one in series:
        bench.report.rules(one)


def _ways(both: dict[str, tuple[Bench, list[Kind]]], mode: str, amount: float) -> dict[str, Callable[[], list[float]]]:
    """Return what measures each kind of both versions, as ``new through`` and the like."""
    return {
        f"{word} {name}": way
        for word, (bench, kinds) in both.items()
        for name, way in ways(bench, kinds, mode, amount).items()
    }
