"""Where many held connections end up, in closed form: the oracle for `rule.fill`.

Connection number k (from 0) to workload i is placed at perceived cost ``cost_i + (others_i + k) / capacity_i``; one
after another, ``n`` connections take the ``n`` smallest of these values.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil

from skedge.core.model import WorkloadId
from skedge.core.objects import Candidate
from skedge.core.placement.rule import refusal
from skedge.core.reasons import Reason

Rank = tuple[int, int, int, int, WorkloadId]


def level(candidates: Sequence[Candidate], n: int) -> Fraction | None:
    """Return the water level L with ``sum(capacity * max(0, L - start)) == n``; None without a candidate.

    ``start`` is the perceived cost of a candidate before any of the ``n``.
    """
    able = _able(candidates)
    if not able:
        return None
    starts = sorted((_start(candidate), candidate.capacity) for candidate in able)
    below, capacity, volume = Fraction(0), 0, Fraction(0)
    for start, more in starts:
        if volume + (start - below) * capacity >= n:
            break
        volume += (start - below) * capacity
        below, capacity = start, capacity + more
    return below + (n - volume) / capacity if capacity else starts[0][0]


def shares(candidates: Sequence[Candidate], n: int) -> tuple[Fraction, ...]:
    """Return the real-valued split of ``n`` connections: water-filling without rounding."""
    water = level(candidates, n)
    able = _able(candidates)
    return tuple(
        max(Fraction(0), candidate.capacity * (water - _start(candidate)))
        if water is not None and candidate in able
        else Fraction(0)
        for candidate in candidates
    )


def split(candidates: Sequence[Candidate], n: int) -> tuple[int, ...]:
    """Return exactly what `balance.fill` returns, by counting instead of placing. O(candidates^2 * log n)."""
    able = _able(candidates)
    return tuple(_won(candidate, able, n) if candidate in able else 0 for candidate in candidates)


def _able(candidates: Sequence[Candidate]) -> list[Candidate]:
    able = [candidate for candidate in candidates if refusal(candidate) is Reason.NONE]
    return able or [candidate for candidate in candidates if candidate.out is Reason.SUSPENDED]


def _start(candidate: Candidate) -> Fraction:
    return candidate.path_cost + Fraction(candidate.others, candidate.capacity)


def _rank(candidate: Candidate, k: int) -> Rank:
    """Order connections of equal perceived cost.

    Among equal path costs the least recently chosen goes first: one never chosen (k = 0); then the one whose
    previous connection was placed at the lowest level, one capacity-th below this one; then, at equal capacity, the
    one that entered the choice later; then by name.
    """
    return candidate.path_cost, k > 0, candidate.capacity if k else 0, k, candidate.workload


def _won(candidate: Candidate, able: Sequence[Candidate], n: int) -> int:
    """Return how many of the candidate's values are among the n smallest, by bisection."""
    low, high = 0, n
    while low < high:
        k = (low + high) // 2
        value = _start(candidate) + Fraction(k, candidate.capacity)
        before = sum(_before(other, value, _rank(candidate, k)) for other in able)
        low, high = (k + 1, high) if before < n else (low, k)
    return low


def _before(other: Candidate, value: Fraction, rank: Rank) -> int:
    """Count the connections to ``other`` that are placed before the one at ``value`` with ``rank``."""
    height = (value - _start(other)) * other.capacity
    if height < 0:
        return 0
    count = ceil(height)
    return count + (height.denominator == 1 and _rank(other, count) < rank)
