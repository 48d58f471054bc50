"""The closing lines of `make test`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import everything

REPORT = """<testsuites><testsuite>
<testcase classname="t" name="slow"/>
<testcase classname="t" name="slow"><properties><property name="tries" value="2"/></properties></testcase>
<testcase classname="t" name="good"/>
<testcase classname="t" name="bad"><failure>first</failure></testcase>
<testcase classname="t" name="left"><skipped message="needs root"/></testcase>
</testsuite></testsuites>"""


def test_a_test_that_was_tried_again_counts_once_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(everything, "RESULTS", tmp_path)
    (tmp_path / "integration.xml").write_text(REPORT)
    outcome = everything.Outcome()
    outcome.add(everything.Stage("integration", [], junit=True), 1, 2.0)
    outcome.add(everything.Stage("demo", []), 0, 1.0)
    outcome.tell(3.0)
    lines = capsys.readouterr().out.splitlines()
    assert "TRIED AGAIN t::slow" in lines
    assert "FAILED stage integration" in lines
    assert "1 failed, 3 passed, 1 skipped, 1 tried again" in lines[-1]


def test_a_stage_whose_tests_did_not_run_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everything, "RESULTS", tmp_path)
    outcome = everything.Outcome()
    outcome.add(everything.Stage("unit", [], junit=True), 0, 1.0)
    assert outcome.failed == ["unit (no test ran)"]
