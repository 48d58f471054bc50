"""The weights of the IPVS engine against the rule, with the kernel's scheduler as a pure function."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skedge.core.model import WorkloadId
from skedge.core.objects import Candidate, Target
from skedge.core.placement.ipvs_weights import Load, additions, pick, weights
from skedge.core.placement.rule import Ledger, fill
from skedge.core.reasons import Reason

OUTS = st.sampled_from([Reason.NONE] * 6 + [Reason.UNHEALTHY, Reason.DRAINED, Reason.SUSPENDED])


@st.composite
def tables(draw: st.DrawFn) -> list[Candidate]:
    count = draw(st.integers(1, 6))
    return [
        Candidate(
            WorkloadId(f"s{i}", "w"),
            draw(st.sampled_from([0, 1, 1, 10, 20, 50, 9999])),
            capacity=draw(st.sampled_from([1, 1, 1, 2, 4, 100])),
            others=draw(st.integers(0, 30)),
            target4=Target(f"10.0.0.{i}", 80),
            out=draw(OUTS),
        )
        for i in range(count)
    ]


@given(tables(), st.integers(0, 60))
def test_additions_are_the_rule_from_nothing(table: list[Candidate], n: int) -> None:
    assert additions(table, [Load()] * len(table), n) == fill(table, n)


@given(tables(), st.lists(st.integers(0, 40), min_size=6, max_size=6), st.integers(0, 40))
def test_additions_are_the_rule_from_any_state(table: list[Candidate], opens: list[int], n: int) -> None:
    names = [one.workload for one in table]
    ledger = Ledger(dict(zip(names, opens, strict=False)))
    for _ in range(n):
        ledger.place(table)
    loads = [Load(number, number) for number in opens[: len(table)]]
    expected = [ledger.opens[name] - number for name, number in zip(names, opens, strict=False)]
    assert list(additions(table, loads, n)) == expected


@given(
    tables(),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 900)), min_size=6, max_size=6),
    st.integers(1, 30),
)
def test_so_many_as_were_expected_go_where_the_rule_puts_them(
    table: list[Candidate], found: list[tuple[int, int]], n: int
) -> None:
    """In whatever order wlc places them, and however many closed connections the kernel still counts."""
    loads = [Load(active, active, inactive) for active, inactive in found[: len(table)]]
    quotas = weights(table, loads, n)
    active, inactive = [load.active for load in loads], [load.inactive for load in loads]
    placed = [0] * len(table)
    for _ in range(n):
        chosen = pick(quotas, active, inactive)
        if chosen is None:
            break
        active[chosen] += 1
        placed[chosen] += 1
    assert tuple(placed) == additions(table, loads, n)


@given(tables(), st.integers(0, 3))
def test_someone_has_a_weight_while_anyone_may_be_chosen_and_nobody_else_has(table: list[Candidate], n: int) -> None:
    quotas = weights(table, [Load()] * len(table), n)
    usable = [i for i, one in enumerate(table) if one.out is Reason.NONE]
    usable = usable or [i for i, one in enumerate(table) if one.out is Reason.SUSPENDED]
    assert any(quotas) == bool(usable)
    assert {i for i, weight in enumerate(quotas) if weight} <= set(usable)
