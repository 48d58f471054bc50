"""The network step's way back, the records of a deployment, and how the control node comes back to a host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skedge.edge.plugins.action import reachable
from ansible_collections.skedge.edge.plugins.module_utils import hostnetwork as net
from ansible_collections.skedge.edge.plugins.module_utils import statefile


def take_back(directory: Path, previous: dict[str, str], files: dict[str, str | None]) -> str | None:
    """Run the script as the timer does, and return its mark."""
    script, mark = directory / "back.sh", directory / "mark"
    script.write_text(net.revert_script(previous, files, networkd=False, mark=str(mark)))
    script.chmod(0o600)
    subprocess.run(["/bin/sh", script], check=True, capture_output=True)
    assert not script.exists(), "who finds the script knows that it did not run"
    return statefile.read_text(mark)


def test_the_way_back_restores_values_and_files_and_says_so(tmp_path: Path):
    value, kept, made = tmp_path / "value", tmp_path / "kept", tmp_path / "made"
    for path, text in ((value, "1\n"), (kept, "new\n"), (made, "new\n")):
        path.write_text(text)
    mark = take_back(tmp_path, {str(value): "0"}, {str(kept): "old 'quoted' $HOME\n", str(made): None})
    assert value.read_text() == "0\n"
    assert kept.read_text() == "old 'quoted' $HOME\n"
    assert not made.exists()
    assert "has taken its network step back, as it was not confirmed within 8 s" in net.taken_back(mark, 8)


def test_what_could_not_be_taken_back_is_named(tmp_path: Path):
    value, gone = tmp_path / "value", tmp_path / "not/there"
    mark = take_back(tmp_path, {str(gone): "0", str(value): "0"}, {})
    assert value.read_text() == "0\n", "one that fails stops no other"
    assert f"but for {gone}; set these by hand" in net.taken_back(mark, 8)
    assert "unknown part" in net.taken_back("", 8)


def test_without_a_mark_nothing_was_taken_back():
    assert net.taken_back(None, 8) == ""


# ---- records ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_modes_are_those_that_were_asked_for(tmp_path: Path):
    statefile.write_text(str(tmp_path / "a/b/file"), "x", 0o644)
    statefile.write_record(str(tmp_path / "c/record"), {"x": 1})
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/file", "c", "c/record")}
    assert modes == {"a": 0o755, "a/b": 0o755, "a/b/file": 0o644, "c": 0o700, "c/record": 0o600}
    assert statefile.read_record(str(tmp_path / "c/record")) == {"x": 1}


@pytest.mark.parametrize("text", ["{", "", "[]", '{"a": 1', "\0\0"])
def test_a_record_that_was_cut_off_is_told_from_none(tmp_path: Path, text: str):
    path = tmp_path / "record"
    assert statefile.read_record(str(path)) == {}
    path.write_text(text)
    assert statefile.read_record(str(path)) is None


def test_what_was_set_before_is_found_out_anew():
    hashing = "net.ipv4.fib_multipath_hash_policy"
    written = {hashing: "1", net.RESERVED: "8080,61000-65535"}
    now = {hashing: "1", net.RESERVED: "8080,61000-65535"}
    assert net.rebuilt(written, now.get, "61000-65535") == {hashing: "0", net.RESERVED: "8080"}
    assert hashing not in net.rebuilt(written, {**now, hashing: "2"}.get, "61000-65535"), "somebody else's"
    assert net.rebuilt({}, now.get, "61000-65535") == {}, "nothing was written: what is now was before"
    assert json.dumps(net.rebuilt(written, now.get, "61000"))


def test_what_the_service_may_not_read_is_found_and_healed(tmp_path: Path):
    directory, file = tmp_path / "d", tmp_path / "d/f"
    directory.mkdir()
    file.write_text("")
    file.chmod(0o600)
    directory.chmod(0o700)
    paths = [str(directory), str(file), str(tmp_path / "none")]
    assert statefile.hidden(paths) == paths[:2]
    statefile.show(paths[:2])
    assert statefile.hidden(paths) == []
    assert (directory.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o755, 0o644)


# ---- the way back to the host ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeout", "seconds", "wanted"), [(10, 50, 10), (30, 50, 16), (60, 290, 60), (30, 5, 3), (2, 50, 3)]
)
def test_a_login_is_tried_several_times_in_the_time_there_is(timeout: int, seconds: int, wanted: int):
    options: dict[str, Any] = {"ssh_args": "-o ControlMaster=auto", "timeout": timeout, "reconnection_retries": 3}
    changed = reachable.fresh(options.get, seconds)
    assert changed == {"ssh_extra_args": "-S none", "timeout": wanted, "reconnection_retries": 0}


def test_an_operators_own_arguments_are_kept():
    options = {"ssh_args": "", "ssh_extra_args": "-S /tmp/mine -o ProxyJump=hop"}
    assert reachable.fresh(options.get, 50)["ssh_extra_args"] == "-S /tmp/mine -o ProxyJump=hop -S none"


def test_a_connection_that_is_not_ssh_is_left_as_it_is():
    assert reachable.fresh({}.get, 50) == {}


@pytest.mark.parametrize("mine", [["-o", "ControlPath=/tmp/mine"], ["-S", "/tmp/mine"], ["-oControlPersist=9"], []])
def test_ssh_itself_shares_no_connection_then(mine: list[str]):
    """As ssh reads its command line: where Ansible puts the arguments, and what it adds after them."""
    command = [
        "ssh",
        "-G",
        "-F",
        "none",
        *mine,
        *reachable.NO_SHARING.split(),
        "-o",
        "ControlPath=/tmp/ansible",
        "host",
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert not [line for line in shown.splitlines() if line.startswith("controlpath") and not line.endswith("none")]


SHARED = """Host *
HostName 127.0.0.1
Port 1
ControlMaster auto
ControlPath {at}/%C
"""
# Notes what ssh makes of its command line and files, and is ssh.
NOTING = """#!/bin/bash
{ssh} -G "$@" | grep -e '^host ' -e ^controlpath >> {at}/noted
exec -a ssh {ssh} "$@"
"""


@pytest.mark.parametrize(
    ("mine", "hosts"),
    [
        (["-o", "ProxyJump=hop,far"], ["host", "far", "hop"]),
        (["-J", "hop"], ["host", "hop"]),
        (["-o", "ProxyCommand=ssh -F {at}/config -W %h:%p hop"], ["host", "hop"]),
    ],
    ids=["two", "one", "command"],
)
def test_no_ssh_on_the_way_over_jump_hosts_shares_a_connection(tmp_path: Path, mine: list[str], hosts: list[str]):
    config, real = tmp_path / "config", tmp_path / "noting"
    config.write_text(SHARED.format(at=tmp_path))
    real.write_text(NOTING.format(at=tmp_path, ssh=shutil.which("ssh")))
    real.chmod(0o755)
    words = [word.format(at=tmp_path) for word in mine]
    with reachable.ssh_alone(str(real)) as changed:
        command = [changed["ssh_executable"], "-F", config, *words, "-o", "BatchMode=yes", "host", "true"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 255
    noted = (tmp_path / "noted").read_text().splitlines()
    assert [line.removeprefix("host ") for line in noted if line.startswith("host ")] == hosts
    assert [line for line in noted if line.startswith("controlpath") and line != "controlpath none"] == []


def test_where_there_is_no_ssh_none_is_told():
    with reachable.ssh_alone(None) as nothing, reachable.ssh_alone("no-such-ssh") as none:
        assert (nothing, none) == ({}, {})
