"""The lab's commands find the programs of their own Python environment, whatever PATH says."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig

import pytest

from tests.lab.sh import REPO, environment_first


@pytest.mark.parametrize("module", ["tests.bench.__main__", "tests.lab.__main__", "tests.lab.demo"])
def test_a_program_of_the_environment_is_found_without_it_on_path(module: str) -> None:
    code = f"import importlib, shutil; importlib.import_module('{module}'); print(shutil.which('ansible-playbook'))"
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{sysconfig.get_path('scripts')}/ansible-playbook"


def test_path_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    environment_first()
    once = os.environ["PATH"]
    environment_first()
    assert os.environ["PATH"] == once == f"{sysconfig.get_path('scripts')}:/usr/bin:/bin"


def test_the_benchmark_says_what_it_takes() -> None:
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    argv = [sys.executable, "-m", "tests.bench", "--help"]
    done = subprocess.run(argv, cwd=REPO, env=env, capture_output=True, text=True, check=True)
    assert all(option in done.stdout for option in ("--rounds", "--max-minutes", "--strict", "--against"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["--against", "/nowhere"], "no checkout"), (["--against", ".", "--only", "lan"], "no --only")],
)
def test_a_command_line_that_cannot_be_is_refused_with_a_sentence(words: list[str], sentence: str) -> None:
    argv = [sys.executable, "-m", "tests.bench", *words]
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert sentence in done.stderr
