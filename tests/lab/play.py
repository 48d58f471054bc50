"""Playbooks of this checkout, run against a lab as an operator runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.lab.lab import Lab
from tests.lab.sh import REPO


def write_hosts(inventory: Path, hosts: Mapping[str, Any], everywhere: Mapping[str, Any]) -> None:
    """Write the edge hosts with their variables, and those of all, as the inventory in this directory."""
    inventory.mkdir(parents=True, exist_ok=True)
    group = {"skedge_edge": {"hosts": dict(hosts), "vars": dict(everywhere)}}
    (inventory / "hosts.yml").write_text(yaml.safe_dump(group))


def play(lab: Lab, inventory: Path, playbook: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook with this inventory before the lab's own; return what Ansible said, whatever it was."""
    places = ["-i", str(inventory), "-i", str(lab.directory / "inventory")]
    command = [str(Path(sys.executable).parent / "ansible-playbook"), *places, playbook, *words]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(
        command, cwd=REPO, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
