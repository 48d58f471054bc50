"""Links that delay and lose: no false alarm, the round trip as it is, a cut still seen. On kernels with tc-netem.

The delays and losses are of each direction, so a probe meets them twice. ``make soak-vm`` runs this for ten minutes
(``NETEM_S`` says how many seconds), and then the same with whole sites.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import pytest

from skedge.control.liveness.detector import LinkStatus
from skedge.control.liveness.prober import ProbeLink, Prober
from skedge.core.model import LinkId, Probe
from skedge.core.reasons import Reason
from tests.integration.control.netns import Pair, Ping, has_netem, netem, pair, wait
from tests.integration.control.test_bus import LINK, Talker, both_up, identity
from tests.unit.control.authority import Authority

SECONDS = float(os.environ.get("NETEM_S", "60"))

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netem,
    pytest.mark.timeout(SECONDS + 400),
    pytest.mark.skipif(os.geteuid() != 0 or not has_netem(), reason="this kernel has no tc-netem"),
]

# What docs/inventory.md gives for links by satellite.
SATELLITE = Probe(interval_ms=500, lost=5)


class Lossy:
    """A link whose frames are delayed and lost in both directions, and the prober of one end."""

    def __init__(self, joined: Pair, delay_ms: int, loss: int, probe: Probe) -> None:
        self.joined, self.rtt_ms = joined, 2 * delay_ms
        for place in (joined.a, joined.b):
            netem(place.name, place.device, "delay", f"{delay_ms}ms", "loss", f"{loss}%", "limit", "10000")
        self.share = 1 - (1 - loss / 100) ** 2
        self.changes: list[LinkStatus] = []
        self.shown: list[float] = []
        self.ping: Ping | None = None
        self.prober = joined.a.call(lambda: Prober(joined.a.loop, lambda _link, status: self.changes.append(status)))
        at = ProbeLink(joined.a.device, joined.a.link_local, joined.b.link_local, probe)
        self.prober.set_links({LinkId.between("edge-a", "edge-b"): at})

    @property
    def up(self) -> bool:
        return bool(self.changes) and self.changes[-1].up

    def stop(self) -> None:
        if self.ping is not None:
            self.ping.close()

    def look(self) -> None:
        """Note the round trip that an operator would see now."""
        self.shown += [stats.rtt_us / 1000 for stats in self.prober.snapshot().values()]

    def watch(self, seconds: float) -> None:
        """Begin to note the round trip, and to measure it with ping(8)."""
        here = self.joined.a
        self.ping = Ping(here.name, f"{self.joined.b.link_local}%{here.device}", seconds)

    @cached_property
    def mean_shown(self) -> float:
        return statistics.fmean(self.shown)

    @cached_property
    def mean_ping(self) -> float:
        assert self.ping is not None
        return self.ping.mean_ms()

    def summary(self) -> str:
        (stats,) = self.prober.snapshot().values()
        return (
            f"delay 2 x {self.rtt_ms // 2} ms: round trip {self.mean_shown:.1f} ms, ping says {self.mean_ping:.1f};"
            f" {stats.received} of {stats.sent} answered, loss shown {stats.loss:.3f}, {stats.needed} in a row mean"
            f" down; changes {[(status.up, status.reason.word) for status in self.changes]}"
        )

    def cut_is_seen(self, within: float) -> float:
        """Cut the link; return the seconds until it is down."""
        self.joined.cut()
        took = wait(lambda: not self.up, within, "the cut")
        assert self.changes[-1] == LinkStatus(False, Reason.PROBE_LOST)
        return took


@pytest.fixture
def terrestrial_and_satellite() -> Iterator[list[Lossy]]:
    with ExitStack() as stack:
        made = []
        for delay_ms, loss, probe in ((50, 1, Probe()), (1000, 7, SATELLITE)):
            made.append(Lossy(stack.enter_context(pair()), delay_ms, loss, probe))
            stack.callback(made[-1].prober.close)
            stack.callback(made[-1].stop)
        yield made


def test_delay_and_loss_are_no_cut_and_a_cut_is_one(terrestrial_and_satellite: list[Lossy]) -> None:
    """Both kinds of link at the same time, for as long as a short test may take."""
    for link in terrestrial_and_satellite:
        wait(lambda link=link: link.up, 30, "up")
    time.sleep(20)  # the first measurements are of a link that was just made
    for link in terrestrial_and_satellite:
        link.watch(SECONDS)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(0.5)
        for link in terrestrial_and_satellite:
            link.look()
    for link in terrestrial_and_satellite:
        print("\n" + link.summary())
    for link, cut_within in zip(terrestrial_and_satellite, (10, 30), strict=True):
        (stats,) = link.prober.snapshot().values()
        assert [status.up for status in link.changes] == [True], "a link went down that only loses"
        assert link.mean_shown >= link.rtt_ms
        assert link.mean_shown == pytest.approx(link.mean_ping, rel=0.1)
        assert stats.loss < link.share + 0.1
        print(f"cut seen after {link.cut_is_seen(cut_within):.1f} s")


def test_streams_come_up_by_satellite(joined: Pair, authority: Authority, tmp_path: Path) -> None:
    """Dialling waits as long as the link needs: two and a half round trips of 2 s, with 7 % lost each way."""
    for place in (joined.a, joined.b):
        netem(place.name, place.device, "delay", "1000ms", "loss", "7%")
    made = []
    for here, far, name, other in ((joined.a, joined.b, "edge-a", "edge-b"), (joined.b, joined.a, "edge-b", "edge-a")):
        made.append(Talker(here, far, identity(authority, tmp_path, name), other, rtt=lambda _link: 2.0))
    try:
        print(f"stream up after {both_up(made[0], made[1], within=90):.1f} s")
        assert {talker.bus.stats()[LINK].up for talker in made} == {True}
    finally:
        for talker in made:
            talker.close()
