"""Rules that hold for the whole of `skedge/`: layers, sizes, where bcc may be."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "skedge"
SOURCES = sorted(path for pattern in ("*.py", "*.c", "*.h") for path in PACKAGE.rglob(pattern))
LINES_MAX = 500


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_too_long_to_read(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= LINES_MAX, f"{path.relative_to(ROOT)} has {lines} lines; split it"


def imports(path: Path) -> Iterator[str]:
    """Yield the name of every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_bcc_is_in_the_loader_only() -> None:
    users = {p for p in SOURCES if p.suffix == ".py" and any(m.split(".")[0] == "bcc" for m in imports(p))}
    assert {str(path.relative_to(PACKAGE)) for path in users} <= {"loader/compiling/bcc_compiler.py"}


# ---- layers ----------------------------------------------------------------------------------------------------

VIOLATIONS = [
    ("core/model.py", "import msgspec", "core imports only the standard library"),
    ("core/model.py", "import skedge.config.schema", "core imports only the standard library"),
    ("config/schema.py", "import skedge.control", "config, control and dataplane never import each other"),
    ("control/__init__.py", "import skedge.dataplane", "config, control and dataplane never import each other"),
    ("dataplane/__init__.py", "import skedge.daemon", "config, control and dataplane never import each other"),
    ("daemon/__init__.py", "import skedge.cli", "config, control and dataplane never import each other"),
    ("cli/format.py", "def f() -> None:\n    import skedge.dataplane", "the CLI talks to the API socket"),
    ("cli/format.py", "import skedge.daemon", "the CLI talks to the API socket"),
    ("control/__init__.py", "import pyroute2", "pyroute2 only in dataplane and loader"),
    ("daemon/__init__.py", "import bcc", "bcc only in loader"),
    ("dataplane/bpf/tc.py", "import bcc", "bcc only in loader"),
    ("core/model.py", "import skedge.core.objects", "no circle of imports"),
    ("dataplane/ipvs/drivers.py", "import skedge.dataplane.ipvs.engine", "no circle of imports"),
    ("daemon/control_plane.py", "import skedge.daemon.controller", "inside the daemon"),
    ("daemon/loop/life.py", "import skedge.daemon.state", "inside the daemon"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the package and its contracts that a test may break."""
    copy = tmp_path_factory.mktemp("layers")
    shutil.copytree(PACKAGE, copy / "skedge", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "200", "NO_COLOR": "1"}
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


def test_the_layers_hold(tree: Path) -> None:
    done = lint_imports(tree)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


@pytest.mark.parametrize(("file", "line", "contract"), VIOLATIONS, ids=[f"{f}: {line}" for f, line, _ in VIOLATIONS])
def test_each_contract_can_fail(tree: Path, file: str, line: str, contract: str) -> None:
    path = tree / "skedge" / file
    before = path.read_text()
    path.write_text(f"{before}\n{line}\n")
    try:
        done = lint_imports(tree)
    finally:
        path.write_text(before)
    assert done.returncode == 1, done.stderr
    broken = [text for text in done.stdout.splitlines() if text.endswith(" BROKEN")]
    assert any(text.startswith(contract) for text in broken), done.stdout[-2000:]
