"""Link probes between two namespaces, answered by the kernel of the far end."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator

import pytest

from skedge.control.liveness.detector import LinkStatus
from skedge.control.liveness.prober import ProbeLink, Prober
from skedge.core.model import LinkId, Probe
from skedge.core.reasons import Reason
from tests.integration.control.netns import Pair, wait

pytestmark = pytest.mark.needs_root

LINK = LinkId.between("edge-a", "edge-b")


class Watch:
    """A prober in edge-a's namespace; nothing at all runs in edge-b's."""

    def __init__(self, joined: Pair, probe: Probe) -> None:
        self.joined = joined
        self.changes: list[tuple[float, LinkStatus]] = []
        self.prober = joined.a.call(lambda: Prober(joined.a.loop, self._changed))
        at = ProbeLink(joined.a.device, joined.a.link_local, joined.b.link_local, probe)
        self.prober.set_links({LINK: at})

    def _changed(self, link: LinkId, status: LinkStatus) -> None:
        assert link == LINK
        self.changes.append((time.monotonic(), status))

    @property
    def up(self) -> bool:
        return bool(self.changes) and self.changes[-1][1].up


@pytest.fixture
def watch(joined: Pair) -> Iterator[Watch]:
    watch = Watch(joined, Probe(interval_ms=20))
    yield watch
    watch.prober.close()


def settle(watch: Watch, probes: int) -> None:
    """Wait until so many probes have been answered."""
    wait(lambda: LINK in watch.prober.snapshot() and watch.prober.snapshot()[LINK].received >= probes, 20, "probes")


def test_a_link_whose_far_kernel_answers_is_up(watch: Watch) -> None:
    took = wait(lambda: watch.up, 2, "up")
    print(f"up after {took * 1000:.0f} ms")
    settle(watch, 50)
    stats = watch.prober.snapshot()[LINK]
    assert stats.up
    assert stats.reason is Reason.NONE
    assert stats.sent >= stats.received >= 50
    assert stats.loss == 0
    assert 1 <= stats.rtt_us < 20_000
    print(f"round trip {stats.rtt_us} us")


@pytest.mark.parametrize(("interval_ms", "probes"), [(100, 40), (20, 310)], ids=["new link", "known link"])
def test_a_silent_cut_is_seen_and_the_link_comes_back(joined: Pair, interval_ms: int, probes: int) -> None:
    watch = Watch(joined, Probe(interval_ms=interval_ms))
    try:
        settle(watch, probes)
        assert watch.prober.snapshot()[LINK].needed == (3 if probes > 300 else 4)
        start = time.monotonic()
        joined.cut()
        cut = time.monotonic()
        wait(lambda: not watch.up, 4, "cut")
        at, status = watch.changes[-1]
        print(f"interval {interval_ms} ms: cut seen after {(at - cut) * 1000:.0f} to {(at - start) * 1000:.0f} ms")
        assert status == LinkStatus(False, Reason.PROBE_LOST)
        assert at - cut < 2
        time.sleep(1)
        mended = time.monotonic()
        joined.mend()
        wait(lambda: watch.up, 4, "back")
        print(f"back after {(watch.changes[-1][0] - mended) * 1000:.0f} ms")
        assert len(watch.changes) == 3
    finally:
        watch.prober.close()


@pytest.mark.parametrize("direction", ["a", "b"])
def test_five_percent_loss_is_no_cut(watch: Watch, joined: Pair, direction: str) -> None:
    settle(watch, 50)
    (joined.a if direction == "a" else joined.b).drop(0.05)
    time.sleep(20)
    stats = watch.prober.snapshot()[LINK]
    print(f"loss measured {stats.loss:.3f}, {stats.needed} lost in a row mean down")
    assert len(watch.changes) == 1
    assert 0.02 < stats.loss < 0.09
    assert stats.needed >= 5


def _burn(until: float) -> None:
    while time.monotonic() < until:
        pass


def test_busy_cores_are_no_cut(watch: Watch) -> None:
    settle(watch, 320)
    until = time.monotonic() + 8
    hogs = [multiprocessing.Process(target=_burn, args=(until,)) for _ in range(4 * (os.cpu_count() or 1))]
    for hog in hogs:
        hog.start()
    while time.monotonic() < until:
        sum(range(50_000))  # and the interpreter's own lock is fought for
    for hog in hogs:
        hog.join()
    assert len(watch.changes) == 1
    assert watch.prober.snapshot()[LINK].up


def test_carrier_events_are_believed_at_once(watch: Watch) -> None:
    settle(watch, 10)
    start = time.monotonic()
    watch.prober.carrier(LINK, False)
    wait(lambda: not watch.up, 1, "carrier")
    assert watch.changes[-1][1].reason is Reason.NO_CARRIER
    assert watch.changes[-1][0] - start < 0.1
    time.sleep(0.3)
    assert not watch.up
    watch.prober.carrier(LINK, True)
    wait(lambda: watch.up, 1, "carrier")


def test_a_device_that_is_made_anew_is_probed_again(watch: Watch, joined: Pair) -> None:
    settle(watch, 10)
    joined.disconnect()
    wait(lambda: not watch.up, 3, "device gone")
    time.sleep(0.3)
    joined.connect()
    wait(lambda: watch.up, 3, "device back")


def test_answers_of_others_do_not_count(watch: Watch, joined: Pair) -> None:
    """An echo reply with a foreign cookie, and one from another address: the link stays as it is."""
    import socket
    import struct

    settle(watch, 10)
    joined.b.nft(
        "table inet trial {",
        " chain leave { type filter hook output priority 0; icmpv6 type echo-reply mark != 7 drop; }",
        "}",
    )
    before = watch.prober.snapshot()[LINK]

    def forge() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 7)
            index = socket.if_nametoindex(joined.b.device)
            for number in range(200):
                packet = struct.pack("!BBHHH8sQ", 129, 0, 0, 0, number, b"\0" * 8, before.sent + number)
                sock.sendto(packet, (joined.a.link_local, 0, 0, index))

    for _ in range(20):
        joined.b.call(forge)
        time.sleep(0.05)
    wait(lambda: not watch.up, 2, "forged answers are believed")
    assert watch.prober.snapshot()[LINK].received <= before.received + 5


def test_links_come_and_go(watch: Watch) -> None:
    settle(watch, 5)
    watch.prober.set_links({})
    wait(lambda: not watch.prober.snapshot(), 2, "gone")
    watch.prober.close()
    assert len(watch.changes) == 1


def test_probes_cost_little(watch: Watch) -> None:
    """At the default interval a link may cost well under a thousandth of a core; here it is five times as often."""
    settle(watch, 20)
    thread = watch.prober._thread.native_id

    def spent() -> float:
        with open(f"/proc/self/task/{thread}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, start = spent(), time.monotonic()
    time.sleep(5)
    share = (spent() - before) / (time.monotonic() - start)
    print(f"prober: {share * 100:.2f} % of a core at 50 probes a second")
    assert share < 0.05
