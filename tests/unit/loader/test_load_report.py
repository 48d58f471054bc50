"""What the loader tells the controller."""

from __future__ import annotations

import os
from pathlib import Path

from skedge.core.observed import LoadReport, Origin
from skedge.dataplane.bpf import load_report


def test_the_controller_reads_what_the_loader_wrote(tmp_path: Path) -> None:
    assert load_report.read(tmp_path) == LoadReport()
    for report in (LoadReport(Origin.SHIPPED), LoadReport("cached", "no room", "a file is cut off")):
        load_report.write(report, tmp_path)
        assert load_report.read(tmp_path) == report
    (tmp_path / load_report.NAME).write_text("{")
    assert load_report.read(tmp_path) == LoadReport()
    load_report.write(report, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_root_follows_no_link_of_the_controllers_making(tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("secret")
    (tmp_path / load_report.NAME).symlink_to(tmp_path / "shadow")
    load_report.write(LoadReport("cached"), tmp_path)
    assert (tmp_path / "shadow").read_text() == "secret"
    assert not (tmp_path / load_report.NAME).is_symlink()
    assert os.stat(tmp_path / load_report.NAME).st_mode & 0o777 == 0o644
