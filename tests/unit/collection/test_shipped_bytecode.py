"""Bytecode that the control node makes for its hosts, or why it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.skedge.edge.plugins.plugin_utils import bundle, bytecode

ROOT = Path(__file__).parents[3]
TARGET = bundle.Target("3.11", "x86_64", "2.36")
LOADED = """
import sys
from skedge.loader import loader
from skedge.loader.compiling import bcc_compiler
from importlib.metadata import packages_distributions
ours = packages_distributions()
print(*sorted({name for name in sys.modules if name in ours and name not in sys.stdlib_module_names}))
"""


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A control node that can compile: root, x86_64, Python 3.11 with bcc, headers."""
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho 0.26.0 3.11\n")
    python.chmod(0o755)
    monkeypatch.setattr(bytecode, "PYTHON", str(python))
    monkeypatch.setattr(bytecode, "_HEADERS", (str(tmp_path),))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return monkeypatch


def test_the_control_node_compiles_where_it_can(control: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert bytecode.compiler("3.11", "x86_64") == "bcc 0.26.0"
    assert bytecode.compiler("3.13", "x86_64") == ""
    assert bytecode.compiler("3.11", "aarch64") == ""
    for name, value in (("os.geteuid", lambda: 1000), ("platform.machine", lambda: "aarch64")):
        with control.context() as patch:
            patch.setattr(name, value)
            assert bytecode.compiler("3.11", "x86_64") == ""
    for name, value in (("PYTHON", "false"), ("PYTHON", "/nonexistent"), ("_HEADERS", (str(tmp_path / "none"),))):
        with control.context() as patch:
            patch.setattr(bytecode, name, value)
            assert bytecode.compiler("3.11", "x86_64") == ""


def test_with_bytecode_it_is_another_bundle() -> None:
    names = [bundle.digest(ROOT, TARGET, compiler) for compiler in ("", "bcc 0.26.0", "bcc 0.30.0")]
    assert len(set(names)) == 3
    assert names[0] == bundle.digest(ROOT, TARGET)


def test_what_does_not_compile_is_said_in_one_sentence(control: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho warning >&2\necho 'skedge-loader: nat.c: does not compile: no' >&2\nexit 1\n")
    with pytest.raises(bytecode.BytecodeError, match=r"\(skedge-loader: nat\.c: does not compile: no\); each host"):
        bytecode.build(tmp_path, tmp_path / "site", tmp_path / "cache")


def test_the_loader_needs_nothing_else() -> None:
    """The control node's Python has no more than this when it compiles."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - {"typing_extensions", "skedge", "_distutils_hack"} == {bytecode.NEEDS}
