"""Which of two streams of one link stays: both ends must agree whatever they saw first."""

from __future__ import annotations

import itertools

import pytest

from skedge.control.streams.link_session import COLLISION_S, survives

A, B = "edge-a", "edge-b"


@pytest.mark.parametrize("orders", list(itertools.product(itertools.permutations((A, B)), repeat=2)))
def test_two_dialled_at_the_same_time_end_as_the_same_one_at_both_ends(orders: tuple[tuple[str, str], ...]) -> None:
    kept = []
    for first, second in orders:  # the order in which each end sees them come up
        kept.append(second if survives(second, first, A, 0.1) else first)
    assert kept == [A, A]


@pytest.mark.parametrize(("new", "old"), list(itertools.product((A, B), repeat=2)))
def test_a_stream_that_is_not_new_gives_way_to_whoever_dials_again(new: str, old: str) -> None:
    assert survives(new, old, A, COLLISION_S + 0.1)


@pytest.mark.parametrize("site", [A, B])
def test_who_dials_again_at_once_has_lost_the_first(site: str) -> None:
    assert survives(site, site, A, 0.0)
