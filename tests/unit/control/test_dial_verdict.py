"""What dials tell of a link: a row of silence is a verdict, a single one is none, and one good one takes it back."""

from __future__ import annotations

import pytest

from skedge.control.streams.dial_verdict import DIALS, OVER_S, DialVerdict
from skedge.core.reasons import Reason

BAD = [Reason.TCP_DROPPED, Reason.TCP_PROHIBITED, Reason.ONE_WAY]


@pytest.mark.parametrize("told", BAD)
def test_a_row_over_some_seconds_is_a_verdict(told: Reason) -> None:
    verdict = DialVerdict()
    changed = [now for now in range(20) if verdict.note(float(now), told)]
    assert changed == [OVER_S]
    assert verdict.reason is told


def test_a_burst_of_dials_is_none() -> None:
    verdict = DialVerdict()
    assert not any(verdict.note(n / 10, Reason.TCP_DROPPED) for n in range(4 * DIALS))


def test_few_dials_over_long_are_none() -> None:
    verdict = DialVerdict()
    assert not any(verdict.note(n * OVER_S, Reason.TCP_DROPPED) for n in range(DIALS - 1))


def test_a_restart_between_silent_dials_begins_anew() -> None:
    """Refused is good: the host forwards, its controller is to come."""
    verdict = DialVerdict()
    for n in range(100):
        told = Reason.NONE if n % 5 == 4 else Reason.TCP_DROPPED
        assert not verdict.note(2.0 * n, told)


def test_one_good_dial_takes_it_back() -> None:
    verdict = DialVerdict(Reason.TCP_DROPPED)
    assert verdict.note(99.0, Reason.NONE)
    assert verdict.reason is Reason.NONE
    assert not verdict.note(100.0, Reason.TCP_DROPPED)


def test_another_cause_takes_the_place_of_the_first() -> None:
    verdict = DialVerdict()
    for now in range(20):
        verdict.note(float(now), Reason.TCP_DROPPED)
    assert verdict.note(20.0, Reason.TCP_PROHIBITED)
