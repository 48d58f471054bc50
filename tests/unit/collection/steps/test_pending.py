"""What a deployment that was broken off left undone is done by the next one, and nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skedge.edge.plugins.module_utils import pending

ROOT = Path(__file__).parents[4]
INSTALLED_S = 1_700_000_000  # when everything was installed
BEFORE, AFTER = INSTALLED_S * 10**6 - 1, INSTALLED_S * 10**6 + 1
SYSTEMCTL = '#!/bin/sh\necho "$@" >> "$0.log"\n'


def state(active: str, file: str, started: int, reloaded: int) -> str:
    """Return systemd's answer; times are in microseconds."""
    return f's "{active}"\ns "{file}"\nt {started}\nt {reloaded}\n'


def run(tmp_path: Path, said: str, *words: str) -> tuple[dict[str, Any], list[str]]:
    """Run the module where systemd says that; return its result, and what systemd was asked for."""
    for name in ("venv", "skedge.yaml"):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (INSTALLED_S, INSTALLED_S))
    (tmp_path / "said").write_text(said)
    for name, text in (("busctl", f"#!/bin/sh\ncat {tmp_path}/said\n"), ("systemctl", SYSTEMCTL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    given = {"code": [f"{tmp_path}/venv"], "configuration": [f"{tmp_path}/skedge.yaml", f"{tmp_path}/revoked.pem"]}
    command = [Path(sys.executable).with_name("ansible"), "-i", "localhost,", "-c", "local", "localhost", "-o", *words]
    env = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    env |= {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
    done = subprocess.run(
        [*command, "-m", "skedge.edge.controller", "-a", json.dumps(given)],
        env=env, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    log = tmp_path / "systemctl.log"
    result: dict[str, Any] = json.loads(done.stdout.partition("=> ")[2])
    return result, log.read_text().splitlines() if log.exists() else []


def test_a_controller_that_is_older_than_its_code_is_started_again(tmp_path: Path):
    result, asked = run(tmp_path, state("active", "enabled", BEFORE, AFTER))
    assert asked == ["daemon-reload", "restart skedge.service"]
    assert (result["changed"], result["done"]) == (True, ["restart"])
    assert "broken off before it restarted the controller" in result["msg"]


def test_a_check_only_says_so(tmp_path: Path):
    result, asked = run(tmp_path, state("active", "disabled", AFTER, BEFORE), "--check")
    assert (asked, result["changed"], result["done"]) == ([], True, ["reload", "enable"])


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (state("active", "enabled", AFTER, AFTER), []),
        (state("active", "enabled", BEFORE, AFTER), ["restart"]),
        (state("active", "enabled", AFTER, BEFORE), ["reload"]),
        (state("active", "enabled", BEFORE, BEFORE), ["restart"]),  # takes the configuration over, too
        (state("active", "disabled", AFTER, AFTER), ["enable"]),
        (
            state("activating", "enabled", 0, 0),
            ["start"],
        ),  # on its way, or tried again and again: that is waited for, and told
        (state("reloading", "enabled", BEFORE, BEFORE), []),
        (state("inactive", "disabled", 0, 0), ["start", "enable"]),  # the first deployment
        (state("failed", "enabled", BEFORE, BEFORE), ["start"]),
    ],
)
def test_what_is_older_than_what_is_installed_is_taken_over(said: str, wanted: list[str]):
    assert pending.actions(pending.parse(said), INSTALLED_S, INSTALLED_S) == wanted


def test_what_was_never_installed_is_newer_than_nothing():
    assert pending.actions(pending.parse(state("active", "enabled", 1, 1)), 0, 0) == []
