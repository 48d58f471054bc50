"""Which fault a client's trouble belongs to, and when a row is out of bounds."""

from __future__ import annotations

from typing import Any

from tests.chaos.__main__ import order
from tests.chaos.faults import FAULTS
from tests.chaos.measure import Bounds, Episode, Row, rows

CUT = Episode("cut", 100.0, 103.0, {"web": Bounds(0, 0, 0.45, 0.45, 1.6)})
PLUG = Episode("plug", 110.0, 112.0, {"web": Bounds(5, None)})


def seen(**changes: Any) -> list[Row]:
    rate = {"started": 90.0, "failures": [], "slow": []}
    pulse: dict[str, Any] = {"lost": [], "stalls": [], "unopened": []}
    for name, value in changes.items():
        (rate if name in rate else pulse)[name] = value
    return rows("web", [CUT, PLUG], rate, pulse)


def test_nothing_seen_is_within_bounds() -> None:
    assert [row.beyond() for row in seen()] == [[], []]


def test_trouble_belongs_to_the_fault_in_whose_time_it_began() -> None:
    cut, plug = seen(
        failures=[[5.0, "before all of it"], [10.1, "x"], [25.0, "y"]],
        unopened=[[101.0, "x"]],
        lost=[[109.9, "closed"], [110.5, "ECONNRESET"]],
        stalls=[[101.0, 0.3], [109.5, 3.0]],
        slow=[[10.5, 0.6], [13.2, 0.7], [22.5, 0.2]],
    )
    assert (cut.failed, cut.lost, cut.stall, cut.served) == (2, 1, 3.0, 0.7)
    assert (plug.failed, plug.lost, plug.stall, plug.served) == (1, 1, 0.0, 0.2)
    assert (round(cut.again, 3), round(plug.again, 3)) == (0.5, 3.0), "since the fault, since its end; 0.2 s is at once"
    assert dict(cut.why) == {"x": 2, "closed": 1}
    assert cut.beyond() == ["failed", "lost", "stall", "again"]
    assert plug.beyond() == []


def test_slack_is_for_times_alone() -> None:
    (cut, _) = seen(slow=[[10.6, 2.6]], failures=[[10.1, "x"]])
    assert cut.beyond() == ["failed", "again", "served"]
    assert cut.beyond(slack=4) == ["failed"]


def test_a_service_without_bounds_may_see_nothing_and_a_network_that_is_not_itself_again_is_told() -> None:
    (row,) = rows("pool", [Episode("cut", 0.0, 0.0, {}, "web: [] can be used")], {"started": 0, "failures": [[1, "x"]],
                  "slow": []}, {"lost": [], "stalls": [], "unopened": []})  # fmt: skip
    assert row.beyond() == ["failed", "web: [] can be used"]


def test_a_seed_makes_the_order_and_each_fault_comes_once_before_any_comes_again() -> None:
    made = [one.name for one in order(7, passes=2)]
    assert made == [one.name for one in order(7, passes=2)] != [one.name for one in order(8, passes=2)]
    assert sorted(made[: len(FAULTS)]) == sorted(made[len(FAULTS) :]) == sorted(one.name for one in FAULTS)
