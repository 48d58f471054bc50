"""Three running sites get another version, one host at a time, and none of their clients notices.

The version before is a commit of this repository (``SKEDGE_UPGRADE_FROM``, else ``BEFORE``), deployed with its own
playbooks; the version after is the working tree.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab import lab as labs
from tests.lab import traffic

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
BEFORE = os.environ.get("SKEDGE_UPGRADE_FROM", "7b0c905")  # flat modules, before rooms by subject
HOSTS = ("edge-a", "edge-b", "edge-c")
CLIENTS = ("edge-a", "edge-b")  # the first to be upgraded, and the one that others are reached through
RATE, HELD = 100, 100  # a host of clients: connections a second, and held ones
STOP, RESULT = "/run/lab-rate-stop", "/run/lab-rate.json"
VERSION = re.compile(r"/opt/skedge/versions/([0-9a-f]+)/")

pytestmark = [
    pytest.mark.long,
    pytest.mark.needs_root,
    pytest.mark.needs_bpf,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.timeout(1500),  # three deployments on three hosts
]


@dataclass
class Network:
    """Three sites in a triangle, a workload of the service and a listener for it at each."""

    lab: labs.Lab
    inventory: Path
    told: dict[str, float] = field(default_factory=dict)  # step -> seconds that it took

    def write(self) -> None:
        """Write the inventory: each segment of the lab is a link."""
        links: dict[str, list[dict[str, Any]]] = {host: [] for host in HOSTS}
        for one in self.lab.plan.topology.segments:
            links[one.a].append({"to": one.b, "cost": 1, "transport": "vxlan"})  # near enough to be used
        everywhere = {
            "skedge_connectors": [{"service": "web", "host": "127.0.0.1", "port": 9090}],
            "skedge_listeners": [{"service": "web", "port": 8080}],
        }
        hosts = {host: {"skedge_links": links[host]} for host in HOSTS}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump({"skedge_edge": {"hosts": hosts, "vars": everywhere}}))

    def deploy(self, tree: Path, what: str) -> str:
        """Deploy a version, one host at a time; return what Ansible said."""
        places = ["-i", str(self.inventory), "-i", str(self.lab.directory / "inventory")]
        more = ["-e", "skedge_serial=1", "-e", f"skedge_bundle_dir={ROOT}/.cache/bundles"]
        own = {"ANSIBLE_CONFIG": str(tree / "ansible.cfg"), "PYTHONPATH": str(tree)}  # not the venv's own skedge
        environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", **own}
        began = time.monotonic()
        command = [str(BIN / "ansible-playbook"), *places, "deploy.yml", *more]
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
        self.told[what] = round(time.monotonic() - began, 1)
        assert done.returncode == 0, f"{what}: {done.stdout[-6000:]}"
        return done.stdout

    def ask(self, host: str, command: str) -> Any:
        return json.loads(self.lab.ssh(host, f"skedge {command} --json").stdout)

    def settle(self) -> None:
        """Wait until every site may choose all three workloads."""
        deadline = time.monotonic() + 90
        while [self.usable(host) for host in HOSTS] != [3, 3, 3]:
            assert time.monotonic() < deadline, [self.ask(host, "status") for host in HOSTS]
            time.sleep(0.5)

    def usable(self, host: str) -> int:
        return [row["reason"] for row in self.ask(host, "explain web")["candidates"]].count("none")

    def versions(self) -> dict[str, str]:
        """Return the version that each host's running controller has its code from."""
        found = {}
        for host in HOSTS:
            maps = self.lab.ssh(host, "cat /proc/$(systemctl show -P MainPID skedge)/maps").stdout
            (found[host],) = set(VERSION.findall(maps))
        return found

    # ---- clients ---------------------------------------------------------------------------------------------

    def start_rate(self, host: str) -> None:
        """Let clients come at a host, `RATE` a second."""
        unit = f"--unit=lab-rate -p StandardOutput=file:{RESULT}"
        clients = f"/usr/bin/python3 /opt/lab/rate.py 127.0.0.1 8080 {RATE} {STOP}"
        self.lab.ssh(host, f"rm -f {STOP} {RESULT}; systemd-run -q {unit} {clients}")

    def stop_rate(self, host: str) -> dict[str, Any]:
        """Wait for the last client; return what became of all."""
        self.lab.ssh(host, f"touch {STOP}; while systemctl is-active -q lab-rate; do sleep 0.1; done")
        return json.loads(self.lab.ssh(host, f"cat {RESULT}").stdout)

    def journal(self) -> str:
        """Return what the controllers said of trouble."""
        look = "journalctl -u skedge -p warning -o short-iso-precise --no-pager | tail -30"
        return "\n".join(f"--- {host}\n{self.lab.ssh(host, look, check=False).stdout}" for host in HOSTS)


@pytest.fixture(scope="module")
def old_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version before, as files."""
    git = ["git", "-C", str(ROOT)]
    there = subprocess.run([*git, "cat-file", "-e", f"{BEFORE}^{{commit}}"], capture_output=True, check=False)
    if there.returncode != 0:
        pytest.skip(f"this clone has no commit {BEFORE}, the version to upgrade from")
    tree = tmp_path_factory.mktemp("before")
    archive = tree.with_suffix(".tar")
    subprocess.run([*git, "archive", "--output", archive, BEFORE], check=True)
    subprocess.run(["tar", "-xf", archive, "-C", tree], check=True)
    return tree


@pytest.fixture(scope="module")
def network(old_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """The sites with the version before."""
    lab = labs.create(f"t-up-{os.getpid()}", "triangle")
    made = Network(lab, tmp_path_factory.mktemp("inventory"))
    try:
        lab.up()
        for host in HOSTS:
            traffic.start_server(lab, host)
        made.write()
        made.deploy(old_tree, "deploy the version before")
        made.settle()
        yield made
    finally:
        lab.down()


def test_an_upgrade_of_one_host_after_another_loses_and_refuses_nothing(network: Network) -> None:
    before = network.versions()
    holders = [traffic.Holder(network.lab, host) for host in CLIENTS]
    for holder in holders:
        holder.start()
        assert not holder.ask("open", HELD)["failures"]
        network.start_rate(holder.host)
    began = time.time()
    try:
        network.deploy(ROOT, "upgrade")
        time.sleep(2)
    finally:
        came = [network.stop_rate(host) for host in CLIENTS]
    held = [holder.ask("check") for holder in holders]
    failures = [one.pop("failures") for one in came]
    print(network.told, f"upgrade began at {began:.0f}", *came, *held, sep="\n")
    few = [(len(some), some[:5], some[-5:]) for some in failures]
    report = f"{few}\n{came} {held}\n{network.journal()}"
    assert not any(failures), report
    assert [(one["alive"], one["dead"]) for one in held] == [(HELD, 0), (HELD, 0)], report
    for one in came:
        assert one["count"] > 0.6 * RATE * one["seconds"], report
    used = set().union(*(one["answers"] for one in came), *(one["alive_by_name"] for one in held))
    assert used == set(HOSTS), "no workload was left out"
    after = network.versions()
    assert len({*after.values()}) == 1
    assert {*after.values()}.isdisjoint(before.values()), "the controllers run the version after"
    for holder in holders:
        holder.stop()


def test_after_it_a_second_run_changes_nothing(network: Network) -> None:
    said = network.deploy(ROOT, "second run")
    counts = re.findall(r"^(edge-\w) .*changed=(\d+)", said, re.M)
    assert dict(counts) == dict.fromkeys(HOSTS, "0"), said[-6000:]
