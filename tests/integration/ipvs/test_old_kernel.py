"""A kernel older than the programs ask for: the engine is ipvs, one sentence says why, and nothing is half there."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from skedge.core.errors import ExitCode
from skedge.core.model import EngineKind
from skedge.dataplane import engine_choice
from skedge.loader.host_requirements import cgroup2_root
from tests.integration.links.kit import Namespace, run
from tests.kit.bytecode import cache

LOADER = Path(sys.executable).parent / "skedge-loader"
RELEASE = tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])
LOAD_S = 380  # emulated
pytestmark = pytest.mark.skipif(
    RELEASE >= (6, 1), reason="this kernel runs the engine ebpf; make test-long has Debian's 5.10, which does not"
)


@dataclass
class Old:
    """A host's bpffs and cgroup on an old kernel."""

    ns: Namespace
    pins: Path
    cgroup: Path
    verdict: Path

    def load(self, engine: str) -> subprocess.CompletedProcess[str]:
        words = ["load", "--pin-dir", self.pins, "--cgroup", self.cgroup, "--verdict", self.verdict, "--engine", engine]
        words += ["--cache", cache()]
        enter = ["nsenter", f"--net=/run/netns/{self.ns.name}"]
        return subprocess.run(
            [*enter, LOADER, *words], capture_output=True, text=True, timeout=LOAD_S, check=False
        )  # fmt: skip


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Old]:
    bpffs, cgroup = tmp_path / "bpffs", cgroup2_root() / f"old{os.getpid()}"
    bpffs.mkdir()
    cgroup.mkdir()
    run("mount", "-t", "bpf", "oldtest", str(bpffs))
    ns = Namespace("old")
    try:
        yield Old(ns, bpffs / "skedge", cgroup, tmp_path / "engine.json")
    finally:
        ns.close()
        run("umount", "-l", str(bpffs))
        cgroup.rmdir()


@pytest.mark.timeout(3 * LOAD_S)
def test_an_old_kernel_serves_by_ipvs_and_one_sentence_says_why(old: Old) -> None:
    done = old.load("auto")
    assert done.returncode == ExitCode.OK, done.stderr[-3000:]
    (sentence,) = [line for line in done.stdout.splitlines() if line.startswith("engine ")]
    assert sentence.startswith("engine ipvs: the engine ebpf cannot serve here: "), sentence
    assert platform.release() in sentence
    assert len(sentence) < 400, "a sentence, and not the verifier's log"
    found = engine_choice.read(EngineKind.AUTO, old.pins, old.verdict)
    assert (found.engine, f"engine ipvs: {found.why}") == (EngineKind.IPVS, sentence), "what the controller says"
    assert [path.name for path in old.pins.glob("*_v*")] == [], "half of the programs are no engine"

    refused = old.load("ebpf")
    assert refused.returncode != ExitCode.OK
    said = [line for line in refused.stderr.splitlines() if line.startswith("skedge-loader: ")]
    assert len(said) == 1, refused.stderr[-2000:]
    assert platform.release() in said[0]
