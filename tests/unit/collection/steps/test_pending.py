"""What a deployment that was broken off left undone is done by the next one, and nothing else is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
HANDLERS = ("Restart skedge", "Reload skedge")
INSTALLED_S = 1_700_000_000  # when everything was installed
BEFORE, AFTER = INSTALLED_S * 10**6 - 1, INSTALLED_S * 10**6 + 1


def undone(tmp_path: Path, state: str, started: int, reloaded: int) -> list[str]:
    """Return the handlers that run; ``started`` and ``reloaded`` are what systemd says, in microseconds."""
    for name in ("venv", "skedge.yaml", "identity/site.crt", "identity/ca.crt"):  # nothing was revoked yet
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (INSTALLED_S, INSTALLED_S))
    busctl = tmp_path / "busctl"
    busctl.write_text(f"#!/bin/sh\nprintf 's \"{state}\"\\nt {started}\\nt {reloaded}\\n'\n")
    busctl.chmod(0o755)
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"__skedge_venv": str(tmp_path / "venv"), "__skedge_etc": str(tmp_path)},
        "tasks": [{"ansible.builtin.import_tasks": str(ROOT / "roles/skedge/tasks/pending.yml")}],
        "handlers": [{"name": name, "ansible.builtin.debug": {}} for name in HANDLERS],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", tmp_path / "play.yml"]
    env = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    env |= {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"RUNNING HANDLER \[(.*)\]", done.stdout)


@pytest.mark.parametrize(
    ("state", "started", "reloaded", "handlers"),
    [
        ("active", AFTER, AFTER, []),
        ("active", BEFORE, AFTER, ["Restart skedge"]),
        ("active", AFTER, BEFORE, ["Reload skedge"]),
        ("inactive", 0, 0, []),  # the first deployment, or what starts it comes next
    ],
)
def test_what_is_older_than_what_is_installed_is_taken_over(
    tmp_path: Path, state: str, started: int, reloaded: int, handlers: list[str]
):
    assert undone(tmp_path, state, started, reloaded) == handlers
