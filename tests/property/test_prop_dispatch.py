"""Schedules of any weights: everyone's share, and never far from it at any moment."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from skedge.core.objects import Candidate, ServiceKey
from skedge.core.placement import rule
from skedge.core.placement.policies import SCHEDULE_SIZE, schedule
from skedge.core.reasons import Reason
from tests.property.strategies import candidate_lists

WEIGHTS = st.lists(st.integers(1, 100), min_size=1, max_size=16).map(
    lambda weights: {ServiceKey(f"s{i:02}"): weight for i, weight in enumerate(weights)}
)


@given(WEIGHTS)
def test_shares_are_those_of_the_weights(weights: dict[ServiceKey, int]) -> None:
    made = schedule(weights)
    turns, total = Counter(made), sum(weights.values())
    assert turns.keys() == weights.keys()
    assert len(made) <= SCHEDULE_SIZE
    for key, weight in weights.items():
        wanted, got = Fraction(weight, total), Fraction(turns[key], len(made))
        assert abs(got - wanted) <= Fraction(1, SCHEDULE_SIZE)
        if total <= SCHEDULE_SIZE:
            assert got == wanted


@given(WEIGHTS)
def test_any_run_of_turns_is_mixed(weights: dict[ServiceKey, int]) -> None:
    made = schedule(weights)
    turns, given_out = Counter(made), Counter[ServiceKey]()
    for taken, key in enumerate(made, 1):
        given_out[key] += 1
        for one, number in turns.items():
            assert abs(given_out[one] - Fraction(taken * number, len(made))) < len(turns)


@given(candidate_lists(), st.data())
def test_a_kept_client_is_placed_where_it_was_or_by_the_rule(table: tuple[Candidate, ...], data: st.DataObject) -> None:
    size = len(table)
    opens = data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    affinity = data.draw(st.integers(0, size - 1))
    plain = rule.place(table, opens, [0] * size)
    kept = rule.place(table, opens, [0] * size, affinity=affinity)
    if plain is None or kept is None:
        assert plain is kept
    elif table[affinity].out is Reason.NONE and affinity != plain.winner:
        assert (kept.winner, kept.runner_up, kept.by_affinity) == (affinity, plain.winner, True)
        assert kept.runner_up_perceived == plain.perceived
        assert kept.perceived == rule.perceived(table[affinity], opens[affinity])
    else:
        assert kept == plain
