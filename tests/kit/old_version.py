"""The version before a change of layout, from this repository's history: its programs, loaded by its own loader."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from skedge.dataplane.bpf.programs import Program

ROOT = Path(__file__).parents[2]
SMALL_PLACEMENTS = "db422de"  # the last one with placements_v1

_SCRIPT = """
import json, sys
from pathlib import Path
from skedge.dataplane.bpf.programs import PROGRAMS
from skedge.loader import loader
pins, cgroup, names, nat_flows = json.load(sys.stdin)
assert loader.__file__.startswith(sys.argv[1]), loader.__file__
programs = tuple(one for one in PROGRAMS if one.function in names)
options = loader.Options(Path(pins), cgroup, programs=programs, nat_flows=nat_flows)
loader.Loader(options).load()
"""


@cache
def tree(commit: str, directory: Path) -> Path:
    """Return the files of a commit, unpacked below ``directory`` unless ``.cache/before`` has them (a VM has no git).

    A clone without the commit skips the test.
    """
    kept = ROOT / ".cache/before" / commit
    if kept.is_dir():
        return kept
    git = ["git", "-C", str(ROOT)]
    known = shutil.which("git") and subprocess.run(
        [*git, "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True, check=False
    )
    if not known or known.returncode != 0:
        pytest.skip(
            f"no commit {commit} here, the version to upgrade from; where it is: mkdir -p .cache/before/{commit}; "
            f"git archive {commit} skedge | tar -x -C .cache/before/{commit}"
        )
    made = directory / commit
    made.mkdir()
    archive = subprocess.run([*git, "archive", commit, "skedge"], capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", made], input=archive.stdout, check=True)
    return made


def load(
    before: Path, pins: Path, cgroup: Path | str | None, programs: Sequence[Program], nat_flows: int = 262144
) -> None:
    """Load those of that version's programs that do the work of these, from this thread's namespace."""
    names = sorted({one.function for one in programs})
    told = json.dumps([str(pins), None if cgroup is None else str(cgroup), names, nat_flows])
    environment = {**os.environ, "PYTHONPATH": str(before)}
    command = [sys.executable, "-c", _SCRIPT, str(before)]
    done = subprocess.run(command, input=told, cwd=before, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"the version before does not load ({done.returncode}): {done.stderr[-3000:]}"
