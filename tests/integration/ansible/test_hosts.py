"""What Ansible does to real hosts when something is wrong: it says so and changes nothing, or takes it back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skedge.core.names import overlay_network
from tests.lab import lab as labs

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
ENV = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_TIMEOUT": "3"}

pytestmark = [pytest.mark.needs_root, pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")]


@pytest.fixture(scope="module")
def lab() -> Iterator[labs.Lab]:
    """A pair of hosts, gone afterwards."""
    pair = labs.create(f"t-ans-{os.getpid()}", "pair")
    try:
        pair.up()
        yield pair
    finally:
        pair.down()


@pytest.fixture
def inventory(lab: labs.Lab, tmp_path: Path) -> Path:
    """Two linked sites that offer and listen, for this lab's hosts."""
    (tmp_path / "hosts.yml").write_text(
        "skedge_edge:\n  hosts:\n"
        "    edge-a: {skedge_links: [{to: edge-b, transport: vxlan}], skedge_listeners: [{service: web, port: 8080}]}\n"
        "    edge-b: {}\n"
    )
    return tmp_path


def run(lab: labs.Lab, program: str, inventory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / program), "-i", str(inventory), "-i", str(lab.directory / "inventory"), *arguments]
    return subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, check=False)


def module(lab: labs.Lab, inventory: Path, name: str, **arguments: Any) -> dict[str, Any]:
    """Run one module on edge-a."""
    words = ("edge-a", "-o", "-m", f"skedge.edge.{name}", "-a", json.dumps(arguments))
    return json.loads(run(lab, "ansible", inventory, *words).stdout.split("=>", 1)[1])


def survey(lab: labs.Lab, inventory: Path) -> list[str]:
    """Return what edge-a has of skedge's."""
    return module(lab, inventory, "survey", snapshot=False)["ours"]


def fingerprint(lab: labs.Lab, host: str) -> str:
    """Return what a deployment changes first on a host."""
    look = (
        "getent passwd skedge; ls -A /opt /etc/sysctl.d /usr/local/bin; ip -br link;"
        "cat /proc/sys/net/ipv4/fib_multipath_hash_policy"
    )
    return lab.ssh(host, look).stdout


def test_everything_that_is_wrong_is_said_at_once_and_nothing_is_changed(lab: labs.Lab, inventory: Path):
    hosts = inventory / "hosts.yml"
    gone, taken = str(lab.plan.network[99]), str(overlay_network("skedge"))
    hosts.write_text(hosts.read_text() + f"    edge-x: {{ansible_host: {gone}, skedge_links: [{{to: edge-b}}]}}\n")
    lab.ssh("edge-a", "systemd-run -q --unit=squatter python3 -m http.server 8080")
    lab.ssh("edge-b", f"ip link add d0 type bridge; ip link set d0 up; ip route add {taken} dev d0")
    lab.ssh("edge-b", "nft 'add table ip f; add chain ip f fw { type filter hook forward priority 0; policy drop; }'")
    authority = lab.directory / "ca"  # another test may have made one
    try:
        before = [authority.exists(), *(fingerprint(lab, host) for host in ("edge-a", "edge-b"))]
        done = run(lab, "ansible-playbook", inventory, "deploy.yml")
        after = [authority.exists(), *(fingerprint(lab, host) for host in ("edge-a", "edge-b"))]
    finally:
        lab.ssh("edge-a", "systemctl stop squatter")
        lab.ssh("edge-b", "nft delete table ip f; ip link del d0")
    assert done.returncode != 0
    said = " ".join(done.stdout.split())
    for sentence in (
        "Nothing was changed on any host:",
        "edge-a: port 8080/tcp of the listener of service web is held by python3 (pid",
        f"edge-b: its route {taken} dev d0 overlaps the overlay {taken}; give skedge_overlay_cidr",
        "edge-b: nftables chain ip f fw drops forwarded traffic between links by its policy; open it: nft insert rule",
        f"edge-x: the control node cannot log in to {gone} (",
    ):
        assert sentence in said, done.stdout[-4000:]
    assert after == before
    assert "changed=0" in said


def test_an_unknown_neighbour_is_refused_without_contacting_a_host(lab: labs.Lab, inventory: Path):
    (inventory / "hosts.yml").write_text("skedge_edge: {hosts: {edge-a: {skedge_links: [{to: edge-z}]}}}\n")
    done = run(lab, "ansible-playbook", inventory, "deploy.yml", "-e", "ansible_host=203.0.113.1")
    assert done.returncode != 0
    assert "skedge_links[0].to: 'edge-z' is not a site of this inventory" in " ".join(done.stdout.split())


def hashing(lab: labs.Lab) -> str:
    look = "cat /proc/sys/net/ipv4/fib_multipath_hash_policy; ls /etc/sysctl.d/60-skedge.conf 2>&1; true"
    return lab.ssh("edge-a", look).stdout


