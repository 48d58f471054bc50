"""The module that writes configuration and unit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.skedge.edge.plugins.modules import text_file


def run(capsys: pytest.CaptureFixture[str], *, check: bool = False, **given: Any) -> dict[str, Any]:
    """Run the module in this process; return its result."""
    with patch_module_args({**given, "_ansible_check_mode": check}), pytest.raises(SystemExit):
        text_file.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "etc/file"


@pytest.fixture
def given(path: Path) -> dict[str, Any]:
    path.parent.mkdir()
    return {"path": str(path), "content": "one\n", "mode": "0640"}


def test_a_file_is_written_once(path: Path, given: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    first = run(capsys, **given)
    assert (first["changed"], path.read_text(), path.stat().st_mode & 0o777) == (True, "one\n", 0o640)
    assert (first["diff"]["before"], first["diff"]["after"]) == ("", "one\n")
    second = run(capsys, **given)
    assert not second["changed"]
    assert "diff" not in second
    assert second["sha256"] == first["sha256"]
    assert run(capsys, **{**given, "content": "two\n"})["sha256"] != first["sha256"]
    assert [one.name for one in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("damaged", [b"\xff\xfe\0", b"one\r\n", b""])
def test_what_became_of_a_file_is_put_right(
    path: Path, given: dict[str, Any], capsys: pytest.CaptureFixture[str], damaged: bytes
):
    path.write_bytes(damaged)
    assert run(capsys, **given)["changed"]
    assert path.read_bytes() == b"one\n"


def test_a_mode_that_somebody_changed_is_put_back(
    path: Path, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    run(capsys, **given)
    path.chmod(0o666)
    assert run(capsys, **given, check=True)["changed"]
    assert path.stat().st_mode & 0o777 == 0o666
    assert run(capsys, **given)["changed"]
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_check_tells_what_would_change_before_there_is_even_a_group(
    path: Path, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    told = run(capsys, **given, group="nobody-has-it", validate="/bin/false %s", check=True)
    assert (told["changed"], told["diff"]["after"]) == (True, "one\n")
    assert not path.exists()


def test_a_refused_text_leaves_the_old_one(path: Path, given: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    run(capsys, **given, validate="grep --quiet one %s")
    parser = path.parent / "parser"
    parser.write_text('#!/bin/sh\necho "line 1: what is $(cat "$1")?" >&2\nexit 1\n')
    parser.chmod(0o755)
    refused = run(capsys, **{**given, "content": "bad"}, validate=f"{parser} %s")
    assert refused["failed"]
    assert refused["msg"] == f"{path} was left as it is: the new text is refused: line 1: what is bad?"
    assert path.read_text() == "one\n"
    assert sorted(one.name for one in path.parent.iterdir()) == ["file", "parser"], "nor the new one beside it"


def test_it_says_where_no_directory_is(path: Path, given: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    path.parent.rmdir()
    assert "deploy without --tags once" in run(capsys, **given)["msg"]
