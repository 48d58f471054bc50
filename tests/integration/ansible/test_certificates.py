"""The life of certificates on real hosts: renewed in time, refused when revoked, another for a host's successor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab import lab as labs
from tests.lab import traffic

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
ENV = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
IDENTITY = "/etc/skedge/identity"
LEASE = "/run/skedge-deploy.lease"

pytestmark = [
    pytest.mark.long,
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.timeout(600),  # several deployments each
]

INVENTORY = """\
skedge_edge:
  hosts:
    edge-a: {skedge_listeners: [{service: web, port: 8080}]}
    edge-b: {skedge_links: [{to: edge-a}], skedge_connectors: [{service: web, host: 127.0.0.1, port: 9090}]}
"""


@dataclass(frozen=True)
class Pair:
    """edge-a, whose clients use edge-b's workload."""

    lab: labs.Lab
    inventory: Path

    def play(self, playbook: str, *words: str, elsewhere: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a playbook; ``elsewhere``: as if on another machine, which does not see this one's processes."""
        places = ["-i", str(self.inventory), "-i", str(self.lab.directory / "inventory")]
        other = ["unshare", "--pid", "--fork", "--mount-proc"] if elsewhere else []
        command = [*other, str(BIN / "ansible-playbook"), *places, playbook, *words]
        return subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, check=False)

    def deploy(self, *words: str, days: int = 1) -> None:
        """Deploy; certificates that are signed are for a day, if nothing else is said."""
        done = self.play("deploy.yml", "-e", f"skedge_certificate_days={days}", *words)
        assert done.returncode == 0, done.stdout[-4000:]

    def ask(self, host: str, command: str) -> Any:
        return json.loads(self.lab.ssh(host, f"skedge {command} --json", check=False).stdout)

    def days(self, host: str) -> float:
        return float(self.ask(host, "show site")["sites"][0]["certificate_days"])

    def linked(self) -> bool:
        """Tell whether edge-a has a stream with edge-b."""
        return [row["state"] for row in self.ask("edge-a", "show links")["links"]] == ["full"]

    def serial(self, host: str) -> str:
        """Return which certificate a host has."""
        return self.lab.ssh(host, f"sha256sum {IDENTITY}/site.crt").stdout

    def incarnation(self, host: str) -> int:
        """Return which life of its controller a host is in."""
        return int(self.lab.ssh(host, "systemctl show -P MainPID skedge").stdout)


