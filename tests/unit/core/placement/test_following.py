from __future__ import annotations

import logging

import pytest

from skedge.core.api.new_placements import OVERLAP_S, Following
from skedge.core.api.shown import ConnectionRow
from skedge.daemon.placement_log import LINES_MAX, write


def row(number: int, placed_s: float, **other: str) -> ConnectionRow:
    made = {"client": f"10.0.0.9:{number}", "reason": "none", **other}
    return ConnectionRow(made["client"], "10.0.0.1:80/tcp", "web", "tcp", f"a/w{number}", 10, "21/2", "", "", 1, 0.0,
                         made["reason"], placed_s)  # fmt: skip


def test_each_is_told_once_and_in_order() -> None:
    following = Following(100.0)
    assert following.fresh([row(2, 101.0), row(1, 100.5)], 102.0) == [row(1, 100.5), row(2, 101.0)]
    assert following.since == 100.0, "never before the beginning"
    assert following.fresh([row(2, 101.0), row(3, 101.5)], 104.0) == [row(3, 101.5)]
    assert following.since == 104.0 - OVERLAP_S
    assert following.fresh([row(4, 103.0)], 105.0) == [row(4, 103.0)], "one that was seen late"
    assert following.fresh([row(4, 103.0)], 106.0) == []


def test_a_line_each_and_a_number_for_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="skedge.placements"):
        write([row(1, 1.0, client="", reason="affinity")])
        write([row(number, 1.0) for number in range(LINES_MAX + 7)])
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == (
        "op=place client=- listener=10.0.0.1:80/tcp service=web/tcp workload=a/w1 perceived=21/2 path_cost=10"
        " runner_up=- reason=affinity"
    )
    assert len(lines) == 1 + LINES_MAX + 1
    assert lines[-1] == "op=place left_out=7"
