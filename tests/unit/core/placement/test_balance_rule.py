from __future__ import annotations

import pytest

from skedge.core.model import WorkloadId
from skedge.core.objects import Candidate, ListenerKey, ServiceTable, Target
from skedge.core.observed import Receipt
from skedge.core.placement import rule
from skedge.core.placement.rule import Ledger
from skedge.core.reasons import Reason
from tests.fakes.networks import SERVICE, candidates_at, configs, split_at
from tests.kit import oracles

HERE = Target("127.0.0.1", 1)


def one(name: str, cost: int = 0, capacity: int = 1, others: int = 0, out: Reason = Reason.NONE) -> Candidate:
    return Candidate(WorkloadId(name, "web"), cost, capacity=capacity, others=others, target4=HERE, out=out)


def pick(candidates: list[Candidate], opens: list[int] | None = None, last: list[int] | None = None) -> str | None:
    zeros = [0] * len(candidates)
    index = rule.choose(candidates, opens or zeros, last or zeros)
    return None if index is None else candidates[index].workload.site


REFERENCE = [
    ([("A", "B", 1)], "AB", 20, {"A": 11, "B": 9}),
    ([("A", "B", 9999)], "AB", 20, {"A": 20, "B": 0}),
    ([("A", "B", 9999)], "AB", 1000, {"A": 1000, "B": 0}),
    ([("A", "B", 10), ("B", "C", 20)], "ABC", 11, {"A": 11, "B": 0, "C": 0}),
    ([("A", "B", 10), ("B", "C", 20)], "ABC", 12, {"A": 11, "B": 1, "C": 0}),
    ([("A", "B", 10), ("B", "C", 20)], "ABC", 14, {"A": 12, "B": 2, "C": 0}),
    ([("A", "B", 10), ("B", "C", 20)], "ABC", 50, {"A": 30, "B": 20, "C": 0}),
    ([("A", "B", 10), ("B", "C", 20)], "ABC", 100, {"A": 47, "B": 37, "C": 16}),
    ([("A", "B", 10), ("B", "C", 20)], "AC", 100, {"A": 65, "C": 35}),
    ([("A", "B", 10), ("A", "D", 50), ("B", "D", 100)], "ABD", 100, {"A": 54, "B": 43, "D": 3}),
    ([("A", "B", 1), ("A", "C", 50)], "BC", 100, {"B": 75, "C": 25}),
    ([("A", "B", 1), ("A", "C", 50)], "BC", 400, {"B": 225, "C": 175}),
    ([("A", "B", 1), ("A", "C", 50)], "BC", 500, {"B": 275, "C": 225}),
    ([("A", "B", 1), ("A", "C", 50)], "BC", 600, {"B": 325, "C": 275}),
    ([("A", "B", 5), ("A", "C", 5)], {"B": 4, "C": 1}, 100, {"B": 80, "C": 20}),
]


@pytest.mark.parametrize(("links", "servers", "n", "split"), REFERENCE)
def test_reference_numbers(links: list, servers: object, n: int, split: dict[str, int]) -> None:
    all_configs = configs(links, servers)  # type: ignore[arg-type]
    assert split_at(all_configs, "A", n) == split
    candidates = candidates_at(all_configs, "A")
    assert oracles.split(candidates, n) == tuple(split[one.workload.site] for one in candidates)


def test_the_backups_first_connection_comes_when_the_primary_costs_more() -> None:
    candidates = [one("A"), one("B", 9999)]
    assert pick(candidates, [9999, 0]) == "A"  # a tie: the lower path cost
    assert pick(candidates, [10000, 0]) == "B"
    assert rule.fill(candidates, 10_000) == (10_000, 0)
    assert rule.fill(candidates, 10_001) == (10_000, 1)


def test_perceived_is_an_exact_fraction_over_the_capacity() -> None:
    assert rule.perceived(one("A", 10, 3, others=2), 5) == (37, 3)
    assert rule.compare((1, 3), (333_333, 1_000_000)) > 0
    assert rule.compare((2, 6), (1, 3)) == 0


