"""A port goes from a running HAProxy to skedge and back, under 100 connects a second each from the host and its LAN."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.lab import lab as labs
from tests.lab import traffic
from tests.lab.play import play, write_hosts

RATE = 100
STOP = "/run/lab-rate-stop"
HAPROXY = """\
global
  maxconn 2000
defaults
  mode tcp
  timeout connect 2s
  timeout client 60s
  timeout server 60s
listen web
  bind :8080
  server own 127.0.0.1:9090
"""

WEB = {"service": "web", "port": 8080, "takeover": "haproxy.service"}

pytestmark = [
    pytest.mark.long,
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.timeout(600),  # several deployments each
]


@dataclass
class Site:
    """edge-a, whose HAProxy serves port 8080, linked to edge-b; both have a workload of the service."""

    lab: labs.Lab
    inventory: Path
    found: list[dict[str, Any]] = field(default_factory=list)

    def play(self, playbook: str, listeners: list[dict[str, Any]], *words: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook with these listeners at edge-a."""
        own = {"skedge_links": [{"to": "edge-b", "transport": "vxlan"}], "skedge_listeners": listeners}
        connectors = [{"service": "web", "host": "127.0.0.1", "port": 9090}]
        hosts = {"edge-a": own, "edge-b": {}}
        write_hosts(self.inventory, hosts, {"skedge_connectors": connectors})
        return play(self.lab, self.inventory, playbook, *words)

    def be(self, state: str) -> None:
        """Bring about what a test begins with: the port is skedge's (taken), or HAProxy's (beside: with skedge)."""
        there = bool(self.lab.ssh("edge-a", "ls /etc/skedge", check=False).stdout)
        taken = self.unit() != "active enabled"
        if state == "without" and there:
            assert self.play("remove.yml", [WEB]).returncode == 0
        if state == "beside" and (taken or not there):
            assert self.play("deploy.yml", []).returncode == 0
        if state == "taken" and not taken:
            assert self.play("deploy.yml", [WEB]).returncode == 0

    def unit(self) -> str:
        """Return whether HAProxy runs, and whether it will after a reboot."""
        return " ".join(self.lab.ssh("edge-a", "systemctl is-active haproxy; systemctl is-enabled haproxy", check=False)
                        .stdout.split())  # fmt: skip

    @contextmanager
    def clients(self) -> Iterator[None]:
        """Let clients of the host and of its LAN come while the body runs; what became of them is in ``found``."""
        client = self.lab.lan("client")
        stop, out = client.root / STOP[1:], client.root / "run/lab-rate.json"
        stop.unlink(missing_ok=True)
        rate = f"/opt/lab/rate.py {{}} 8080 {RATE} {STOP}"
        unit = "--unit=lab-rate -p StandardOutput=file:/run/lab-rate.json"
        self.lab.ssh("edge-a", f"rm -f {STOP} /run/lab-rate.json; systemd-run -q {unit} {rate.format('127.0.0.1')}")
        client.start(f"{rate.format(client.gateway)} > /run/lab-rate.json")
        time.sleep(1)
        try:
            yield
            time.sleep(1)
        finally:
            stop.touch()
            self.lab.ssh("edge-a", f"touch {STOP}; while systemctl is-active -q lab-rate; do sleep 0.1; done")
        end = time.monotonic() + 10
        while not out.read_text() and time.monotonic() < end:
            time.sleep(0.1)
        texts = self.lab.ssh("edge-a", "cat /run/lab-rate.json").stdout, out.read_text()
        self.found = [json.loads(text) for text in texts]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Both hosts with their workloads, HAProxy in front of edge-a's; nothing deployed."""
    lab = labs.create(f"t-take-{os.getpid()}", "lan-pair")
    try:
        lab.up()
        for host in ("edge-a", "edge-b"):
            traffic.start_server(lab, host)
        lab.ssh("edge-a", f"cat > /etc/haproxy/haproxy.cfg <<'E'\n{HAPROXY}E\nsystemctl enable -q --now haproxy")
        yield Site(lab, tmp_path_factory.mktemp("inventory"))
    finally:
        lab.down()


def good(site: Site) -> None:
    """At most one client of each kind failed, and they came at the rate."""
    for found in site.found:
        assert len(found["failures"]) <= 1, found
        assert found["count"] > 0.6 * RATE * found["seconds"], found


def test_without_the_key_the_port_is_refused_and_its_program_named(site: Site) -> None:
    site.be("without")
    done = site.play("deploy.yml", [{"service": "web", "port": 8080}])
    assert done.returncode != 0
    said = " ".join(done.stdout.split())
    assert "edge-a: port 8080/tcp of the listener of service web is held by haproxy (pid " in said, done.stdout
    assert "or take the port over from it: takeover: haproxy.service" in said
    assert "changed=0" in said


def test_the_first_deployment_takes_the_port_over_under_load(site: Site) -> None:
    site.be("without")
    with site.clients():
        done = site.play("deploy.yml", [WEB])
    assert done.returncode == 0, done.stdout[-4000:]
    good(site)
    assert site.unit() == "inactive disabled"  # so what was answered to the end was answered by skedge


def test_a_second_run_changes_nothing(site: Site) -> None:
    site.be("taken")
    done = site.play("deploy.yml", [WEB])
    assert done.returncode == 0, done.stdout[-4000:]
    assert "changed=1" not in done.stdout
    assert site.unit() == "inactive disabled"


def test_a_listener_that_is_dropped_gives_the_port_back_under_load(site: Site) -> None:
    site.be("taken")
    with site.clients():
        done = site.play("deploy.yml", [])
    assert done.returncode == 0, done.stdout[-4000:]
    good(site)
    assert site.unit() == "active enabled"


def test_check_mode_tells_it_and_stops_nothing(site: Site) -> None:
    site.be("beside")
    done = site.play("deploy.yml", [WEB], "--check", "--diff")
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"^\+ .*takeover: haproxy.service", done.stdout, re.M), done.stdout
    assert "changed: [edge-a]" in done.stdout.split("Stop the services that served their ports")[1]
    assert site.unit() == "active enabled"


def test_a_service_without_a_workload_takes_nothing_over(site: Site) -> None:
    site.be("beside")
    with site.clients():
        done = site.play("deploy.yml", [{**WEB, "service": "nothing"}], "-e", "skedge_gate_timeout_s=5")
    assert done.returncode != 0
    assert [found["failures"] for found in site.found] == [[], []]
    said = " ".join(done.stdout.split())
    assert "no site offers or listens to service 'nothing'" in said, done.stdout
    assert "haproxy.service goes on serving, nothing was stopped" in said
    assert site.unit() == "active enabled"
    assert "8080" not in site.lab.ssh("edge-a", "cat /etc/skedge/skedge.yaml").stdout


def test_removal_gives_the_port_back_under_load(site: Site) -> None:
    site.be("taken")
    with site.clients():
        done = site.play("remove.yml", [WEB], "--limit", "edge-a")
    assert done.returncode == 0, done.stdout[-4000:]
    good(site)
    assert site.unit() == "active enabled"
