"""RFC 8405 back-off and token buckets."""

from __future__ import annotations

from math import inf

import pytest

from skedge.core.linkstate.pacing import Backoff, TokenBucket, jitter


def run_at(backoff: Backoff, now: float) -> float:
    when = backoff.event(now)
    assert not backoff.due(when - 0.001) or when <= now
    assert backoff.due(when)
    backoff.done()
    return when - now


def test_first_change_acts_at_once_a_burst_backs_off_and_quiet_resets() -> None:
    backoff = Backoff()
    assert run_at(backoff, 10.0) == 0
    assert run_at(backoff, 10.1) == pytest.approx(0.05)
    assert run_at(backoff, 10.4) == pytest.approx(0.05)
    assert run_at(backoff, 10.6) == pytest.approx(0.2)  # half a second after the first event
    assert run_at(backoff, 12.0) == pytest.approx(0.2)
    assert run_at(backoff, 13.9) == pytest.approx(0.2)  # each event holds the quiet state off for 2 s
    assert run_at(backoff, 16.0) == 0


def test_events_while_waiting_do_not_move_the_deadline() -> None:
    backoff = Backoff()
    run_at(backoff, 0.0)
    when = backoff.event(0.1)
    assert backoff.event(0.12) == when
    assert backoff.deadline == when
    backoff.done()
    assert backoff.deadline == inf


def test_bucket_gives_its_burst_then_its_rate() -> None:
    bucket = TokenBucket(rate=10, burst=20)
    assert sum(bucket.take(5.0) for _ in range(100)) == 20
    assert sum(bucket.take(6.0) for _ in range(100)) == 10
    assert sum(bucket.take(100.0) for _ in range(100)) == 20


def test_waiting_until_when_is_always_enough() -> None:
    bucket = TokenBucket(rate=3, burst=7)
    now = 1e6 / 3
    for _ in range(1000):
        while bucket.take(now):
            pass
        now = bucket.when(now)
        assert bucket.has(now)


def test_debt_is_one_burst_deep_at_most() -> None:
    bucket = TokenBucket(rate=1, burst=5)
    bucket.charge(0.0, 1000)
    assert bucket.when(0.0) == pytest.approx(6.0)


def test_jitter_is_spread_and_depends_on_nothing_else() -> None:
    values = [jitter("site", number) for number in range(1000)]
    assert values == [jitter("site", number) for number in range(1000)]
    assert all(0 <= value < 1 for value in values)
    assert sum(values) / 1000 == pytest.approx(0.5, abs=0.05)
