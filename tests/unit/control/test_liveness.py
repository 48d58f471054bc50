"""Link liveness on a virtual clock: loss is no cut, a cut is found at once, a late host loses nothing."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest

from skedge.control.liveness.detector import LinkStatus, Liveness
from skedge.control.liveness.loss import LONG_WINDOW, LossWindow
from skedge.core.model import Probe
from skedge.core.reasons import Reason

INTERVAL = 0.1


class World:
    """A link and its prober: sends every interval, answers after ``rtt`` unless lost; judges when asked to."""

    def __init__(self, *, rtt: float = 0.001, loss: float = 0.0, seed: int = 1, probe: Probe | None = None) -> None:
        self.now, self.rtt, self.loss = 1000.0, rtt, loss
        self.random = random.Random(seed)
        self.liveness = Liveness(probe or Probe(), self.now)
        self.next_at = self.now
        self.flying: list[tuple[float, int]] = []
        self.changes: list[tuple[float, LinkStatus]] = []
        self.cut = False

    def step(self, lateness: Callable[[], float] = lambda: 0.0) -> None:
        """One turn of the prober, as `Prober._turn`: sleep, drain, judge, send."""
        due = min(self.next_at, self.liveness.judge_at(), min((at for at, _ in self.flying), default=float("inf")))
        self.now = max(self.now, due) + lateness()
        for at, sequence in sorted(item for item in self.flying if item[0] <= self.now):
            self.flying.remove((at, sequence))
            self._note(self.liveness.reply(sequence, at, self.now))
        self._note(self.liveness.tick(self.now))
        if self.now >= self.next_at:
            sequence = self.liveness.next_sequence()
            self.liveness.sent(sequence, self.now, self.now)
            if not self.cut and self.random.random() >= self.loss:
                self.flying.append((self.now + self.rtt, sequence))
            self.next_at = max(self.next_at, self.now - INTERVAL / 2) + INTERVAL

    def run(self, seconds: float, lateness: Callable[[], float] = lambda: 0.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.step(lateness)

    def _note(self, status: LinkStatus | None) -> None:
        if status:
            self.changes.append((self.now, status))

    def cut_now(self) -> float:
        self.cut, self.flying = True, []
        return self.now


def test_a_link_begins_down_and_is_up_at_the_first_answer() -> None:
    world = World()
    assert not world.liveness.up
    world.run(0.05)
    assert world.changes == [(pytest.approx(1000.001), LinkStatus(True))]


@pytest.mark.parametrize("phase", [0.0, 0.03, 0.06, 0.099])
@pytest.mark.parametrize("rtt", [0.0002, 0.02])
def test_a_cut_of_a_clean_link_is_seen_after_three_probes(phase: float, rtt: float) -> None:
    world = World(rtt=rtt)
    world.run(60 + phase)
    at = world.cut_now()
    world.run(2)
    seen, status = world.changes[-1]
    assert status == LinkStatus(False, Reason.PROBE_LOST)
    assert 0.2 <= seen - at <= 0.4 + rtt


@pytest.mark.parametrize("seed", range(2))
def test_hours_at_five_percent_loss_without_a_flap(seed: int) -> None:
    world = World(loss=0.05, seed=seed)
    world.run(2 * 3600)
    assert [status.up for _, status in world.changes] == [True]
    assert world.liveness.stats().loss == pytest.approx(0.05, abs=0.03)
    assert world.liveness.needed() in (5, 6)


def test_a_new_link_is_seen_down_after_four_and_does_not_flap_at_five_percent() -> None:
    world = World()
    world.run(2)
    at = world.cut_now()
    world.run(2)
    assert 0.3 <= world.changes[-1][0] - at <= 0.5
    for seed in range(200):
        world = World(loss=0.05, seed=seed)
        world.run(20)
        assert len(world.changes) == 1, seed


def test_a_rule_of_three_would_flap_at_five_percent() -> None:
    """The world is hard enough: it holds runs of three lost probes."""
    world = World(loss=0.05)
    lost = [world.random.random() < 0.05 for _ in range(3 * 36000)]
    assert any(all(lost[i : i + 3]) for i in range(len(lost)))


def test_a_clean_link_that_turns_lossy_does_not_flap() -> None:
    flaps = 0
    for seed in range(20):
        world = World(seed=seed)
        world.run(40)
        world.loss = 0.05
        world.run(200)
        flaps += len(world.changes) - 1
    assert flaps == 0


@pytest.mark.parametrize(("loss", "most"), [(0.05, 0.85), (0.2, 1.4)])
def test_a_cut_of_a_lossy_link_is_still_seen(loss: float, most: float) -> None:
    world = World(loss=loss, seed=3)
    world.run(300)
    at = world.cut_now()
    world.run(5)
    assert not world.liveness.up
    assert world.changes[-1][0] - at <= most


def test_a_host_with_busy_cores_does_not_lose_probes() -> None:
    world = World()
    late = random.Random(5)
    world.run(600, lambda: late.choice([0.0, 0.0, 0.02, 0.07, 0.3, 0.9]))
    assert [status.up for _, status in world.changes] == [True]
    assert world.liveness.stats().loss == 0


def test_a_host_that_slept_for_a_minute_asks_again_before_it_judges() -> None:
    world = World()
    world.run(60)
    world.step(lambda: 60.0)
    world.run(1)
    assert len(world.changes) == 1


def refused(world: World, seconds: float) -> None:
    """The kernel has no buffers for so long, and answers nothing."""
    end = world.now + seconds
    while world.now < end:
        world.liveness.unsent(world.liveness.next_sequence(), world.now, errno.ENOBUFS, overload=True)
        world.now += INTERVAL
        status = world.liveness.tick(world.now)
        if status:
            world.changes.append((world.now, status))
    world.next_at = world.now


def test_an_overload_of_the_own_host_is_excused_for_a_second() -> None:
    world = World()
    world.run(60)
    refused(world, 0.9)
    assert world.liveness.up
    stats = world.liveness.stats()
    assert (stats.unsent in (9, 10), stats.loss) == (True, 0.0)
    world.run(60)
    assert [status.up for _, status in world.changes] == [True]


def test_what_the_own_host_refuses_for_longer_is_a_cut() -> None:
    world = World()
    world.run(60)
    start = world.now
    refused(world, 5)
    at, status = world.changes[-1]
    assert status == LinkStatus(False, Reason.NOT_SENT)
    assert 1.0 < at - start <= 1.6
    stats = world.liveness.stats()
    assert (stats.reason, stats.unsent_errno, stats.loss) == (Reason.NOT_SENT, errno.ENOBUFS, 1.0)
    world.run(1)
    assert world.liveness.up
    assert world.liveness.stats().unsent_errno == 0


def test_the_excuse_is_not_renewed_by_an_answer_now_and_then() -> None:
    world = World()
    world.run(60)
    for _ in range(20):
        refused(world, 0.9)
        world.run(0.15)
    assert not world.liveness.up or world.liveness.stats().loss > 0.1
    assert any(not status.up for _, status in world.changes)


def test_a_refusal_that_is_no_overload_is_not_excused() -> None:
    world = World()
    world.run(60)
    for _ in range(4):
        world.liveness.unsent(world.liveness.next_sequence(), world.now, errno.EPERM, overload=False)
        world.now += INTERVAL
        status = world.liveness.tick(world.now)
    assert status is None or not status.up
    assert not world.liveness.up


def test_a_link_comes_back_after_three_answers_and_forgets_the_cut() -> None:
    world = World()
    world.run(120)
    world.cut_now()
    world.run(30)
    world.cut = False
    back = world.now
    world.run(2)
    at, status = world.changes[-1]
    assert status.up
    assert 0.2 <= at - back <= 0.5
    assert world.liveness.needed() == 3  # thirty seconds of silence were a cut, not loss


def test_short_flaps_count_as_loss() -> None:
    world = World()
    world.run(120)
    world.cut_now()
    world.run(1.0)
    world.cut = False
    world.run(1.0)
    assert world.liveness.up
    assert world.liveness.needed() > 3


def test_carrier_is_believed_at_once() -> None:
    world = World()
    world.run(1)
    assert world.liveness.carrier(False, world.now) == LinkStatus(False, Reason.NO_CARRIER)
    assert world.liveness.carrier(False, world.now) is None
    world.flying = []
    assert world.liveness.carrier(True, world.now) is None
    assert world.liveness.stats().reason is Reason.PROBE_LOST
    world.run(1)
    assert world.liveness.up


def test_no_answer_counts_while_there_is_no_carrier() -> None:
    world = World()
    world.run(1)
    world.liveness.carrier(False, world.now)
    world.run(2)
    assert not world.liveness.up
    assert world.liveness.stats().reason is Reason.NO_CARRIER


def test_a_long_round_trip_is_waited_for() -> None:
    world = World(rtt=0.6)
    world.run(120)
    assert [status.up for _, status in world.changes] == [True]
    stats = world.liveness.stats()
    assert stats.rtt_us == pytest.approx(600_000, rel=0.02)
    assert stats.loss == 0


def test_a_round_trip_that_grows_under_load_is_followed() -> None:
    world = World(rtt=0.01)
    world.run(60)
    for _ in range(50):
        world.rtt += 0.01
        world.run(0.5)
    assert [status.up for _, status in world.changes] == [True]


def test_duplicates_and_inventions_are_ignored() -> None:
    liveness = Liveness(Probe(), 0.0)
    sequence = liveness.next_sequence()
    liveness.sent(sequence, 0.0, 0.0)
    assert liveness.reply(99, 0.001, 0.001) is None
    assert liveness.reply(sequence, 0.001, 0.001) == LinkStatus(True)
    assert liveness.reply(sequence, 0.002, 0.002) is None
    assert (liveness.stats().sent, liveness.stats().received) == (1, 1)


def test_needed_is_the_least_run_that_chance_cannot_explain() -> None:
    window = LossWindow()
    assert window.needed(3) == 3
    for i in range(LONG_WINDOW * 2):
        window.add(i % 20 == 0)
    k, loss = window.needed(3), window.cautious()
    assert loss**k <= 1e-6 < loss ** (k - 1)
    for _ in range(LONG_WINDOW):
        window.add(True)
    assert window.needed(3) == 15
    for _ in range(LONG_WINDOW):
        window.add(False)
    assert window.needed(3) == 3