def test_ties_lower_path_cost_then_least_recently_chosen_then_name() -> None:
    assert pick([one("A", 5), one("B", 3)], [0, 2]) == "B"
    assert pick([one("A"), one("B")], last=[7, 3]) == "B"
    assert pick([one("A"), one("B")], last=[1, 0]) == "B"
    assert pick([one("B"), one("A")]) == "A"
    assert pick([one("a-b"), one("a")]) == "a"  # the site as a name, not as part of a text


def test_others_count_as_much_as_own() -> None:
    assert pick([one("A", others=3), one("B")], [0, 2]) == "B"
    assert pick([one("A", others=3), one("B")], [0, 4]) == "A"


@pytest.mark.parametrize("reason", [Reason.UNHEALTHY, Reason.DRAINED, Reason.UNREACHABLE, Reason.SUSPENDED])
def test_what_is_out_is_not_chosen_however_cheap(reason: Reason) -> None:
    assert pick([one("A", out=reason), one("B", 9999)]) == "B"


def test_suspension_is_ignored_when_all_that_is_left_is_suspended() -> None:
    candidates = [one("A", 5, out=Reason.SUSPENDED), one("B", 3, out=Reason.SUSPENDED), one("C", out=Reason.DRAINED)]
    placement = rule.place(candidates, [0, 0, 0], [0, 0, 0])
    assert placement == rule.Placement(1, (3, 1), 0, (5, 1), suspension_ignored=True)
    assert pick([one("A", out=Reason.UNHEALTHY)]) is None
    assert pick([]) is None


def test_a_suspended_runner_up_comes_last_whatever_it_costs() -> None:
    candidates = [one("A", 5, out=Reason.SUSPENDED), one("B", 30)]
    assert rule.place(candidates, [0, 0], [0, 0]) == rule.Placement(1, (30, 1), 0, (5, 1))
    three = [*candidates, one("C", 90)]
    assert rule.place(three, [0, 0, 0], [0, 0, 0]) == rule.Placement(1, (30, 1), 2, (90, 1))


def test_the_clients_address_family_decides_who_can_be_reached() -> None:
    four = one("A")
    six = Candidate(WorkloadId("B", "web"), 9, capacity=1, target6=Target("::1", 1))
    assert rule.choose([four, six], [0, 0], [0, 0], 4) == 0
    assert rule.choose([four, six], [0, 0], [0, 0], 6) == 1
    assert rule.choose([four], [0], [0], 6) is None
    assert rule.choose([one("A", out=Reason.SUSPENDED)], [0], [0], 6) is None
    assert rule.refusal(four, 6) is Reason.NO_FAMILY
    assert rule.refusal(four, 4) is rule.refusal(four) is Reason.NONE
    assert rule.refusal(one("A", out=Reason.DRAINED), 4) is Reason.DRAINED


def test_a_ledger_counts_and_alternates_among_equals() -> None:
    ledger, candidates = Ledger(), [one("A"), one("B"), one("C")]
    order = []
    for _ in range(6):
        placement = ledger.place(candidates)
        assert placement is not None
        order.append(candidates[placement.winner].workload)
        ledger.release(order[-1])
    assert [workload.site for workload in order] == ["A", "B", "C", "A", "B", "C"]
    assert ledger.choices == 6
    assert sum(ledger.opens.values()) == 0


def test_a_release_without_a_placement_is_an_error() -> None:
    with pytest.raises(ValueError, match="B/web: released more often than placed"):
        Ledger().release(WorkloadId("B", "web"))


def test_a_ledger_refuses_without_counting() -> None:
    ledger = Ledger()
    assert ledger.place([one("A", out=Reason.DRAINED)]) is None
    assert (ledger.choices, ledger.opens) == (0, {})
    assert rule.fill([one("A", out=Reason.DRAINED)], 5) == (0,)


