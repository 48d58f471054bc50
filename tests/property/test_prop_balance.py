from __future__ import annotations

import random
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from skedge.core.model import COST_MAX
from skedge.core.objects import Candidate
from skedge.core.placement import rule
from skedge.core.placement.rule import Ledger
from skedge.core.reasons import Reason
from tests.kit import oracles
from tests.property.strategies import candidate_lists

COUNTS = st.integers(0, 160)
FAMILIES = st.sampled_from((None, 4, 6))


def eligible(candidates: tuple[Candidate, ...]) -> list[int]:
    """Written apart from the code under test: healthy ones, else suspended ones."""
    good = [i for i, one in enumerate(candidates) if one.out is Reason.NONE]
    return good or [i for i, one in enumerate(candidates) if one.out is Reason.SUSPENDED]


def exact(candidate: Candidate, own: int) -> Fraction:
    return candidate.path_cost + Fraction(own + candidate.others, candidate.capacity)


@given(candidate_lists(), COUNTS)
def test_fill_equals_counting(candidates: tuple[Candidate, ...], n: int) -> None:
    assert rule.fill(candidates, n) == oracles.split(candidates, n)


@given(candidate_lists(), COUNTS)
def test_every_connection_is_placed_or_none_can_be(candidates: tuple[Candidate, ...], n: int) -> None:
    split = rule.fill(candidates, n)
    able = eligible(candidates)
    assert sum(split) == (n if able else 0)
    assert all(count == 0 for i, count in enumerate(split) if i not in able)


@given(candidate_lists(), st.integers(1, 160))
def test_no_connection_would_have_been_better_placed_elsewhere(candidates: tuple[Candidate, ...], n: int) -> None:
    split = rule.fill(candidates, n)
    for i in eligible(candidates):
        if split[i]:
            before_last = exact(candidates[i], split[i] - 1)
            assert all(before_last <= exact(candidates[j], split[j]) for j in eligible(candidates))


@given(candidate_lists(), COUNTS)
def test_shares_are_the_water_filling_and_sum_to_n(candidates: tuple[Candidate, ...], n: int) -> None:
    shares, level, able = oracles.shares(candidates, n), oracles.level(candidates, n), eligible(candidates)
    assert sum(shares) == (n if able else 0)
    for i in able:
        assert level is not None
        assert shares[i] == max(0, candidates[i].capacity * (level - exact(candidates[i], 0)))


@given(candidate_lists(), COUNTS, st.integers(1, 9))
def test_with_equal_capacities_the_split_is_within_one_of_the_shares(
    candidates: tuple[Candidate, ...], n: int, capacity: int
) -> None:
    same = tuple(
        Candidate(one.workload, one.path_cost, capacity=capacity, others=one.others, target4=one.target4, out=one.out)
        for one in candidates
    )
    pairs = zip(rule.fill(same, n), oracles.shares(same, n), strict=True)
    assert all(abs(count - share) < 1 for count, share in pairs)


@given(candidate_lists(), COUNTS, st.randoms(use_true_random=False))
def test_the_order_of_candidates_changes_nothing(
    candidates: tuple[Candidate, ...], n: int, shuffle: random.Random
) -> None:
    order = list(range(len(candidates)))
    shuffle.shuffle(order)
    shuffled = tuple(candidates[i] for i in order)
    split, other = rule.fill(candidates, n), rule.fill(shuffled, n)
    assert [split[i] for i in order] == list(other)
    assert [oracles.split(candidates, n)[i] for i in order] == list(oracles.split(shuffled, n))


BIG = st.integers(0, 1 << 20)


@given(*[st.tuples(st.integers(0, COST_MAX * 64), st.integers(1, 65535), BIG, BIG)] * 2)
def test_comparison_is_exact(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> None:
    made = [Candidate(None, cost, capacity=capacity, others=others) for cost, capacity, others, _ in (one, other)]  # type: ignore[arg-type]
    costs = [rule.perceived(candidate, own) for candidate, (*_, own) in zip(made, (one, other), strict=True)]
    fractions = [exact(candidate, own) for candidate, (*_, own) in zip(made, (one, other), strict=True)]
    assert [Fraction(*cost) for cost in costs] == fractions
    sign = rule.compare(*costs)
    assert (sign < 0, sign == 0) == (fractions[0] < fractions[1], fractions[0] == fractions[1])


@given(candidate_lists(), st.data())
def test_the_choice_is_the_smallest_by_fraction_cost_history_and_name(
    candidates: tuple[Candidate, ...], data: st.DataObject
) -> None:
    small = st.lists(st.integers(0, 6), min_size=len(candidates), max_size=len(candidates))
    opens, last = data.draw(small), data.draw(small)
    ranked = sorted(
        (i for i, one in enumerate(candidates) if one.out in (Reason.NONE, Reason.SUSPENDED)),
        key=lambda i: (
            candidates[i].out is Reason.SUSPENDED,
            exact(candidates[i], opens[i]),
            candidates[i].path_cost,
            last[i],
            candidates[i].workload,
        ),
    )
    placement = rule.place(candidates, opens, last)
    if not ranked:
        assert placement is None
        return
    assert placement is not None
    assert [placement.winner, placement.runner_up] == ([*ranked, None])[:2]
    assert rule.choose(candidates, opens, last) == ranked[0]
    assert placement.suspension_ignored is (candidates[ranked[0]].out is Reason.SUSPENDED)


@given(candidate_lists(), st.lists(st.integers(-3, 9), max_size=80))
def test_a_ledger_never_drifts_and_its_placements_replay(candidates: tuple[Candidate, ...], steps: list[int]) -> None:
    """Places on a number >= 0, releases the oldest open connection on a negative one."""
    ledger, held = Ledger(), []
    for step in steps:
        if step < 0 and held:
            ledger.release(held.pop(0))
            continue
        opens = [ledger.opens.get(one.workload, 0) for one in candidates]
        last = [ledger.last_chosen.get(one.workload, 0) for one in candidates]
        placement = ledger.place(candidates)
        assert placement == rule.place(candidates, opens, last)
        if placement is not None:
            held.append(candidates[placement.winner].workload)
    assert {name: count for name, count in ledger.opens.items() if count} == {
        name: held.count(name) for name in set(held)
    }
