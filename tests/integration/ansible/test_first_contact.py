"""The first contact with hosts as they are found: noexec mounts, umask 077, slow, a jump host, a sudo password."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab import lab as labs

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
ENV = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
RECORD = "/var/lib/skedge-deploy"
STEP = "etc/sysctl.d/60-skedge.conf"
FROZEN_S = 18  # longer than any single silence that a connection used to survive
PASSWORD = "a sudo password"

pytestmark = [pytest.mark.needs_root, pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")]

# As hardened images are: nothing is executed on the file systems for what passes, and logins make private files.
HARDEN = """mount -o remount,noexec /run; mount -t tmpfs -o noexec tmpfs /tmp
echo 'session optional pam_umask.so umask=0077' >> /etc/pam.d/common-session"""

PORTS = "printf 'Port 22\\nPort 2222\\n' > /etc/ssh/sshd_config.d/ports.conf; systemctl reload ssh"

LOGIN = f"""useradd -m -s /bin/bash -G sudo op; echo 'op:{PASSWORD}' | chpasswd
install -d -m 700 -o op /home/op/.ssh; install -m 600 -o op /root/.ssh/authorized_keys /home/op/.ssh/authorized_keys
{PORTS}"""

# From the moment of the step on nobody can log in, but connections that are open go on.
CUTTER = f"""rm -f /run/cutter; systemd-run -q --collect --unit=cutter sh -c '
while ! test -e /{STEP}; do sleep 0.02; done
nft add table ip cut; nft add chain ip cut in "{{ type filter hook input priority -200; }}"
nft add rule ip cut in tcp dport 22 tcp flags syn / fin,syn,rst,ack counter drop
while test -e /{STEP}; do sleep 0.02; done
nft list table ip cut > /run/cutter; nft delete table ip cut'"""


@pytest.fixture(scope="module")
def lab() -> Iterator[labs.Lab]:
    """A pair of hosts; edge-a is a hardened image."""
    pair = labs.create(f"t-first-{os.getpid()}", "pair")
    try:
        pair.up()
        pair.ssh("edge-a", HARDEN)
        pair.ssh("edge-a", LOGIN)
        pair.ssh("edge-b", PORTS)
        yield pair
    finally:
        pair.down()


@pytest.fixture
def inventory(lab: labs.Lab, tmp_path: Path) -> Iterator[Path]:
    """Two linked sites; what the test did to edge-a's network settings is taken back."""
    (tmp_path / "hosts.yml").write_text(
        "skedge_edge:\n  hosts:\n    edge-a: {skedge_links: [{to: edge-b, transport: vxlan}]}\n    edge-b: {}\n"
    )
    assert hashing(lab).startswith("0")
    yield tmp_path
    module(lab, tmp_path, "network", state="absent")
    assert lab.ssh("edge-a", f"ls -A {RECORD} 2>/dev/null; true").stdout == ""


