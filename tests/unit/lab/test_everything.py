"""The closing lines of `make test`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.lab import everything, vm

REPORT = """<testsuites><testsuite>
<testcase classname="t" name="slow"/>
<testcase classname="t" name="slow"><properties><property name="tries" value="2"/></properties></testcase>
<testcase classname="t" name="good"/>
<testcase classname="t" name="bad"><failure message="no:&#10;9">first</failure></testcase>
<testcase classname="t" name="left"><skipped message="needs root"/></testcase>
</testsuite></testsuites>"""


def test_a_test_that_was_tried_again_counts_once_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(everything, "RESULTS", tmp_path)
    (tmp_path / "integration.xml").write_text(REPORT)
    outcome = everything.Outcome()
    outcome.add(everything.Stage("integration", [], junit=True), 1, 2.0)
    outcome.add(everything.Stage("demo", []), 2, 1.0, ["", "gone"])
    outcome.tell(3.0)
    lines = capsys.readouterr().out.splitlines()
    assert "TRIED AGAIN t::slow" in lines
    assert "FAILED t::bad (integration): no: 9" in lines
    assert "FAILED demo | gone" in lines
    assert "FAILED stage integration" in lines
    assert "2 failed, 2 passed, 1 skipped, 1 tried again" in lines[-1]


def test_a_stage_whose_tests_did_not_run_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everything, "RESULTS", tmp_path)
    outcome = everything.Outcome()
    outcome.add(everything.Stage("unit", [], junit=True), 0, 1.0)
    assert outcome.failed == ["unit (no test ran)"]


def test_vms_are_in_the_run_where_kvm_works_and_else_counted_as_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(everything, "RESULTS", tmp_path / "run")
    monkeypatch.setattr(everything, "run_stage", lambda stage, last: ran.append(stage.name) or int(stage.junit))
    for accelerator, arguments, runs in (("kvm", [], True), ("tcg", [], False), ("tcg", ["molecule vm"], True)):
        ran.clear()
        monkeypatch.setattr(vm, "accelerator", lambda found=accelerator: found)
        monkeypatch.setattr(sys, "argv", ["everything", *arguments])
        everything.main()
        assert ("molecule vm" in ran) == runs
        assert "molecule rolling" not in ran, "it runs when it is named"
        assert (f"SKIPPED [1] {everything.EMULATED}" in capsys.readouterr().out) != runs


@pytest.mark.parametrize(
    ("named", "compiled"), [("vm-backports", True), ("long", True), ("integration", True), ("lint", False)]
)
def test_stages_that_are_named_alone_find_what_they_load_compiled(
    named: str, compiled: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(everything, "RESULTS", tmp_path / "run")
    monkeypatch.setattr(everything, "run_stage", lambda stage, last: ran.append(stage.name) or 0)
    monkeypatch.setattr(sys, "argv", ["everything", named])
    everything.main()
    assert ran == ["bytecode", named][not compiled :]
