"""The comparison of a host before and after: it sees what is left, and says it once."""

from __future__ import annotations

import pytest

from tests.workloads.snapshot import PASSING, compare


def test_nothing_different_is_no_line() -> None:
    assert compare({"a": "1"}, {"a": "1"}) == []


def test_new_gone_and_changed_are_named() -> None:
    lines = compare({"file /etc/a": "1", "rules: x": ""}, {"file /etc/a": "2", "file /etc/b": "3"})
    assert lines == ["new: file /etc/b 3", "gone: rules: x", "changed: file /etc/a: 1 => 2"]


def test_a_new_directory_stands_for_what_is_in_it() -> None:
    after = {"file /opt/x": "d", "file /opt/x/y": "d", "file /opt/x/y/z": "f", "file /optx": "f"}
    assert compare({}, after) == ["new: file /opt/x d", "new: file /optx f"]


@pytest.mark.parametrize("login", ["session-12.scope transient -", "session-c5.scope transient -"])
def test_a_login_is_no_difference_on_either_debian(login: str) -> None:
    assert PASSING.search(login)
    assert not PASSING.search("skedge-session.service enabled enabled")
