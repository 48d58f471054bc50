"""The balancing rule, in its one pure form; the program in the kernel and every test are measured against it.

A new connection goes to the workload with the smallest perceived cost ``path cost + open / capacity``, an exact
fraction, compared by cross-multiplication. Ties: lower path cost, then least recently chosen at this site, then by
name (site, then connector). A choice counter per site and service numbers the choices; 0 means never chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from heapq import nsmallest

from skedge.core.model import WorkloadId
from skedge.core.objects import Candidate, ServiceTable
from skedge.core.observed import Receipt
from skedge.core.reasons import Reason

Fraction2 = tuple[int, int]
"""An exact fraction (numerator, denominator > 0), not reduced: the denominator is the workload's capacity."""


@dataclass(frozen=True, slots=True)
class Placement:
    """One choice: indexes into the candidates, and what they were chosen on.

    The runner-up may be a suspended candidate, which comes after all others whatever its perceived cost.
    ``by_affinity``: the client's own workload is in the place of the rule's choice, which is then the runner-up.
    """

    winner: int
    perceived: Fraction2
    runner_up: int | None = None
    runner_up_perceived: Fraction2 | None = None
    suspension_ignored: bool = False
    by_affinity: bool = False


def perceived(candidate: Candidate, own_open: int) -> Fraction2:
    """Return the perceived cost of a candidate to which this site has ``own_open`` connections."""
    return (
        candidate.path_cost * candidate.capacity + own_open + candidate.others,
        candidate.capacity,
    )


def compare(one: Fraction2, other: Fraction2) -> int:
    """Return a negative number, 0 or a positive one as ``one`` is less than, equal to or more than ``other``."""
    return one[0] * other[1] - other[0] * one[1]


def ranking(candidate: Candidate, own_open: int, last_chosen: int) -> tuple[Fraction, int, int, WorkloadId]:
    """Return what candidates are compared by: the smallest is chosen, but a suspended one comes after all others."""
    return Fraction(*perceived(candidate, own_open)), candidate.path_cost, last_chosen, candidate.workload


def has_target(candidate: Candidate, family: int | None) -> bool:
    """Return whether a client of address family 4 or 6 (None: does not matter) can reach the candidate."""
    if family == 4:
        return candidate.target4 is not None
    return family != 6 or candidate.target6 is not None


def refusal(candidate: Candidate, family: int | None = None) -> Reason:
    """Return why a candidate may not be chosen by a client of that address family; NONE when it may."""
    if candidate.out is not Reason.NONE:
        return candidate.out
    return Reason.NONE if has_target(candidate, family) else Reason.NO_FAMILY


def place(
    candidates: Sequence[Candidate],
    opens: Sequence[int],
    last_chosen: Sequence[int],
    family: int | None = None,
    affinity: int | None = None,
) -> Placement | None:
    """Choose for one new connection; None when no candidate may be chosen. O(candidates).

    Args:
        candidates: the service's table.
        opens: this site's own open connections to each candidate, in the same order.
        last_chosen: number of the choice that last took each candidate, 0 for never, in the same order.
        family: 4 or 6, the client's address family; None when it does not matter.
        affinity: the candidate that the client had before; it is chosen while it may be and is not suspended.
    """
    usable = (Reason.NONE, Reason.SUSPENDED)
    costs = {
        i: perceived(candidate, opens[i])
        for i, candidate in enumerate(candidates)
        if candidate.out in usable and has_target(candidate, family)
    }

    def key(i: int) -> tuple[object, ...]:
        return candidates[i].out is Reason.SUSPENDED, *ranking(candidates[i], opens[i], last_chosen[i])

    winner, second = (*nsmallest(2, costs, key=key), None, None)[:2]
    if winner is None:
        return None
    if affinity in costs and affinity is not None and affinity != winner and candidates[affinity].out is Reason.NONE:
        return Placement(affinity, costs[affinity], winner, costs[winner], by_affinity=True)
    return Placement(
        winner,
        costs[winner],
        second,
        None if second is None else costs[second],
        candidates[winner].out is Reason.SUSPENDED,
    )


def choose(
    candidates: Sequence[Candidate],
    opens: Sequence[int],
    last_chosen: Sequence[int],
    family: int | None = None,
) -> int | None:
    """Return the index of the candidate that the next connection goes to, or None; see `place`."""
    placement = place(candidates, opens, last_chosen, family)
    return None if placement is None else placement.winner


@dataclass(slots=True)
class Ledger:
    """This site's open connections and choices of one service: the pure twin of one service value in the kernel."""

    opens: dict[WorkloadId, int] = field(default_factory=dict)
    last_chosen: dict[WorkloadId, int] = field(default_factory=dict)
    choices: int = 0

    def place(self, candidates: Sequence[Candidate], family: int | None = None) -> Placement | None:
        """Choose and count one connection, as one step."""
        names = [candidate.workload for candidate in candidates]
        placement = place(
            candidates,
            [self.opens.get(name, 0) for name in names],
            [self.last_chosen.get(name, 0) for name in names],
            family,
        )
        if placement is not None:
            winner = names[placement.winner]
            self.choices += 1
            self.last_chosen[winner] = self.choices
            self.opens[winner] = self.opens.get(winner, 0) + 1
        return placement

    def release(self, workload: WorkloadId) -> None:
        """Uncount one connection. Raises ValueError when none is open: a release must happen exactly once."""
        if self.opens.get(workload, 0) < 1:
            raise ValueError(f"{workload}: released more often than placed")
        self.opens[workload] -= 1


