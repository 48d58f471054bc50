"""What the loader tells the controller."""

from __future__ import annotations

import os
from pathlib import Path

from skedge.core.observed import Origin, ProgramsReport
from skedge.dataplane.bpf import programs_report


def test_the_controller_reads_what_the_loader_wrote(tmp_path: Path) -> None:
    assert programs_report.read(tmp_path) == ProgramsReport()
    for report in (ProgramsReport(Origin.SHIPPED), ProgramsReport("cached", "no room", "a file is cut off")):
        programs_report.write(report, tmp_path)
        assert programs_report.read(tmp_path) == report
    (tmp_path / programs_report.NAME).write_text("{")
    assert programs_report.read(tmp_path) == ProgramsReport()
    programs_report.write(report, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_root_follows_no_link_of_the_controllers_making(tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("secret")
    (tmp_path / programs_report.NAME).symlink_to(tmp_path / "shadow")
    programs_report.write(ProgramsReport("cached"), tmp_path)
    assert (tmp_path / "shadow").read_text() == "secret"
    assert not (tmp_path / programs_report.NAME).is_symlink()
    assert os.stat(tmp_path / programs_report.NAME).st_mode & 0o777 == 0o644
