"""Marks of links that are bound to an uplink: one a port, known again, with no bit that others act on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skedge.core.names import SOCKET_MARK, is_uplink_mark, uplink_mark

PORTS = st.integers(1, 65535)
KUBERNETES, TAILSCALE = 0xC000, 0xFF0000


@given(PORTS, PORTS)
def test_no_two_links_have_one_mark(one: int, other: int) -> None:
    assert (uplink_mark(one) == uplink_mark(other)) == (one == other)
    assert is_uplink_mark(uplink_mark(one))
    assert not uplink_mark(one) & (KUBERNETES | TAILSCALE)


def test_marks_of_others_are_none_of_ours() -> None:
    assert not any(map(is_uplink_mark, (0, SOCKET_MARK, 0x8000, 0x80000, 0x70000000, 0xCA6C)))
