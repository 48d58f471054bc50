"""How long a silent host is waited for: with the project's ansible.cfg, and with none."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
PLAY = [{"hosts": "all", "gather_facts": False, "roles": ["asking"]}]
FAKE_SSH = """#!/bin/sh
printf '%s ' "$@" >> "$0.log"; echo >> "$0.log"
exit 255
"""


def logins(tmp_path: Path, *more: str, variables: str = "{}", config: str = "") -> tuple[int, int]:
    """Return how often ssh is started for one task that gets no answer, and the seconds that each may take."""
    (tmp_path / "play.yml").write_text(yaml.safe_dump(PLAY))
    role = tmp_path / "roles/asking"  # with the variables that the role skedge has
    for part, text in (("vars", (ROOT / "roles/skedge/vars/main.yml").read_text()), ("tasks", "- ping:\n")):
        (role / part).mkdir(parents=True)
        (role / part / "main.yml").write_text(text)
    (tmp_path / "hosts.yml").write_text(f"all: {{hosts: {{far: {variables}}}}}\n")
    (tmp_path / "ssh").write_text(FAKE_SSH)
    (tmp_path / "ssh").chmod(0o755)
    (tmp_path / "ansible.cfg").write_text(config)
    env = {"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    env |= {"ANSIBLE_SSH_EXECUTABLE": str(tmp_path / "ssh"), "PYTHONPATH": str(ROOT)}
    env["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / "collections")
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", tmp_path / "hosts.yml", tmp_path / "play.yml"]
    subprocess.run([*command, *more], cwd=tmp_path, env=env, capture_output=True, check=False)
    tries = [line for line in (tmp_path / "ssh.log").read_text().splitlines() if "-O check" not in line]
    (seconds,) = {int(found) for line in tries for found in re.findall(r"ConnectTimeout=(\d+)", line)}
    return len(tries), seconds


def test_a_silent_host_is_tried_again_whatever_ansible_cfg_is_in_use(tmp_path: Path):
    assert logins(tmp_path) == (3, 30)


@pytest.mark.parametrize(
    ("variables", "config", "more"),
    [
        ("{ansible_ssh_timeout: 4, ansible_ssh_retries: 0}", "[defaults]\ntimeout = 5\n", ()),
        ("{ansible_ssh_retries: 0}", "[defaults]\ntimeout = 4\n", ()),
        ("{ansible_ssh_retries: 0}", "", ("--timeout", "4")),
        ("{}", "", ("-e", "ansible_ssh_timeout=4", "-e", "ansible_ssh_retries=0")),
    ],
)
def test_what_the_operator_says_holds(tmp_path: Path, variables: str, config: str, more: tuple[str, ...]):
    assert logins(tmp_path, *more, variables=variables, config=config) == (1, 4)


def test_the_projects_own_configuration_says_the_same(tmp_path: Path):
    assert logins(tmp_path, config=(ROOT / "ansible.cfg").read_text()) == (3, 30)
