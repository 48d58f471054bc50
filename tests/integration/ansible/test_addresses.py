"""The role gives addresses out once: it reads what hosts have, and writes the register when nothing is in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from skedge.core import names

ROOT = Path(__file__).parents[3]
ENV = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
EVERY_CHECK = ["addresses", "clock", "firewall", "kernel", "ports", "routes", "takeover"]


class ControlNode:
    """An inventory whose hosts are directories of this machine, and the pre-flight of the role over it."""

    def __init__(self, directory: Path, *hosts: str) -> None:
        self.directory, self.hosts = directory, hosts
        self.variables: dict[str, Any] = {"skedge_network": "demo", "skedge_preflight_skip": EVERY_CHECK}
        for host in hosts:
            (directory / host).mkdir()
        task = {"ansible.builtin.import_role": {"name": "skedge", "tasks_from": "preflight"}}
        play = {"hosts": "skedge_edge", "gather_facts": False, "tasks": [task]}
        (directory / "play.yml").write_text(yaml.safe_dump([play]))

    def has(self, host: str, **config: Any) -> None:
        """Let a host have a configuration."""
        document = {"version": 1, "network": "demo", "site": host, **config}
        (self.directory / host / "skedge.yaml").write_text(yaml.safe_dump(document))

    def look(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run pre-flight."""
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        hosts = {host: {**local, "ansible_host": f"10.0.0.{number}"} for number, host in enumerate(self.hosts, 1)}
        inventory = {"skedge_edge": {"hosts": hosts, "vars": self.variables}}
        (self.directory / "hosts.yml").write_text(yaml.safe_dump(inventory))
        where = {"__skedge_etc": f"{self.directory}/{{{{ item | default(inventory_hostname) }}}}"}
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(self.directory / "hosts.yml")]
        return subprocess.run(
            [*command, "-e", json.dumps(where), str(self.directory / "play.yml"), *words],
            cwd=ROOT, env=ENV, capture_output=True, text=True, check=False,
        )  # fmt: skip

    @property
    def register(self) -> Path:
        return self.directory / ".skedge-ca/addresses.json"

    def given(self, *words: str) -> dict[str, Any]:
        """Run pre-flight, and return the register."""
        done = self.look(*words)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        found: dict[str, Any] = json.loads(self.register.read_text())
        return found


@pytest.fixture
def node(tmp_path: Path) -> ControlNode:
    return ControlNode(tmp_path, "edge-a", "edge-b")


def test_a_new_network_is_written_down_once_and_not_in_check_mode(node: ControlNode) -> None:
    assert node.look("--check").returncode == 0
    assert not node.register.exists()
    first = node.given()
    assert first["overlay_cidr"] == str(names.overlay_network("demo"))
    assert sorted(first["sites"]) == ["edge-a", "edge-b"]
    assert "changed=0" in node.look().stdout
    assert json.loads(node.register.read_text()) == first


def test_a_deployed_network_keeps_its_addresses_also_when_the_register_is_lost(node: ControlNode) -> None:
    node.has("edge-a", overlay_address="100.64.0.9")
    node.has("edge-b", overlay_address="100.100.3.4")
    first = node.given()
    assert first["overlay_cidr"] == "100.64.0.0/10"
    assert {name: one["overlay_address"] for name, one in first["sites"].items()} == {
        "edge-a": "100.64.0.9",
        "edge-b": "100.100.3.4",
    }
    node.register.unlink()
    assert node.given("--limit", "edge-a") == first  # read from the other host all the same


def test_another_range_is_refused_before_anything_changes(node: ControlNode) -> None:
    first = node.given()
    node.variables["skedge_overlay_cidr"] = "10.50.0.0/16"
    done = node.look()
    assert done.returncode != 0
    assert "nothing was changed on any host" in done.stdout
    assert "sites are not renumbered while they serve" in done.stdout
    assert json.loads(node.register.read_text()) == first


def test_a_damaged_register_stops_the_deployment_with_the_way_out(node: ControlNode) -> None:
    node.given()
    node.register.write_text('{"version": 1, "si')
    done = node.look()
    assert done.returncode != 0
    assert "is no register of addresses" in done.stdout
    assert "restore it from backup, or remove it" in done.stdout
