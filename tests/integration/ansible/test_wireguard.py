"""WireGuard links as they are deployed: keys, wireguard-go where the kernel has none, rotation, removal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import lab as labs

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
ENV = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
HOSTS = ("edge-a", "edge-b")
HOLD = "/opt/lab/hold.py"
SOCKET = "/run/lab-hold"
KEY = "/etc/skedge/identity/wireguard.key"

pytestmark = [
    pytest.mark.long,
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.timeout(900),  # several deployments
]

INVENTORY = """\
skedge_edge:
  hosts:
    edge-a:
      skedge_links: [{to: edge-b}]
      skedge_listeners: [{service: web, port: 8080}]
    edge-b:
      skedge_reachable: false
      skedge_connectors: [{service: web, host: 127.0.0.1, port: 9090}]
"""


class Network:
    """Two sites, of which edge-b calls edge-a."""

    def __init__(self, inventory: Path) -> None:
        self.inventory = inventory
        self.lab = labs.create(f"t-wg-{os.getpid()}", "pair")

    def play(self, *arguments: str, fails: bool = False) -> str:
        command = [str(BIN / "ansible-playbook"), "-i", str(self.inventory)]
        command += ["-i", str(self.lab.directory / "inventory"), *arguments]
        done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) is fails, done.stdout[-5000:]
        return done.stdout

    def ask(self, host: str, command: str) -> Any:
        return json.loads(self.lab.ssh(host, f"skedge {command} --json").stdout)

    def link(self, host: str) -> dict[str, Any]:
        (row,) = self.ask(host, "show links")["links"]
        return row

    def link_up(self, host: str) -> dict[str, Any]:
        """Return the link's row once it is up: a handshake is tried every 5 s."""
        deadline = time.monotonic() + 60
        while not (row := self.link(host))["up"] or row["state"] != "full":
            assert time.monotonic() < deadline, (row, self.ask(host, "status"))
            time.sleep(0.5)
        return row

    def key(self, host: str) -> str:
        """Return the host's public key."""
        return self.lab.ssh(host, f"wg pubkey < {KEY}").stdout.strip()

    def hold(self, command: str) -> dict[str, Any]:
        return json.loads(self.lab.ssh("edge-a", f"{HOLD} ask {SOCKET} {command}").stdout)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    inventory = tmp_path_factory.mktemp("inventory")
    (inventory / "hosts.yml").write_text(INVENTORY)
    made = Network(inventory)
    try:
        made.lab.up()
        made.lab.ssh("edge-b", "systemd-run -q --unit=web /opt/lab/server.py --name web --port 9090")
        made.play("deploy.yml", "-e", "skedge_serial=1")  # edge-a is first configured without edge-b's key
        yield made
    finally:
        made.lab.down()


def the_link_is_up_and_each_end_has_the_others_key(network: Network) -> None:
    for host, far in (HOSTS, HOSTS[::-1]):
        row = network.link_up(host)
        assert row["transport"] == "wireguard"
        assert row["keys"] == [network.key(far)]
        assert row["handshake_s"] < 180
        assert (network.lab.directory / "ca/wireguard" / f"{host}.pub").read_text().split() == [network.key(host)]
    assert network.link("edge-a")["endpoint"].startswith(f"{network.lab.plan.address('edge-b')}:")  # it has called


def private_keys_are_for_the_controller_only_and_nowhere_else(network: Network) -> None:
    for host in HOSTS:
        assert network.lab.ssh(host, f"stat -c '%a %U:%G' {KEY}").stdout.split() == ["640", "root:skedge"]
        secret = network.lab.ssh(host, f"cat {KEY}").stdout.strip()
        said = network.lab.ssh(host, "journalctl --no-pager; cat /etc/skedge/skedge.yaml; ps axww -o args").stdout
        assert secret not in said
        kept = subprocess.run(
            ["grep", "-rFl", secret, str(network.lab.directory / "ca")], capture_output=True, check=False
        )
        assert kept.returncode == 1


def a_second_run_changes_nothing(network: Network) -> None:
    recap = network.play("deploy.yml")
    assert re.findall(r"changed=(\d+)", recap.split("PLAY RECAP")[1]) in (["0", "0"], ["0", "0", "0"])


