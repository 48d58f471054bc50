"""Agents that skedge finds on a host: a keepalived that watches what yields its port, units that systemd keeps from the
overlay. Pre-flight names them, what it says would happen does, and the ways out that it names work.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab import lab as labs
from tests.lab import traffic
from tests.lab.play import play, write_hosts

SETTLED_S = 30
HAPROXY = """\
defaults
  mode tcp
  timeout connect 2s
  timeout client 60s
  timeout server 60s
listen web
  bind :8080
  server own 127.0.0.1:9090
"""
KEEPALIVED = """\
global_defs {{
  script_user root
}}
vrrp_script web {{
  script "{script}"
  interval 1
  timeout 5
  fall 2
  rise 1
}}
vrrp_instance front {{
  interface host0
  state BACKUP
  virtual_router_id 51
  priority {priority}
  advert_int 1
  unicast_src_ip {own}
  unicast_peer {{
    {other}
  }}
  virtual_ipaddress {{
    {virtual}/32 dev host0
  }}
  track_script {{
    web
  }}
}}
"""
BY_PROCESS = "/usr/bin/pgrep -x haproxy"
BY_PORT = "/usr/bin/nc -z -w 2 127.0.0.1 8080"
WEB = {"service": "web", "port": 8080, "takeover": "haproxy.service"}

pytestmark = [
    pytest.mark.long,
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.timeout(900),  # several deployments each
]


@dataclass
class Network:
    """edge-a, linked to edge-b at cost 10; both have a workload of the service."""

    lab: labs.Lab
    inventory: Path

    def play(self, listeners: list[dict[str, Any]], *words: str) -> subprocess.CompletedProcess[str]:
        """Deploy with these listeners at edge-a."""
        links = [{"to": "edge-b", "transport": "vxlan", "cost": 10}]
        hosts = {"edge-a": {"skedge_links": links, "skedge_listeners": listeners}, "edge-b": {}}
        connectors = [{"service": "web", "host": "127.0.0.1", "port": 9090}]
        write_hosts(self.inventory, hosts, {"skedge_connectors": connectors})
        return play(self.lab, self.inventory, "deploy.yml", *words)

    @property
    def virtual(self) -> str:
        """The virtual address, of the hosts' own network."""
        return str(self.lab.plan.network[100])

    def keepalived(self, host: str, script: str) -> None:
        """Let keepalived at a host watch with this script."""
        other = "edge-b" if host == "edge-a" else "edge-a"
        own, peer = (str(self.lab.plan.address(one)) for one in (host, other))
        priority = 150 if host == "edge-a" else 100
        text = KEEPALIVED.format(script=script, own=own, other=peer, virtual=self.virtual, priority=priority)
        self.lab.ssh(host, f"cat > /etc/keepalived/keepalived.conf <<'E'\n{text}E\nsystemctl restart keepalived")

    def holders(self) -> list[str]:
        """Return the hosts that have the virtual address."""
        look = f"ip -br address show to {self.virtual}"
        return [host for host in ("edge-a", "edge-b") if self.lab.ssh(host, look).stdout.strip()]

    def held_by(self, host: str) -> None:
        """Wait until it is this host's alone."""
        until = time.monotonic() + SETTLED_S
        while self.holders() != [host]:
            assert time.monotonic() < until, self.lab.ssh("edge-a", "journalctl -u keepalived --no-pager | tail").stdout
            time.sleep(0.5)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Both hosts with their workloads; nothing deployed."""
    lab = labs.create(f"t-agents-{os.getpid()}", "pair")
    try:
        lab.up()
        for host in ("edge-a", "edge-b"):
            traffic.start_server(lab, host)
        yield Network(lab, tmp_path_factory.mktemp("inventory"))
    finally:
        lab.down()


def said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stdout + done.stderr).split())


def test_a_virtual_address_that_would_move_with_the_port_is_named_beforehand(network: Network) -> None:
    lab = network.lab
    lab.ssh("edge-a", f"cat > /etc/haproxy/haproxy.cfg <<'E'\n{HAPROXY}E\nsystemctl enable -q --now haproxy")
    network.keepalived("edge-a", BY_PROCESS)
    network.keepalived("edge-b", "/bin/true")
    network.held_by("edge-a")
    refused = network.play([WEB])
    assert refused.returncode != 0
    sentence = "edge-a: keepalived (vrrp_script web) watches haproxy, whose port 8080 a listener takes"
    assert sentence in said(refused), refused.stdout[-4000:]
    assert "changed=0" in said(refused)
    assert lab.ssh("edge-a", "systemctl is-active haproxy").stdout == "active\n"
    assert network.holders() == ["edge-a"]

    network.keepalived("edge-a", BY_PORT)  # the way out that it names
    network.held_by("edge-a")
    done = network.play([WEB])
    assert done.returncode == 0, done.stdout[-4000:]
    assert lab.ssh("edge-a", "systemctl is-active haproxy", check=False).stdout == "inactive\n"
    went = lab.ssh("edge-a", "journalctl -u keepalived -o cat --no-pager | tac | sed '/Starting Keepalived/q'").stdout
    assert "Entering FAULT" not in went, went
    assert network.holders() == ["edge-a"]

    network.keepalived("edge-a", BY_PROCESS)  # what would have happened, had it been accepted
    network.held_by("edge-b")
    lab.ssh("edge-a", "systemctl stop keepalived")
    lab.ssh("edge-b", "systemctl stop keepalived")


SHOP = """systemctl stop shop 2>/dev/null; systemctl reset-failed shop 2>/dev/null; rm -f /run/shop
systemd-run -q --unit=shop -p IPAddressDeny=any {allow} \\
    /usr/bin/python3 /opt/lab/hold.py serve /run/shop 127.0.0.1 8080
for i in $(seq 100); do test -S /run/shop && exit 0; sleep 0.05; done; exit 1"""


def test_a_unit_that_may_not_send_to_the_overlay_is_named_and_its_way_out_works(network: Network) -> None:
    """Its filter sees where a connection was placed, not the listener that the program itself asked for."""
    lab = network.lab

    def opened(*allow: str) -> dict[str, Any]:
        lab.ssh("edge-a", SHOP.format(allow=" ".join(f"-p IPAddressAllow={one}" for one in allow)))
        return json.loads(lab.ssh("edge-a", "/opt/lab/hold.py ask /run/shop open 12").stdout)

    assert network.play([WEB]).returncode == 0
    lab.ssh("edge-a", "skedge status --check synced --wait 30")
    denied = opened("localhost")
    assert denied["answers"] == {"edge-a": 11}, denied
    assert sum(denied["failures"].values()) == 1, denied
    explained = json.loads(lab.ssh("edge-a", "skedge explain web --json").stdout)
    assert {one["reason"] for one in explained["candidates"]} == {"none"}, "it is held against no workload"

    told = said(network.play([WEB], "--tags", "skedge_preflight"))
    named = re.search(
        r"shop\.service may not send to the overlay \(IPAddressDeny=\): its connections to workloads of other "
        r"sites will hang; add IPAddressAllow=([^;]*) to the unit",
        told,
    )
    assert named, told[-4000:]
    allowed = opened("localhost", *named[1].split())
    assert (allowed["answers"], allowed["failures"]) == ({"edge-a": 11, "edge-b": 1}, {})
    assert "shop.service" not in said(network.play([WEB], "--tags", "skedge_preflight"))
