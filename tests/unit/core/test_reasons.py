"""The list of reasons is closed, its codes and words each stand once, and all fit where they are stored."""

from __future__ import annotations

import pytest

from skedge.core.reasons import MAX_REASONS, Reason


def test_codes_and_words_stand_once_and_fit() -> None:
    assert len({one.word for one in Reason}) == len(Reason) == len(Reason.__members__)
    assert all(0 <= one.code < MAX_REASONS for one in Reason)


def test_a_reason_is_found_by_its_code_and_printed_as_its_word() -> None:
    assert Reason.of_code(64) is Reason.OVERLOAD
    assert f"{Reason.OVERLOAD} %s" % Reason.NO_SOCKET == "overload no-socket"
    with pytest.raises(KeyError):
        Reason.of_code(MAX_REASONS)