def test_a_network_step_that_is_not_confirmed_is_taken_back_by_the_host(lab: labs.Lab, inventory: Path):
    before = hashing(lab)
    assert before.startswith("0")
    assert module(lab, inventory, "network", revert_s=10)["changed"]
    assert hashing(lab).startswith("1")
    deadline = time.monotonic() + 30
    while hashing(lab) != before and time.monotonic() < deadline:
        time.sleep(0.5)
    assert hashing(lab) == before
    refused = module(lab, inventory, "network", state="confirmed", revert_s=10)
    assert "has taken its network step back" in refused["msg"]


CUTTER = """systemd-run -q --unit=cutter sh -c '
while ! test -e /etc/sysctl.d/60-skedge.conf; do sleep 0.02; done
nft add table ip cut; nft add chain ip cut in "{ type filter hook input priority -200; }"
nft add rule ip cut in tcp dport 22 counter drop
while test -e /etc/sysctl.d/60-skedge.conf; do sleep 0.02; done
nft list table ip cut > /run/cutter; nft delete table ip cut'"""


def test_a_network_step_that_cuts_the_control_nodes_connection_is_taken_back(lab: labs.Lab, inventory: Path):
    """From the moment of the step on SSH is dead, open connections too, for as long as the step stands."""
    before = hashing(lab)
    assert before.startswith("0")
    lab.ssh("edge-a", CUTTER)
    began = time.monotonic()
    limits = "-e", "skedge_network_revert_s=15"
    done = run(
        lab, "ansible-playbook", inventory, "deploy.yml", "--limit", "edge-a", "--tags", "skedge_network", *limits
    )
    assert done.returncode != 0
    assert time.monotonic() - began < 90, "the host was given up, not waited for"
    said = " ".join(done.stdout.split())
    assert "edge-a: the control node lost the host with its network step (timed out" in said, done.stdout[-4000:]
    assert "the host takes the step back by itself within 15 s" in said
    deadline = time.monotonic() + 60
    while lab.ssh("edge-a", "true", check=False).returncode != 0:
        assert time.monotonic() < deadline
    assert " packets 0 " not in lab.ssh("edge-a", "cat /run/cutter").stdout, "nothing was cut"
    assert hashing(lab) == before
    module(lab, inventory, "network", state="confirmed")  # the next run says so, and goes on
    left = survey(lab, inventory)
    assert left == ["file /run/skedge-deploy.lease"], "of the deployment that was broken off, and nothing else"


def test_a_confirmed_network_step_stays_until_it_is_removed(lab: labs.Lab, inventory: Path):
    lab.ssh("edge-a", "echo 8080,60000-61005 > /proc/sys/net/ipv4/ip_local_reserved_ports")
    switches = "sysctl -a 2>/dev/null | grep -E 'forward|hash_policy|reserved'"
    before = lab.ssh("edge-a", switches).stdout, survey(lab, inventory)
    assert module(lab, inventory, "network", revert_s=12)["armed"]
    armed = time.monotonic()
    assert module(lab, inventory, "network", state="confirmed")["changed"]
    assert not module(lab, inventory, "network")["changed"]
    time.sleep(max(0.0, armed + 14 - time.monotonic()))
    assert hashing(lab).startswith("1")
    assert "8080,60000-65535" in lab.ssh("edge-a", "cat /proc/sys/net/ipv4/ip_local_reserved_ports").stdout
    assert module(lab, inventory, "network", state="absent")["changed"]
    assert not module(lab, inventory, "network", state="absent")["changed"]
    assert (lab.ssh("edge-a", switches).stdout, survey(lab, inventory)) == before


def test_forwarding_that_an_earlier_version_switched_on_is_taken_back(lab: labs.Lab, inventory: Path):
    switches = "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"
    look = f"sysctl -n {' '.join(switches)}"
    before = dict(zip(switches, lab.ssh("edge-a", look).stdout.split(), strict=True))
    assert set(before.values()) == {"0"}
    lines = "".join(f"{switch} = 1\\n" for switch in switches)
    lab.ssh("edge-a", f"printf '{lines}' > /etc/sysctl.d/60-skedge.conf; sysctl -qp /etc/sysctl.d/60-skedge.conf")
    lab.ssh(
        "edge-a", f"mkdir -p /var/lib/skedge-deploy; echo '{json.dumps(before)}' > /var/lib/skedge-deploy/network.json"
    )
    assert module(lab, inventory, "network", revert_s=0)["changed"]
    assert lab.ssh("edge-a", look).stdout.split() == ["0", "0"]
    assert not module(lab, inventory, "network", revert_s=0)["changed"]
    lab.ssh("edge-a", f"sysctl -qw {switches[0]}=1")  # the operator's from now on
    assert module(lab, inventory, "network", state="absent")["changed"]
    assert lab.ssh("edge-a", look).stdout.split() == ["1", "0"]
    lab.ssh("edge-a", f"sysctl -qw {switches[0]}=0")