def fill(candidates: Sequence[Candidate], n: int, family: int | None = None) -> tuple[int, ...]:
    """Return how many of ``n`` connections, opened one after another and held, each candidate gets.

    All zero when no candidate may be chosen. O(n * candidates).
    """
    ledger = Ledger()
    for _ in range(n):
        if ledger.place(candidates, family) is None:
            break
    return tuple(ledger.opens.get(candidate.workload, 0) for candidate in candidates)


def replay(
    receipt: Receipt,
    table: ServiceTable,
    opens: Sequence[int] | None = None,
    last_chosen: Sequence[int] | None = None,
    family: int | None = None,
) -> str:
    """Judge a stored receipt by the rule: ``""`` when it agrees, else one sentence that says where it differs.

    Args:
        receipt: what the data plane stored with the socket.
        table: the service's table of the version that the receipt names, with the suspensions of that moment.
        opens: this site's open connections to each candidate just before the choice; without them what the
            receipt itself says (winner, runner-up and their perceived costs) is judged.
        last_chosen: as in `place`; zeros when not given.
        family: the client's address family, None when it does not matter.
    """
    rows = {candidate.workload: i for i, candidate in enumerate(table.candidates)}
    if receipt.workload not in rows:
        return f"{receipt.workload} is not in version {receipt.table_version} of {receipt.service.name}"
    if opens is not None:
        zeros = [0] * len(table.candidates)
        affinity = rows[receipt.workload] if receipt.reason is Reason.AFFINITY else None
        placement = place(table.candidates, opens, zeros if last_chosen is None else last_chosen, family, affinity)
        return _differs(receipt, table, placement)
    return _inconsistent(receipt, table, rows)


def _differs(receipt: Receipt, table: ServiceTable, placement: Placement | None) -> str:
    """Compare a receipt with the placement that the rule makes."""
    if placement is None:
        return f"{receipt.workload} was chosen where the rule refuses"
    winner = table.candidates[placement.winner]
    second = None if placement.runner_up is None else table.candidates[placement.runner_up].workload
    pairs = (
        ("workload", receipt.workload, winner.workload),
        ("path cost", receipt.path_cost, winner.path_cost),
        ("perceived cost", receipt.perceived, placement.perceived),
        ("runner-up", receipt.runner_up, second),
        ("runner-up's perceived cost", receipt.runner_up_perceived, placement.runner_up_perceived),
        ("kept for its client", receipt.reason is Reason.AFFINITY, placement.by_affinity),
    )
    return "; ".join(f"{what} is {is_}, the rule says {wanted}" for what, is_, wanted in pairs if is_ != wanted)


def _inconsistent(receipt: Receipt, table: ServiceTable, rows: dict[WorkloadId, int]) -> str:
    """Judge what a receipt alone shows: costs belong to the table, and the winner does not come after the other."""
    winner = table.candidates[rows[receipt.workload]]
    if winner.out not in (Reason.NONE, Reason.SUSPENDED):
        return f"{receipt.workload} was chosen although it is {winner.out.word}"
    if receipt.path_cost != winner.path_cost:
        return f"{receipt.workload}: path cost is {receipt.path_cost}, the table says {winner.path_cost}"
    if not _possible(receipt.perceived, winner):
        return f"{receipt.workload}: perceived cost {receipt.perceived} does not belong to its path cost and capacity"
    if receipt.runner_up is None or receipt.runner_up_perceived is None:
        return ""
    if receipt.runner_up not in rows:
        return f"{receipt.runner_up} is not in version {receipt.table_version} of {receipt.service.name}"
    second = table.candidates[rows[receipt.runner_up]]
    if not _possible(receipt.runner_up_perceived, second):
        return f"{second.workload}: perceived cost {receipt.runner_up_perceived} does not belong to it"
    if receipt.reason is Reason.AFFINITY:
        return f"{receipt.workload} was kept although it is suspended" if winner.out is not Reason.NONE else ""
    suspended = (winner.out is Reason.SUSPENDED) - (second.out is Reason.SUSPENDED)
    dearer = compare(receipt.perceived, receipt.runner_up_perceived) or winner.path_cost - second.path_cost
    difference = suspended or dearer
    return f"{receipt.workload} was chosen although {second.workload} is cheaper" if difference > 0 else ""


def _possible(cost: Fraction2, candidate: Candidate) -> bool:
    """Return whether a perceived cost is that of the candidate at some number of open connections."""
    return cost[1] == candidate.capacity and cost[0] >= candidate.path_cost * candidate.capacity
