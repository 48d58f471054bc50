"""The mark of a deployment: whose it is, when it is free, and whether its run still lives."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.skedge.edge.plugins.module_utils import lease
from ansible_collections.skedge.edge.plugins.plugin_utils import deployment

ME, OTHER = {"id": "a#1#1", "who": "me"}, {"id": "b#2#2", "who": "other"}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "lease")


def test_one_run_has_it_until_it_gives_it_back(path: str):
    assert lease.take(path, ME, 900, now=100) == {}
    held = lease.take(path, OTHER, 900, now=110)
    assert (held["who"], held["for_s"], held["left_s"]) == ("me", 10, 891)
    assert lease.take(path, ME, 900, now=200) == {}, "an own one is prolonged"
    assert lease.take(path, OTHER, 900, now=1050)["for_s"] == 950
    lease.release(path, OTHER)
    assert lease.take(path, OTHER, 900, now=1050)
    lease.release(path, ME)
    assert not os.path.exists(path)
    assert lease.take(path, OTHER, 900, now=1050) == {}


@pytest.mark.parametrize(("now", "why"), [(1001.0, "it is over"), (5.0, "it is of an earlier boot")])
def test_what_nobody_can_hold_is_free(path: str, now: float, why: str):
    lease.take(path, ME, 900, now=100)
    assert lease.take(path, OTHER, 900, now=now) == {}, why


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "x"}'])
def test_a_mark_that_was_cut_off_keeps_nobody_away(path: str, text: str):
    Path(path).write_text(text)
    assert lease.take(path, ME, 900) == {}


def test_it_may_be_taken_by_name_only(path: str):
    lease.take(path, ME, 900)
    assert lease.take(path, OTHER, 900, ["c#3#3"])
    assert lease.take(path, OTHER, 900, ["a#1#1"]) == {}


def test_nothing_is_followed_elsewhere(path: str, tmp_path: Path):
    (tmp_path / "precious").write_text("x")
    os.symlink(tmp_path / "precious", path)
    with pytest.raises(OSError, match="symbolic"):
        lease.take(path, ME, 900)
    assert (tmp_path / "precious").read_text() == "x"


def test_a_run_of_this_machine_is_known_to_live_or_not():
    child = subprocess.Popen(["sleep", "60"])
    try:
        alive = deployment.owner(child.pid)
        assert not deployment.gone(alive["id"])
        assert deployment.owner(os.getpid())["id"] != alive["id"]
    finally:
        child.kill()
        child.wait()
    assert deployment.gone(alive["id"])
    assert not deployment.gone(alive["id"].replace("/", "-other/", 1)), "of another machine it cannot be told"


def test_a_number_that_another_process_got_is_not_that_run():
    place, _, rest = deployment.owner(os.getpid())["id"].partition("#")
    assert deployment.gone(f"{place}#{rest.partition('#')[0]}#1")
