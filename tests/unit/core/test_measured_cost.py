"""A link's cost from measured delay and loss: what moves it, how soon, and what never does."""

from __future__ import annotations

import random

import pytest

from skedge.control.liveness.detector import Liveness
from skedge.core.linkstate.measured_cost import BETTER_S, STEP_S, WORSE_S, CostParts, MeasuredCost, MeasuredCosts
from skedge.core.model import Link, LinkId, Probe

LINK = LinkId("a", "b")


class Measured:
    """The real detector on a virtual clock, and the cost that follows it."""

    def __init__(self, seed: int = 1, base: int = 10) -> None:
        self.now, self.random = 100.0, random.Random(seed)
        self.detector, self.cost = Liveness(Probe(), self.now), MeasuredCost(base)
        self.seen: set[CostParts] = set()

    def run(self, seconds: float, rtt_ms: float, *, jitter_ms: float = 0.0, loss: float = 0.0) -> CostParts:
        """Probe every 100 ms, look every `STEP_S`; return what the cost is made of."""
        end, look = self.now + seconds, self.now
        while self.now < end:
            sequence = self.detector.next_sequence()
            self.detector.sent(sequence, self.now, self.now)
            took = (rtt_ms + self.random.uniform(-jitter_ms, jitter_ms)) / 1000
            if self.random.random() >= loss:
                self.detector.reply(sequence, self.now + took, self.now + took)
            self.now += 0.1
            self.detector.tick(self.now)
            if self.now >= look and (stats := self.detector.stats()).up:
                look += STEP_S
                self.cost.step(self.now, stats.rtt_us, stats.loss)
                self.seen.add(self.cost.parts)
        return self.cost.parts


def test_it_is_base_and_round_trip() -> None:
    assert Measured().run(2, 5).total == 10 + 5
    assert Measured().run(2, 0.3).total == 10


def test_a_round_trip_of_100_ms_counts_within_five_seconds_and_a_better_one_later() -> None:
    at = Measured()
    at.run(60, 5)
    assert at.run(1, 100).rtt == 5, "a moment is no news"
    assert at.run(3.6 - 1, 100).rtt == pytest.approx(100, abs=3)
    assert at.run(BETTER_S - 1, 5).rtt > 90
    assert at.run(3, 5).rtt == pytest.approx(5, abs=1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("jitter_ms", "loss"), [(2, 0), (0, 0.01), (2, 0.01)])
def test_small_noise_changes_nothing_in_ten_minutes(seed: int, jitter_ms: float, loss: float) -> None:
    at = Measured(seed)
    at.run(600, 5, jitter_ms=jitter_ms, loss=loss)
    assert len(at.seen) == 1


def test_loss_is_added_by_the_percent_and_goes_again() -> None:
    at = Measured()
    at.run(60, 5)
    lossy = at.run(300, 5, loss=0.1)
    assert 60 <= lossy.loss <= 140
    assert at.run(300, 5).loss == 0


@pytest.mark.parametrize("seed", range(5))
def test_what_stays_within_the_band_or_is_over_soon_moves_nothing(seed: int) -> None:
    chance, cost, now = random.Random(seed), MeasuredCost(1), 0.0
    cost.step(now, 40_000, 0.0)
    for _ in range(2000):
        now += STEP_S
        rare = chance.random() < 0.2
        cost.step(now, 400_000 if rare else chance.randint(31_000, 49_000), 0.5 if rare else chance.uniform(0, 0.03))
        if rare:  # the next one is as before
            now += STEP_S
            cost.step(now, 40_000, 0.0)
        assert cost.parts == CostParts(1, 40, 0)


def test_a_cost_ends_where_costs_end() -> None:
    cost = MeasuredCost(65_000)
    cost.step(0.0, 2_000_000, 0.0)
    assert cost.parts.total == 65_535


def test_only_links_with_a_measured_cost_are_looked_at_and_a_reload_keeps_what_was_measured() -> None:
    costs = MeasuredCosts()
    costs.configure({LINK: Link("b", cost=7)})
    assert costs.deadline() == float("inf")
    costs.configure({LINK: Link("b", cost="auto", base_cost=3)})
    costs.step(1.0, {LINK: (20_000, 0.0), LinkId("a", "c"): (9_000, 0.0)})
    assert costs.parts() == {LINK: CostParts(3, 20, 0)}
    assert costs.deadline() == 1.0 + STEP_S
    costs.configure({LINK: Link("b", cost="auto", base_cost=3)})
    assert costs.parts() == {LINK: CostParts(3, 20, 0)}
    costs.step(1.0 + WORSE_S, {})
    assert costs.parts() == {LINK: CostParts(3, 20, 0)}, "a link that is down keeps its cost"
    costs.configure({LINK: Link("b", cost="auto", base_cost=4)})
    assert costs.parts() == {LINK: CostParts(4)}
