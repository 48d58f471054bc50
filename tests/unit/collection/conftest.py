from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a small project: what its wheel is made of."""
    root = tmp_path / "project"
    (root / "skedge/bpf").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "skedge"\ndependencies = ["click>=8", "sdnotify>=0.3"]\n')
    (root / "README.md").write_text("x")
    (root / "skedge/a.py").write_text("A = 1\n")
    (root / "skedge/bpf/b.h").write_text("/* b */\n")
    return root
