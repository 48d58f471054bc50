"""Weights that make IPVS' scheduler ``wlc`` follow the balancing rule between two looks at its counters.

wlc gives a connection to the server with the smallest ``(256 * active + inactive) / weight`` and knows no costs. A
weight of ``256 * target + inactive`` makes that quotient less than 1 exactly while a server has fewer connections than
its target; so the next connections are those that fill the targets, and the targets are where the rule itself puts the
connections that are expected before the next look. A look after each connection is thus the rule, exactly.

To IPVS a UDP flow is never active: there the inactive ones are what is open, a flow counts 1, and the weight is
``inactive + add``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

from skedge.core.objects import Candidate
from skedge.core.placement.rule import ranking
from skedge.core.reasons import Reason

ACTIVE = 256  # what an active connection counts in wlc, an inactive one counts 1
WEIGHT_MAX = 2**31 - 1
BURST = 64  # beyond the expected connections: who may take part when more come


@dataclass(frozen=True, slots=True)
class Load:
    """What a service has of one candidate: all own connections to it, and those that this scheduler counts.

    They differ where several virtual services lead to the same workload. ``last_chosen`` breaks ties as in
    `core.placement.rule`.
    """

    open: int = 0
    active: int = 0
    inactive: int = 0
    last_chosen: int = 0


def additions(candidates: Sequence[Candidate], loads: Sequence[Load], n: int) -> tuple[int, ...]:
    """Return how many of the next ``n`` connections the rule gives each candidate, all zero when none may be chosen.

    O((n + candidates) * log candidates).
    """
    added = [0] * len(candidates)
    heap = [(*ranking(one, load.open, load.last_chosen), i) for i, one, load in _able(candidates, loads)]
    heapify(heap)
    turn = 1 + max((load.last_chosen for load in loads), default=0)
    for k in range(n if heap else 0):
        *_, i = heap[0]
        added[i] += 1
        one = candidates[i]
        heapreplace(heap, (*ranking(one, loads[i].open + added[i], turn + k), i))
    return tuple(added)


def weights(
    candidates: Sequence[Candidate], loads: Sequence[Load], expected: int, counts: int = ACTIVE
) -> tuple[int, ...]:
    """Return each candidate's weight, for at least one connection expected before the next look.

    ``counts``: what each of those will count to the scheduler, `ACTIVE` or 1.

    Who gets none of the expected ones, and none of the `BURST` after them, has weight 0: it would be filled up to the
    level of the others at once, whatever it costs. While any may be chosen, at least one weight is not 0.
    """
    expected = max(1, expected)
    near, far = additions(candidates, loads, expected), additions(candidates, loads, expected + BURST)
    return tuple(
        min(ACTIVE * load.active + counts * add + load.inactive, WEIGHT_MAX) if add or later else 0
        for load, add, later in zip(loads, near, far, strict=True)
    )


def pick(quotas: Sequence[int], active: Sequence[int], inactive: Sequence[int]) -> int | None:
    """Return the index that wlc chooses with these weights: the first of the least loaded; None when all weigh 0."""
    best: int | None = None
    for i, weight in enumerate(quotas):
        load = ACTIVE * active[i] + inactive[i]
        if weight and (best is None or (ACTIVE * active[best] + inactive[best]) * weight > load * quotas[best]):
            best = i
    return best


def _able(candidates: Sequence[Candidate], loads: Sequence[Load]) -> Sequence[tuple[int, Candidate, Load]]:
    """Return those that may be chosen; all the suspended ones where there is no other."""
    rows = list(zip(range(len(candidates)), candidates, loads, strict=True))
    able = [row for row in rows if row[1].out is Reason.NONE]
    return able or [row for row in rows if row[1].out is Reason.SUSPENDED]
