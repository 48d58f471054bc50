"""Ten minutes of links that delay and lose, many times over, on a virtual clock; ``make soak-vm`` has the real ones."""

from __future__ import annotations

import heapq
import random

import pytest

from skedge.control.liveness.detector import Liveness
from skedge.core.model import Probe

SECONDS, SEEDS = 600.0, 12


def life(probe: Probe, rtt_s: float, loss: float, seed: int) -> tuple[int, float, float]:
    """Return how often the link was called down in ten minutes, when a cut after it was seen, and the RTT (s)."""
    chance, live = random.Random(seed), Liveness(probe, 0.0)
    now = next_at = 0.0
    answers: list[tuple[float, int]] = []
    false_alarms, rtt = 0, 0.0
    while now < SECONDS + 60:
        now = max(now, min(next_at, live.judge_at(), *(at for at, _ in answers[:1])))
        while answers and answers[0][0] <= now:
            arrived, sequence = heapq.heappop(answers)
            live.reply(sequence, arrived, now)
        status = live.tick(now)
        if status is not None and not status.up:
            if now >= SECONDS:
                return false_alarms, now - SECONDS, rtt
            false_alarms += 1
        if now >= next_at:
            sequence = live.next_sequence()
            live.sent(sequence, now, now)
            next_at += probe.interval_ms / 1000
            if now < SECONDS:
                rtt = live.stats().rtt_us / 1e6
                if chance.random() >= loss:
                    heapq.heappush(answers, (now + rtt_s * chance.uniform(1, 1.02), sequence))
    return false_alarms, float("inf"), rtt


@pytest.mark.parametrize(
    ("probe", "rtt_s", "each_way", "cut_seen_s"),
    [
        pytest.param(Probe(), 0.1, 0.01, 1.0, id="land"),
        pytest.param(Probe(), 2.0, 0.07, 3.5, id="satellite, defaults"),
        pytest.param(Probe(interval_ms=500, lost=5), 2.0, 0.07, 8.0, id="satellite, as documented"),
    ],
)
def test_loss_is_no_cut_and_a_cut_is_one(probe: Probe, rtt_s: float, each_way: float, cut_seen_s: float) -> None:
    for seed in range(SEEDS):
        false_alarms, seen, rtt = life(probe, rtt_s, 1 - (1 - each_way) ** 2, seed)
        assert false_alarms == 0
        assert seen < cut_seen_s
        assert rtt == pytest.approx(rtt_s, rel=0.1)
