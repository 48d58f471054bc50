"""A host loads what a release has, in a process that cannot import bcc."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.skedge.edge.plugins.plugin_utils import release_file

from skedge.dataplane.bpf.programs import PROGRAMS
from tests.lab.sh import CACHE, REPO

from ..kit import Host

RUN = "import sys; sys.modules['bcc'] = None; from skedge.loader.loader import main; sys.exit(main())"


def load(host: Host, bytecode: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    (tmp_path / "bcc.py").write_text("raise ImportError('there is no bcc here')\n")  # for the compiler's process
    arguments = ["load", "--pin-dir", str(host.pins), "--cgroup", str(host.cgroup), "--bytecode", str(bytecode)]
    arguments += ["--cache", str(tmp_path / "cache"), "--verdict", str(tmp_path / "engine")]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPO}"}
    with host.inside():
        return subprocess.run(
            [sys.executable, "-c", RUN, *arguments], env=environment, capture_output=True, text=True, check=False
        )


@pytest.mark.slow_in_vm
def test_a_host_without_bcc_loads_a_release(tmp_path: Path) -> None:
    for name in ("host", "files"):
        (tmp_path / name).mkdir()
    release_file.make(REPO, tmp_path / "release.tar", CACHE / "bundles/bytecode")  # where deployments have it
    _, code = release_file.read(tmp_path / "release.tar")
    shipped = tmp_path / "files" / "shipped.bytecode"
    host = Host("release", tmp_path / "host")
    try:
        lacking = load(host, shipped, tmp_path / "files")
        assert lacking.returncode != 0, "it compiled, so this proves nothing"
        assert "bcc is missing" in lacking.stderr
        shipped.write_bytes(code)
        done = load(host, shipped, tmp_path / "files")
        assert (done.returncode, done.stdout) == (0, "load: changed\n"), done.stderr
        assert {one.pin for one in PROGRAMS} <= {pin.name for pin in host.pins.iterdir()}
        assert not (tmp_path / "files" / "cache").exists()
    finally:
        host.close()