def run(lab: labs.Lab, program: str, inventory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [BIN / program, "-i", inventory, "-i", lab.directory / "inventory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, check=False)


def step(lab: labs.Lab, inventory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the deployment up to its network step at edge-a."""
    return run(lab, "ansible-playbook", inventory, "deploy.yml", "--limit", "edge-a", "--tags", "skedge_network", *more)


def variables_of_edge_a(directory: Path, variables: dict[str, Any]) -> str:
    """Return an inventory whose variables win over the lab's, which are in ``host_vars``, too."""
    (directory / "host_vars").mkdir()
    (directory / "host_vars/edge-a.yml").write_text(yaml.safe_dump(variables))
    (directory / "hosts.yml").write_text("all: {hosts: {edge-a: }}\n")
    return str(directory)


def module(lab: labs.Lab, inventory: Path, name: str, **arguments: Any) -> dict[str, Any]:
    """Run one module on edge-a."""
    words = ("edge-a", "-m", f"skedge.edge.{name}", "-a", json.dumps(arguments))
    said = run(lab, "ansible", inventory, *words)
    return {**yaml.safe_load(said.stdout.split("=>", 1)[1]), "said": " ".join(said.stderr.split())}


def hashing(lab: labs.Lab) -> str:
    look = f"cat /proc/sys/net/ipv4/fib_multipath_hash_policy; ls /{STEP} 2>&1; true"
    return lab.ssh("edge-a", look).stdout


def test_a_step_is_taken_back_where_nothing_is_executed_on_run(lab: labs.Lab, inventory: Path):
    before = hashing(lab)
    assert module(lab, inventory, "network", revert_s=6)["armed"]
    assert hashing(lab).startswith("1")
    deadline = time.monotonic() + 30
    while hashing(lab) != before:
        assert time.monotonic() < deadline, "the host did not take its step back"
        time.sleep(0.3)
    told = module(lab, inventory, "network", state="confirmed", revert_s=6)
    assert "the host has taken its network step back, as it was not confirmed within 6 s" in told["msg"]
    assert "msg" not in module(lab, inventory, "network", state="confirmed"), "it is said once"


def test_no_undo_is_claimed_that_did_not_happen(lab: labs.Lab, inventory: Path):
    assert module(lab, inventory, "network", revert_s=600)["armed"]
    again = module(lab, inventory, "network", revert_s=600)
    assert (again["armed"], again["changed"]) == (True, False), "a run that was broken off is still to be confirmed"
    lab.ssh("edge-a", "systemctl stop skedge-network-revert.timer")  # as a boot does
    told = module(lab, inventory, "network", state="confirmed")
    assert told["changed"]
    assert "nothing was taken back, and the step is kept" in told["said"]
    assert hashing(lab).startswith("1")


def test_an_own_control_path_does_not_answer_for_a_login(lab: labs.Lab, inventory: Path):
    """The operator's ssh shares a connection that was opened before the step, and that the step does not cut."""
    before = hashing(lab)
    lab.ssh("edge-a", CUTTER)
    own = f"-o ControlMaster=auto -o ControlPersist=60s -o ControlPath={inventory}/mine"
    done = step(lab, inventory, "-e", "skedge_network_revert_s=18", "-e", json.dumps({"ansible_ssh_extra_args": own}))
    assert done.returncode != 0, done.stdout[-3000:]
    assert "edge-a: the control node lost the host with its network step" in " ".join(done.stdout.split())
    deadline = time.monotonic() + 60
    while lab.ssh("edge-a", "test -s /run/cutter", check=False).returncode != 0:
        assert time.monotonic() < deadline
    assert " packets 0 " not in lab.ssh("edge-a", "cat /run/cutter").stdout, "nothing was cut"
    assert hashing(lab) == before


def test_a_sudo_password_another_port_and_a_jump_host(lab: labs.Lab, inventory: Path, tmp_path_factory: Any):
    """edge-a's address on the segment is one that only edge-b can reach."""
    segment = next(one for one in lab.plan.segments_of("edge-a"))
    jump = " ".join(lab.ssh_argv("edge-b", "-W", "%h:%p"))
    own = {
        "ansible_host": str(lab.plan.segment_address(segment, "edge-a")),
        "skedge_underlay_address": str(lab.plan.address("edge-a")),  # as its neighbour reaches it
        "ansible_user": "op",
        "ansible_port": 2222,
        "ansible_become_password": PASSWORD,
        "ansible_ssh_extra_args": f'-o HostKeyAlias=edge-a -o ProxyCommand="{jump}"',
    }
    done = step(lab, inventory, "-i", variables_of_edge_a(tmp_path_factory.mktemp("own"), own))
    assert done.returncode == 0, done.stdout[-3000:]
    assert "WARNING" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert "TASK [skedge : Reach the host again, by a new connection]" in done.stdout
    assert hashing(lab).startswith("1")
    assert PASSWORD not in done.stdout + done.stderr


def test_a_wrong_sudo_password_is_named_with_the_host(lab: labs.Lab, inventory: Path, tmp_path_factory: Any):
    own = {"ansible_user": "op", "ansible_become_password": "wrong"}
    done = step(lab, inventory, "-i", variables_of_edge_a(tmp_path_factory.mktemp("own"), own))
    said = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert "Nothing was changed on any host: edge-a: nothing can be run as root (" in said, done.stdout[-3000:]
    assert "no reason was given" not in said
    assert "changed=0" in said


SHARED = """Host edge-b
HostName {address}
HostKeyAlias edge-b
Port 2222
User root
IdentityFile {ssh}/id_ed25519
ControlMaster auto
ControlPath {own}/%C
ControlPersist 90
Host *
UserKnownHostsFile {ssh}/known_hosts
StrictHostKeyChecking yes
"""


@contextmanager
def unreached(lab: labs.Lab, host: str) -> Iterator[None]:
    """Let nobody log in to a host anew at its second port; connections that are open go on."""
    inside = ["ip", "netns", "exec", lab.plan.namespace(host), "nft"]
    syn = "type filter hook input priority -200; tcp dport 2222 tcp flags syn / fin,syn,rst,ack drop"
    subprocess.run([*inside, f"table ip cut {{ chain in {{ {syn}; }}; }}"], check=True)
    try:
        yield
    finally:
        subprocess.run([*inside, "delete table ip cut"], check=True)


@pytest.mark.long
def test_a_connection_to_the_jump_host_that_is_shared_does_not_answer_either(
    lab: labs.Lab, inventory: Path, tmp_path_factory: Any
):
    """All tasks come by the connection to edge-b that the operator's ssh keeps open; a new one nobody gets."""
    before, own = hashing(lab), tmp_path_factory.mktemp("hop")
    segment = next(one for one in lab.plan.segments_of("edge-a"))
    config = own / "config"
    config.write_text(SHARED.format(address=lab.plan.address("edge-b"), ssh=lab.directory / "ssh", own=own))
    variables = {
        "ansible_host": str(lab.plan.segment_address(segment, "edge-a")),
        "skedge_underlay_address": str(lab.plan.address("edge-a")),
        "ansible_ssh_extra_args": f"-F {config} -o HostKeyAlias=edge-a -o ProxyJump=edge-b",
    }
    last = variables_of_edge_a(tmp_path_factory.mktemp("own"), variables)
    subprocess.run(["ssh", "-F", config, "edge-b", "true"], check=True)
    with unreached(lab, "edge-b"):
        done = step(lab, inventory, "-i", last, "-e", "skedge_network_revert_s=18")
    assert "edge-a: the control node lost the host with its network step" in " ".join(done.stdout.split()), done.stdout
    deadline = time.monotonic() + 30
    while hashing(lab) != before:
        assert time.monotonic() < deadline, "the host did not take its step back"
        time.sleep(0.3)
    done = step(lab, inventory, "-i", last)
    assert done.returncode == 0, done.stdout[-3000:]
    assert hashing(lab).startswith("1")


@contextmanager
def frozen(lab: labs.Lab, when: Path | None) -> Iterator[None]:
    """Stop all of edge-a's processes for a while: at once, or when a file is there."""
    switch = lab.host("edge-a").cgroup / "cgroup.freeze"
    over = threading.Event()

    def freeze() -> None:
        while when is not None and not when.exists() and not over.is_set():
            time.sleep(0.01)
        switch.write_text("1")
        over.wait(FROZEN_S)
        switch.write_text("0")

    thread = threading.Thread(target=freeze)
    thread.start()
    try:
        yield
        assert not thread.is_alive(), "the run was over before the host was awake again"
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("when", ["at the first contact", "at the step"])
def test_a_host_that_is_silent_for_a_while_does_not_end_the_play(lab: labs.Lab, inventory: Path, when: str):
    with frozen(lab, None if when == "at the first contact" else lab.host("edge-a").root / STEP):
        done = step(lab, inventory)
    assert done.returncode == 0, done.stdout[-3000:]
    assert hashing(lab).startswith("1")


def test_records_that_were_cut_off_are_named_and_written_anew(lab: labs.Lab, inventory: Path):
    assert module(lab, inventory, "network", revert_s=0)["changed"]
    lab.ssh("edge-a", f"for one in network takeover; do printf '{{' > {RECORD}/$one.json; done")
    done = step(lab, inventory, "--tags", "skedge_configure", "--check")
    assert "Traceback" not in done.stdout + done.stderr
    done = step(lab, inventory)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{RECORD}/network.json was cut off or is damaged; what was set before skedge is taken to be" in said
    assert "net.ipv4.fib_multipath_hash_policy = 0" in said
    told = module(lab, inventory, "takeover", state="returned", listeners=[])
    assert told["changed"]
    assert f"{RECORD}/takeover.json was cut off" in told["said"]
    assert "changed=0" in step(lab, inventory).stdout, "healed once"


def test_ipv6_that_is_off_stops_the_deployment_before_anything_changes(lab: labs.Lab, inventory: Path):
    lab.ssh(
        "edge-a",
        "echo 'net.ipv6.conf.all.disable_ipv6 = 1' > /etc/sysctl.d/99-hard.conf; sysctl -qp /etc/sysctl.d/99-hard.conf",
    )
    try:
        done = step(lab, inventory)
        before = hashing(lab)
    finally:
        lab.ssh("edge-a", "rm /etc/sysctl.d/99-hard.conf; sysctl -qw net.ipv6.conf.all.disable_ipv6=0")
    assert done.returncode != 0
    why = "edge-a: IPv6 is switched off on lo (net.ipv6.conf.all.disable_ipv6 = 1 in /etc/sysctl.d/99-hard.conf)"
    assert why in " ".join(done.stdout.split())
    assert before.startswith("0")