def keys_are_rotated_and_no_open_connection_is_cut(network: Network) -> None:
    lab, before = network.lab, {host: network.key(host) for host in HOSTS}
    lab.ssh("edge-a", f"systemd-run -q --unit=lab-hold {HOLD} serve {SOCKET} 127.0.0.1 8080")
    lab.ssh("edge-a", f"for i in $(seq 100); do test -S {SOCKET} && exit 0; sleep 0.05; done; exit 1")
    assert network.hold("open 20")["failures"] == {}
    refused = network.play("rotate_keys.yml", "--limit", "edge-a", fails=True)
    assert "run this without --limit" in " ".join(refused.split())
    network.play("rotate_keys.yml")
    after = {host: network.key(host) for host in HOSTS}
    assert not set(after.values()) & set(before.values())
    for host, far in (HOSTS, HOSTS[::-1]):
        assert network.link(host)["keys"] == [after[far]]
        assert lab.ssh(host, f"ls {KEY}.next", check=False).returncode != 0
    found = network.hold("check 10")
    assert (found["alive"], found["dead"]) == (20, 0), found
    assert network.hold("open 5")["failures"] == {}
    assert network.hold("close") is not None
    lab.ssh("edge-a", "systemctl stop lab-hold")


def an_interrupted_rotation_can_be_run_again(network: Network) -> None:
    """One host has changed its key when the run ends; a deployment, then another run find their way."""
    lab, before = network.lab, network.key("edge-b")
    swap = {"step": "swap"}
    for step in ({"step": "next"}, swap):
        if step is swap:
            network.play("deploy.yml")  # both keys of edge-b are known at edge-a from now on
            assert len(network.link("edge-a")["keys"]) == 2
        words = ("edge-b", "-o", "-m", "skedge.edge.wireguard_key", "-a", json.dumps(step))
        command = [str(BIN / "ansible"), "-i", str(network.inventory), "-i", str(lab.directory / "inventory"), *words]
        subprocess.run(command, cwd=ROOT, env=ENV, check=True, capture_output=True)
    lab.ssh("edge-b", "systemctl reload skedge")
    assert network.key("edge-b") != before
    for playbook in ("rotate_keys.yml", "deploy.yml"):
        network.play(playbook)
        for host, far in (HOSTS, HOSTS[::-1]):
            assert network.link_up(host)["keys"] == [network.key(far)]


def a_stopped_controller_leaves_the_tunnel(network: Network) -> None:
    lab = network.lab
    lab.ssh("edge-a", "systemctl stop skedge")
    try:
        device = network.link("edge-b")["device"]
        assert lab.ssh("edge-b", f"ip -br link show {device}").returncode == 0
        units = lab.ssh("edge-a", "systemctl list-units --plain --no-legend 'skedge-wireguard@*'").stdout
        if not has_wireguard():
            assert units.count(" running ") == 1
        assert network.link("edge-b")["up"]
    finally:
        lab.ssh("edge-a", "systemctl start skedge")


def removal_leaves_nothing(network: Network) -> None:
    network.play("remove.yml")
    for host in HOSTS:
        assert "sk-" not in network.lab.ssh(host, "ip -br link").stdout
        assert network.lab.ssh(host, "systemctl list-units --all --plain --no-legend 'skedge*'").stdout == ""
    assert list((network.lab.directory / "ca/wireguard").iterdir()) == []


def test_the_life_of_wireguard_links(network: Network) -> None:
    """One after the other, each on what those before it left."""
    for step in (
        the_link_is_up_and_each_end_has_the_others_key,
        private_keys_are_for_the_controller_only_and_nowhere_else,
        a_second_run_changes_nothing,
        keys_are_rotated_and_no_open_connection_is_cut,
        an_interrupted_rotation_can_be_run_again,
        a_stopped_controller_leaves_the_tunnel,
        removal_leaves_nothing,
    ):
        print(step.__name__)
        step(network)


def has_wireguard() -> bool:
    return Path("/sys/module/wireguard").exists()