def wait(true: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.3)
    return True


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both sites deployed; each test leaves them in sync."""
    lab = labs.create(f"t-cert-{os.getpid()}", "pair")
    inventory = tmp_path_factory.mktemp("inventory")
    (inventory / "hosts.yml").write_text(INVENTORY)
    made = Pair(lab, inventory)
    try:
        lab.up()
        traffic.start_server(lab, "edge-b")
        made.deploy()
        yield made
    finally:
        lab.down()


def test_a_certificate_that_ends_soon_warns_and_is_renewed_without_a_cut(pair: Pair) -> None:
    assert 0.8 < pair.days("edge-b") <= 1
    assert "; run the deploy playbook" in pair.lab.ssh("edge-b", "skedge show site").stdout
    problems = pair.ask("edge-b", "status")["problems"]
    assert [(p["severity"], p["cause"]) for p in problems if p["what"] == "certificate"] == [
        ("warning", "1 days left; run the deploy playbook")
    ]
    short, life, holder = pair.serial("edge-b"), pair.incarnation("edge-b"), traffic.Holder(pair.lab, "edge-a")
    holder.start()
    try:
        assert holder.ask("open", 10)["answers"] == {"edge-b": 10}
        pair.deploy(days=365)
        assert wait(lambda: 360 < pair.days("edge-b") <= 365)
        assert wait(pair.linked)
        assert holder.ask("check")["alive"] == 10
    finally:
        holder.stop()
    assert pair.serial("edge-b") != short
    assert pair.incarnation("edge-b") == life, "a reload was enough"
    assert "days left" not in pair.lab.ssh("edge-b", "skedge status", check=False).stdout
    renewed = pair.serial("edge-b")
    pair.deploy(days=365)
    assert pair.serial("edge-b") == renewed, "not again before a third is left"


def test_a_second_control_node_changes_nothing_until_it_has_the_authority(pair: Pair, tmp_path: Path) -> None:
    pair.deploy(days=365)  # so that none is due
    assert wait(pair.linked)
    certificate, life = pair.serial("edge-b"), pair.incarnation("edge-b")
    done = pair.play("deploy.yml", "--limit", "edge-b", "-e", f"skedge_ca_dir={tmp_path / 'empty'}")
    assert done.returncode != 0
    assert "Nothing was changed on any host" in done.stdout
    assert "edge-b trusts the authority of network" in done.stdout
    assert (pair.serial("edge-b"), pair.incarnation("edge-b")) == (certificate, life)
    shutil.copytree(pair.lab.directory / "ca", tmp_path / "moved")
    pair.deploy("--limit", "edge-b", "-e", f"skedge_ca_dir={tmp_path / 'moved'}", days=365)
    assert pair.serial("edge-b") == certificate
    assert pair.linked()


def test_another_control_node_deploys_soon_after_a_run_that_failed(pair: Pair, tmp_path: Path) -> None:
    """The mark of a run that is no more is free at once where that can be known, elsewhere after a while."""
    pair.deploy(days=365)
    broken = "rm -f /opt/skedge/venv/bin/skedge.away; mv /opt/skedge/venv/bin/skedge /opt/skedge/venv/bin/skedge.away"
    pair.lab.ssh("edge-b", broken)
    try:
        assert pair.play("deploy.yml", "--tags", "skedge_gate").returncode != 0
    finally:
        pair.lab.ssh("edge-b", "mv /opt/skedge/venv/bin/skedge.away /opt/skedge/venv/bin/skedge")
    assert json.loads(pair.lab.ssh("edge-b", f"cat {LEASE}").stdout)["who"]
    for playbook in ("deploy.yml", "remove.yml"):
        done = pair.play(playbook, "-e", f"skedge_ca_dir={tmp_path / 'other'}", elsewhere=True)
        assert done.returncode != 0
        assert "another deployment" in done.stdout
        assert "-e skedge_seize_lease=true" in done.stdout
    left = float(pair.lab.ssh("edge-b", f"jq .until {LEASE}").stdout) - float(
        pair.lab.ssh("edge-b", "cut -d' ' -f1 /proc/uptime").stdout
    )
    assert left < 180 + 150, "a lease, and the gate that it waited at"
    pair.deploy(days=365)
    assert "No such file" in pair.lab.ssh("edge-b", f"ls {LEASE} 2>&1", check=False).stdout


def test_a_host_that_was_revoked_unreached_is_refused_by_the_others(pair: Pair) -> None:
    """The control node cannot log in to edge-b, whose controller runs on; its stream is of the certificate before."""
    assert wait(pair.linked)
    pair.deploy("--limit", "edge-b", "--tags", "skedge_identity", days=2000)
    assert wait(lambda: pair.days("edge-b") > 1900)
    assert pair.linked()
    pair.lab.ssh("edge-b", "nft 'add table ip t; add chain ip t i { type filter hook input priority 0; }; "
                 f"add rule ip t i ip saddr {pair.lab.plan.control} tcp dport 22 drop'", check=False)  # fmt: skip
    try:
        done = pair.play("remove.yml", "--limit", "edge-b")
        assert done.returncode != 0
        assert "UNREACHABLE" in done.stdout
        pair.deploy("--limit", "edge-a", "--tags", "skedge_identity")
        assert wait(lambda: not pair.linked())
        assert wait(lambda: "revoked" in pair.lab.ssh("edge-a", "skedge status", check=False).stdout)
        assert wait(lambda: not pair.ask("edge-a", "explain web")["winner"]), "what it offers counts no more"
    finally:
        namespace = pair.lab.plan.namespace("edge-b")
        subprocess.run(["ip", "netns", "exec", namespace, "nft", "delete", "table", "ip", "t"], check=True)
    pair.deploy()
    assert wait(pair.linked)
    assert wait(lambda: bool(pair.ask("edge-a", "explain web")["winner"]))


def test_a_dead_host_is_replaced_under_its_name_and_refused_when_it_comes_back(pair: Pair) -> None:
    old = pair.lab.ssh("edge-b", f"tar -C {IDENTITY} -cf - . | base64 -w0").stdout
    host = pair.lab.host("edge-b")
    host.remove()
    pair.lab.up()  # another machine of the same name: nothing of the old one's disk is there
    traffic.start_server(pair.lab, "edge-b")
    assert not pair.lab.ssh("edge-b", f"ls {IDENTITY}", check=False).stdout
    pair.deploy()
    assert wait(pair.linked)
    assert wait(lambda: bool(pair.ask("edge-a", "explain web")["winner"]))
    assert pair.lab.ssh("edge-a", "curl -s http://127.0.0.1:8080/").stdout == "edge-b\n"
    new = pair.lab.ssh("edge-b", f"tar -C {IDENTITY} -cf - . | base64 -w0").stdout
    put = f"echo {{}} | base64 -d | tar -C {IDENTITY} -xf - && systemctl restart skedge"
    pair.lab.ssh("edge-b", put.format(old))
    try:
        assert wait(lambda: not pair.linked())
        assert wait(lambda: "revoked" in pair.lab.ssh("edge-a", "skedge status", check=False).stdout)
    finally:
        pair.lab.ssh("edge-b", put.format(new))
    assert wait(pair.linked)
