"""Who commands: root, and members of the group, as the kernel tells them."""

from __future__ import annotations

import grp
import os
import socket

import pytest

from skedge.control.peer import NOBODY, Peer, peer_of, refuse_unless_admin
from skedge.core.errors import ApiError


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> int:
    """The group exists and has this number."""
    entry = grp.struct_group(("skedge-admin", "x", 4711, []))
    monkeypatch.setattr(grp, "getgrnam", lambda name: {"skedge-admin": entry}[name])
    return 4711


def test_the_kernel_tells_user_and_all_groups() -> None:
    here, there = socket.socketpair()
    with here, there:
        told = peer_of(here)
    assert told == Peer(os.getuid(), frozenset({os.getgid(), *os.getgroups()}))


def test_root_and_members_of_the_group_may(group: int) -> None:
    refuse_unless_admin(Peer(0))
    refuse_unless_admin(Peer(1000, frozenset({5, group})))


def test_everyone_else_gets_one_sentence(group: int) -> None:
    with pytest.raises(ApiError) as refused:
        refuse_unless_admin(Peer(54321, frozenset({group + 1})))
    assert str(refused.value) == (
        "uid 54321 may only look: commands are for root and members of the group skedge-admin"
    )
    with pytest.raises(ApiError):
        refuse_unless_admin(NOBODY)


def test_without_the_group_only_root_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grp, "getgrnam", {}.__getitem__)
    refuse_unless_admin(Peer(0))
    with pytest.raises(ApiError):
        refuse_unless_admin(Peer(1000, frozenset({1000})))
