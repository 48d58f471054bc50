"""Probes that a host refuses to send itself: what it throws away at its own device carries nothing either."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable, Iterator

import pytest

from skedge.control.liveness.detector import LinkStats, LinkStatus
from skedge.control.liveness.prober import ProbeLink, Prober
from skedge.core.model import LinkId, Probe
from skedge.core.reasons import Reason
from tests.integration.control.netns import Pair, Place, ip, wait
from tests.integration.links.devices.wg import kernel_has_wireguard

pytestmark = pytest.mark.needs_root

LINK = LinkId.between("edge-a", "edge-b")
BOUND_S = 2.0  # a second of grace for the host's own overload, four probes, and one answer's time
PATIENCE = 4


class End:
    """A prober at one end."""

    def __init__(self, place: Place, peer: Place, device: str = "") -> None:
        self.changes: list[LinkStatus] = []
        self.prober = place.call(lambda: Prober(place.loop, lambda _link, status: self.changes.append(status)))
        self.prober.set_links({LINK: ProbeLink(device or place.device, place.link_local, peer.link_local, Probe())})

    @property
    def up(self) -> bool:
        return bool(self.changes) and self.changes[-1].up

    @property
    def stats(self) -> LinkStats:
        return self.prober.snapshot().get(LINK) or LinkStats(False, Reason.PROBE_LOST, 0.0)


@pytest.fixture
def ends(joined: Pair) -> Iterator[tuple[End, End]]:
    ends = End(joined.a, joined.b), End(joined.b, joined.a)
    try:
        wait(lambda: all(end.stats.received > 10 for end in ends), 20, "both up")
        yield ends
    finally:
        for end in ends:
            end.prober.close()


def tc(place: Place, *words: str) -> None:
    subprocess.run(["tc", "-n", place.name, "qdisc", *words], check=True, capture_output=True, text=True)


def egress_hook(place: Place) -> Callable[[], object]:
    place.nft(
        "table netdev trial {",
        f" chain leave {{ type filter hook egress device {place.device} priority 0; drop; }}",
        "}",
    )
    return lambda: place.nft("table netdev trial", "delete table netdev trial")


def blackhole(place: Place) -> Callable[[], object]:
    tc(place, "add", "dev", place.device, "root", "blackhole")
    return lambda: tc(place, "del", "dev", place.device, "root")


def shaper(place: Place) -> Callable[[], object]:
    tc(place, "add", "dev", place.device, "root", "tbf", "rate", "8bit", "burst", "1", "latency", "1ms")
    return lambda: tc(place, "del", "dev", place.device, "root")


def output_rule(place: Place) -> Callable[[], object]:
    place.nft(
        "table inet trial {",
        f' chain leave {{ type filter hook output priority 0; oifname "{place.device}" meta l4proto icmpv6 drop; }}',
        "}",
    )
    return place.nft


def xfrm(place: Place) -> Callable[[], object]:
    policy = ("-n", place.name, "xfrm", "policy")
    ip(*policy, "add", "dir", "out", "src", "::/0", "dst", "::/0", "action", "block")
    return lambda: ip(*policy, "flush")


@pytest.mark.parametrize(
    ("refuse", "why"),
    [
        (egress_hook, errno.ENOBUFS),
        (shaper, errno.ENOBUFS),
        (blackhole, 0),
        (output_rule, errno.EPERM),
        (xfrm, errno.EPERM),
    ],
)
def test_what_the_own_host_throws_away_is_a_cut_at_both_ends(
    joined: Pair,
    ends: tuple[End, End],
    refuse: Callable[[Place], Callable[[], object]],
    why: int,
) -> None:
    a, b = ends
    mend = refuse(joined.a)
    took = wait(lambda: not a.up and not b.up, PATIENCE * BOUND_S, "down at both ends")
    print(f"both down after {took:.2f} s")
    reason = Reason.NOT_SENT if why else Reason.PROBE_LOST
    assert a.changes[-1] == LinkStatus(False, reason)
    assert b.changes[-1] == LinkStatus(False, Reason.PROBE_LOST)
    stats = a.stats
    assert (stats.reason, stats.unsent_errno, stats.loss) == (reason, why, 1.0)
    assert bool(stats.unsent) is bool(why)
    mend()
    wait(lambda: a.up and b.up, PATIENCE * BOUND_S, "up again")
    assert len(a.changes) == len(b.changes) == 3


@pytest.mark.needs_wireguard
@pytest.mark.skipif(not kernel_has_wireguard(), reason="this kernel has no WireGuard; make vm-test runs it on Debian's")
def test_a_wireguard_device_without_a_session_says_so(joined: Pair) -> None:
    place, device = joined.a, "sk-wg"
    ip("-n", place.name, "link", "add", device, "type", "wireguard")
    ip("-n", place.name, "addr", "add", "fe80::a/64", "dev", device, "nodad")
    ip("-n", place.name, "link", "set", device, "up")
    end = End(place, joined.b, device)
    try:
        wait(lambda: end.stats.unsent >= 3, PATIENCE * BOUND_S, "refused probes")
        assert (end.stats.reason, end.stats.unsent_errno) == (Reason.NOT_SENT, errno.ENOKEY)
    finally:
        end.prober.close()


def test_half_a_second_of_a_full_queue_is_no_cut(joined: Pair, ends: tuple[End, End]) -> None:
    a, _b = ends
    mend = egress_hook(joined.a)
    wait(lambda: a.stats.unsent >= 2, PATIENCE, "refused probes")
    mend()
    before = a.stats.received
    wait(lambda: a.stats.received > before + 5, PATIENCE, "answers")
    assert len(a.changes) == 1
    assert a.stats.loss == 0


def test_a_link_whose_probes_fail_here_does_not_stop_those_of_others(joined: Pair, ends: tuple[End, End]) -> None:
    a, _b = ends
    place, bad = joined.a, LinkId.between("edge-a", "edge-c")
    good = ProbeLink(place.device, place.link_local, joined.b.link_local, Probe())
    a.prober.set_links({bad: ProbeLink(place.device, place.link_local, "\ud800", Probe()), LINK: good})
    before = a.stats.received
    wait(lambda: a.stats.received > before + 10, PATIENCE * BOUND_S, "answers on the other link")
    assert a.prober.turns(within_s=1.0 * PATIENCE)
    stats = a.prober.snapshot()[bad]
    assert (stats.up, stats.reason, stats.unsent_errno) == (False, Reason.NOT_SENT, errno.EIO)
