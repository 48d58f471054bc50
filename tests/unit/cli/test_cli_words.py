"""Values as words."""

from __future__ import annotations

import pytest

from skedge.cli import format
from skedge.core.reasons import Reason


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0ms"),
        (-0.1, "0ms"),
        (0.85, "850ms"),
        (0.9994, "999ms"),
        (0.9996, "1s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (192, "3m12s"),
        (3599.6, "1h00m"),
        (7500, "2h05m"),
        (86399.7, "1d00h"),
        (3 * 86400 + 4 * 3600, "3d04h"),
    ],
)
def test_span(seconds: float | None, text: str) -> None:
    assert format.span(seconds) == text


@pytest.mark.parametrize(
    ("exact", "text"),
    [
        ("12/1", "12"),
        ("12/4", "3"),
        ("49/4", "12.25 (49/4)"),
        ("1/3", "0.33 (1/3)"),
        ("", "-"),
        ("x/0", "x/0"),
        ("3/0", "3/0"),
    ],
)
def test_cost(exact: str, text: str) -> None:
    assert format.cost(exact) == text


def test_every_reason_is_known_by_one_word_and_one_code() -> None:
    reasons = list(Reason)
    assert len({reason.word for reason in reasons}) == len(reasons) == len({reason.code for reason in reasons})
    assert len(Reason.__members__) == len(reasons), "two names for one reason"
    for reason in reasons:
        assert reason.sentence
        assert 0 <= reason.code < 256
        if reason is not Reason.NONE:
            assert format.reason(reason.word) == f"{reason.word}: {reason.sentence}"
    assert format.reason("none") == "-"
    assert format.reason("new\x1bword") == "new\\x1bword"
