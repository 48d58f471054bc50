"""What a run says at its end, and what it keeps."""

from __future__ import annotations

import pytest

from tests.bench.against import rules
from tests.bench.judge import Rule
from tests.bench.report import WORSE, Report
from tests.bench.rounds import Series

ROUNDS = [{"direct": [1.0], "through": [1.0 + number / 1000]} for number in range(20)]


def rule(target: str) -> Rule:
    """Return a row whose median is 1.0095."""
    return Rule(f"through / direct {target}", ("through",), ("direct",), target)


def test_only_what_is_missed_for_certain_counts_as_missed(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.value("connections a second", 10_000.0, "1/s")
    report.judge(rule("<= 1.02"), ROUNDS)
    report.judge(rule("<= 1.01"), ROUNDS)
    assert not report.missed()
    report.judge(rule("<= 0.99"), ROUNDS)
    assert report.missed()
    report.close()
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "1 met",
        "1 missed: through / direct <= 0.99",
        "1 not decided: through / direct <= 1.01",
    ]
    assert [row["good"] for row in report.rows] == [None, True, None, False]
    assert [row["verdict"] for row in report.rows] == ["", "met", "not decided", "missed"]
    assert {"low", "high", "rounds"} <= report.rows[1].keys()


def test_a_row_without_a_target_has_an_interval_and_no_verdict() -> None:
    report = Report()
    report.judge(rule(""), ROUNDS)
    assert report.rows[0]["verdict"] == ""
    assert report.rows[0]["low"] < report.rows[0]["value"] < report.rows[0]["high"]  # type: ignore[operator]
    assert report.verdicts == []


def test_a_way_that_did_not_come_to_its_end_is_a_missed_target() -> None:
    series = Series("lan: round trip", {"direct": lambda: [1.0]})
    series.unable.append("skedge")
    report = Report()
    report.rules(series)
    assert report.missed()


@pytest.mark.parametrize(("value", "missed"), [(79.9, False), (80.0, True)])
def test_a_number_that_is_no_matter_of_chance_is_judged_as_it_is(value: float, missed: bool) -> None:
    report = Report()
    report.certain("resident memory", value, "< 80", "MiB")
    assert report.missed() is missed


@pytest.mark.parametrize(
    ("slower", "word"), [(0.99, "not worse"), (1.01, "not worse"), (1.02, "not decided"), (1.05, "worse")]
)
def test_versions_are_worse_not_worse_or_not_decided(slower: float, word: str) -> None:
    report = Report(words=WORSE)
    speeds = {"new direct": 1.3, "old direct": 1.0, "new through": 1.3 * 1.1 * slower, "old through": 1.1}
    found = [
        {name: [speed * (1 + 0.001 * (number % 5 - 2) * name.startswith("new t"))] for name, speed in speeds.items()}
        for number in range(15)
    ]
    through = next(rule for rule in rules("round trip", "<= 1.02") if "through" in rule.what)
    report.judge(through, found)
    assert report.rows[0]["verdict"] == word