class TestReplay:
    table = ServiceTable((one("A", 0), one("B", 3, 2), one("C", 1, out=Reason.DRAINED)))

    def receipt(self, workload: str = "A", cost: int = 0, perceived: tuple[int, int] = (2, 1), **changes) -> Receipt:
        rest = {"runner_up": WorkloadId("B", "web"), "runner_up_perceived": (6, 2)} | changes
        return Receipt(
            "", ListenerKey("10.0.0.1", 80), SERVICE, WorkloadId(workload, "web"), 7, cost, perceived, **rest
        )

    def test_a_right_receipt_agrees_with_and_without_the_counts(self) -> None:
        assert rule.replay(self.receipt(), self.table) == ""
        assert rule.replay(self.receipt(), self.table, [2, 0, 0]) == ""
        assert rule.replay(self.receipt(), self.table, [2, 0, 0], [9, 0, 0], 4) == ""

    def test_a_tie_is_judged_by_the_choices_given(self) -> None:
        table = ServiceTable((one("A"), one("B")))
        receipt = self.receipt(perceived=(0, 1), runner_up_perceived=(0, 1))
        assert rule.replay(receipt, table) == ""
        assert rule.replay(receipt, table, [0, 0]) == ""
        assert "workload is A/web, the rule says B/web" in rule.replay(receipt, table, [0, 0], [4, 2])

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"workload": "X"}, "X/web is not in version 7 of web"),
            ({"workload": "C", "cost": 1, "perceived": (1, 1)}, "C/web was chosen although it is drained"),
            ({"cost": 4}, "A/web: path cost is 4, the table says 0"),
            ({"perceived": (2, 5)}, "A/web: perceived cost (2, 5) does not belong to its path cost and capacity"),
            ({"runner_up_perceived": (5, 2)}, "B/web: perceived cost (5, 2) does not belong to it"),
            ({"runner_up": WorkloadId("X", "web")}, "X/web is not in version 7 of web"),
            ({"perceived": (4, 1)}, "A/web was chosen although B/web is cheaper"),
            ({"workload": "B", "cost": 3, "perceived": (6, 2), "runner_up": WorkloadId("A", "web"),
              "runner_up_perceived": (3, 1)}, "B/web was chosen although A/web is cheaper"),
        ],
    )  # fmt: skip
    def test_a_wrong_receipt_is_named(self, changes: dict, text: str) -> None:
        assert rule.replay(self.receipt(**changes), self.table) == text

    def test_a_suspended_runner_up_may_be_cheaper_a_suspended_winner_may_not_be_chosen_before_it(self) -> None:
        away = ServiceTable((one("A", out=Reason.SUSPENDED), one("B", 3)))
        swapped = {"runner_up": WorkloadId("A", "web"), "runner_up_perceived": (0, 1)}
        assert rule.replay(self.receipt("B", 3, (3, 1), **swapped), away) == ""
        cheaper = self.receipt("A", 0, (0, 1), runner_up_perceived=(3, 1))
        assert rule.replay(cheaper, away) == "A/web was chosen although B/web is cheaper"

    def test_the_only_candidate_has_no_runner_up(self) -> None:
        receipt = self.receipt(runner_up=None, runner_up_perceived=None)
        assert rule.replay(receipt, self.table) == ""
        assert "runner-up is None, the rule says B/web" in rule.replay(receipt, self.table, [2, 0, 0])

    def test_counts_that_lead_elsewhere_are_named(self) -> None:
        text = rule.replay(self.receipt(), self.table, [9, 0, 0])
        assert text.startswith("workload is A/web, the rule says B/web; path cost is 0, the rule says 3")

    def test_a_choice_where_the_rule_refuses_is_named(self) -> None:
        table = ServiceTable((one("A", out=Reason.DRAINED),))
        assert rule.replay(self.receipt(), table, [0]) == "A/web was chosen where the rule refuses"


def test_water_level_and_shares_of_the_line() -> None:
    candidates = [one("A"), one("B", 10), one("C", 30)]
    assert oracles.level(candidates, 50) == 30
    assert oracles.shares(candidates, 50) == (30, 20, 0)
    assert oracles.level(candidates, 0) == 0
    assert oracles.level([one("A", out=Reason.DRAINED)], 5) is None
    assert oracles.shares([one("A", out=Reason.DRAINED)], 5) == (0,)
    assert oracles.split([one("A", out=Reason.DRAINED), one("B")], 5) == (0, 5)
    assert oracles.split([one("A", out=Reason.SUSPENDED), one("B", out=Reason.DRAINED)], 5) == (5, 0)
