"""An edge host of Debian 12 is upgraded to Debian 13 in place, and serves again after its reboot without Ansible.

The packages come from where this machine's own come from. The kernel is this machine's before and after; what changes
is all the rest: Python, the C library, systemd, bcc and its compiler.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import lab as labs
from tests.lab import traffic
from tests.lab.image import copy_apt_sources
from tests.lab.play import play, write_hosts

UPGRADED, OTHER = "edge-a", "edge-b"
UPGRADE_S = 1200
UPGRADE = """
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
apt-get -q update
apt-get -qy -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-unsafe-io full-upgrade
"""
PYTHON = re.compile(r"/usr/bin/(python3\.\d+)")

pytestmark = [
    pytest.mark.long,
    pytest.mark.needs_root,
    pytest.mark.needs_bpf,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.timeout(UPGRADE_S + 600),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[labs.Lab]:
    """A site of Debian 12 and one of Debian 13, deployed, each with a workload of the service and a listener."""
    pair = labs.create(f"t-deb-{os.getpid()}", "pair", ("bookworm", "trixie"))
    inventory = tmp_path_factory.mktemp("inventory")
    both: dict[str, Any] = {
        "skedge_connectors": [{"service": "web", "host": "127.0.0.1", "port": 9090}],
        "skedge_listeners": [{"service": "web", "port": 8080}],
    }
    hosts = {UPGRADED: {"skedge_links": [{"to": OTHER, "transport": "vxlan", "cost": 1}]}, OTHER: {}}
    write_hosts(inventory, hosts, both)
    try:
        pair.up()
        for host in (UPGRADED, OTHER):
            traffic.start_server(pair, host)
        done = play(pair, inventory, "deploy.yml")
        assert done.returncode == 0, done.stdout[-6000:]
        yield pair
    finally:
        pair.down()


def upgrade(lab: labs.Lab, host: str, log: Path) -> None:
    """Upgrade a running host by its own apt, which sees this machine's network instead of the lab's."""
    machine = lab.host(host)
    shutil.rmtree(machine.root / "etc/apt/sources.list.d", ignore_errors=True)
    copy_apt_sources("trixie", machine.root)
    inside = ["nsenter", f"--target={machine.leader()}", "--mount", "--pid", "--uts", "--ipc", "--root", "--wd=/"]
    with log.open("wb") as out:
        done = subprocess.run(
            [*inside, "sh", "-ec", UPGRADE], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            timeout=UPGRADE_S, check=False,
        )  # fmt: skip
    assert done.returncode == 0, log.read_text(errors="replace")[-4000:]


def python_of(lab: labs.Lab, host: str) -> str:
    """Return which Python runs a host's controller."""
    said = lab.ssh(host, "readlink /proc/$(systemctl show -P MainPID skedge)/exe").stdout
    found = PYTHON.match(said)
    assert found is not None, said
    return found[1]


def settle(lab: labs.Lab) -> None:
    """Wait until both sites may choose both workloads."""
    deadline = time.monotonic() + 120
    while True:
        rows = [lab.ssh(host, "skedge explain web --json", check=False).stdout for host in (UPGRADED, OTHER)]
        usable = [[c["reason"] for c in json.loads(row or '{"candidates": []}')["candidates"]] for row in rows]
        if usable == [["none", "none"]] * 2:
            return
        said = lab.ssh(UPGRADED, "skedge status; journalctl -u skedge -n 30 --no-pager", check=False)
        assert time.monotonic() < deadline, f"{usable}\n{said.stdout}{said.stderr}"
        time.sleep(0.5)


def split(lab: labs.Lab, host: str) -> dict[str, int]:
    """Hold 20 connections at a host; return who serves them."""
    holder = traffic.Holder(lab, host)
    holder.start()
    try:
        answer = holder.ask("open", 20)
        assert answer["failures"] == {}
        return dict(answer["answers"])
    finally:
        holder.stop()


def test_a_host_upgraded_from_debian_12_to_13_serves_again_after_its_reboot(lab: labs.Lab, tmp_path: Path) -> None:
    settle(lab)
    assert (python_of(lab, UPGRADED), python_of(lab, OTHER)) == ("python3.11", "python3.13")
    assert split(lab, UPGRADED) == {UPGRADED: 11, OTHER: 9}
    version = lab.ssh(UPGRADED, "readlink /opt/skedge/venv").stdout

    upgrade(lab, UPGRADED, tmp_path / "upgrade.log")
    assert "VERSION_CODENAME=trixie" in lab.ssh(UPGRADED, "cat /etc/os-release").stdout
    settle(lab)
    assert split(lab, UPGRADED) == {UPGRADED: 11, OTHER: 9}, "served all the while"

    lab.restart(UPGRADED)
    traffic.start_server(lab, UPGRADED)
    settle(lab)
    assert python_of(lab, UPGRADED) == "python3.13"
    assert lab.ssh(UPGRADED, "readlink /opt/skedge/venv").stdout == version, "nobody deployed"
    for host in (UPGRADED, OTHER):
        assert split(lab, host) == {host: 11, ({UPGRADED, OTHER} - {host}).pop(): 9}
