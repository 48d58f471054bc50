"""Hosts with firewalls of their own: what they really block is named before anything changes; opened as told, it works.

edge-b is in the middle of the line, so packets between the others pass its FORWARD chain. It also has a listener and a
workload of its own, for a machine of its LAN.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import lab as labs
from tests.lab import traffic
from tests.lab.play import play

pytestmark = [
    pytest.mark.long,
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.timeout(600),  # several deployments each
]

INVENTORY = """\
skedge_edge:
  hosts:
    edge-a:
      skedge_links: [{to: edge-b, transport: vxlan}]
      skedge_listeners: [{service: far, port: 8080}]
    edge-b:
      skedge_links: [{to: edge-c, transport: vxlan}]
      skedge_listeners: [{service: near, port: 8081}]
      skedge_connectors: [{service: near, host: 127.0.0.1, port: 9090}]
    edge-c:
      skedge_connectors: [{service: far, host: 127.0.0.1, port: 9090}]
"""
OWN = """nft -f - <<'E'
table inet own {
  chain in {
    type filter hook input priority 0; policy drop;
    ct state established,related accept
    iifname "lo" accept
    meta l4proto icmp accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
    tcp dport 22 accept
  }
  chain fw { type filter hook forward priority 0; ct state established,related accept; counter drop; }
}
E"""
# What Docker 28 makes in both families, in its own order.
DOCKER = """for t in {} ; do $t -P FORWARD DROP
for c in DOCKER DOCKER-BRIDGE DOCKER-CT DOCKER-FORWARD DOCKER-ISOLATION-STAGE-1 DOCKER-ISOLATION-STAGE-2 DOCKER-USER
do $t -N $c; done
$t -A FORWARD -j DOCKER-USER; $t -A FORWARD -j DOCKER-FORWARD
$t -A DOCKER ! -i docker0 -o docker0 -j DROP; $t -A DOCKER-BRIDGE -o docker0 -j DOCKER
$t -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
$t -A DOCKER-FORWARD -j DOCKER-CT; $t -A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
$t -A DOCKER-FORWARD -j DOCKER-BRIDGE; $t -A DOCKER-FORWARD -i docker0 -j ACCEPT
$t -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
$t -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP; done
for t in {}; do $t -t nat -N DOCKER; $t -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
$t -t nat -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER; $t -t nat -A DOCKER -i docker0 -j RETURN; done
iptables{} -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"""
UNDOCKER = "for t in {} ; do $t -P FORWARD ACCEPT; $t -F; $t -X; $t -t nat -F; $t -t nat -X; done"
FLUSH = "nft flush ruleset"
TUNNEL, LINKS = "tunnel traffic to UDP port 4790", "traffic that arrives over links"
TRANSIT = "forwarded traffic between links"
LISTENER = "clients of the LAN that come to the listener on port 8081/tcp"


@dataclass(frozen=True)
class Firewall:
    """One kind: how it is made and removed, the words of each problem, and of the commands that open it."""

    close: str
    remove: str
    named: tuple[str, ...]
    opened: tuple[str, ...]


FIREWALLS = {
    "own rules": Firewall(
        OWN, "nft delete table inet own",
        (f"nftables chain inet own in drops {LINKS} by its policy", f"chain inet own in drops {TUNNEL} by its policy",
         f"chain inet own in drops {LISTENER}", f"chain inet own fw drops {TRANSIT} by its last rule"),
        ('nft insert rule inet own in iifname "sk-*" accept', "nft insert rule inet own in udp dport 4790 accept"),
    ),
    "docker": Firewall(
        DOCKER.format(*["iptables-nft ip6tables-nft"] * 2, "-nft"), FLUSH,
        (f"iptables chain FORWARD drops {TRANSIT} by its policy", f"ip6tables chain FORWARD drops {TRANSIT}"),
        ("iptables -I DOCKER-USER -i sk-+ -o sk-+ -j ACCEPT",),
    ),
    "docker, iptables-legacy": Firewall(
        DOCKER.format(*["iptables-legacy"] * 2, "-legacy"), UNDOCKER.format("iptables-legacy"),
        (f"iptables-legacy chain FORWARD drops {TRANSIT} by its policy",),
        ("iptables-legacy -I DOCKER-USER -i sk-+ -o sk-+ -j ACCEPT",),
    ),
    "ufw": Firewall(
        "ufw allow 22/tcp; ufw --force enable", "ufw --force reset; ufw disable; nft flush ruleset",
        (f"iptables chain INPUT drops {LINKS} by its policy", f"chain INPUT drops {TUNNEL}",
         f"chain INPUT drops {LISTENER}", f"chain FORWARD drops {TRANSIT}"),
        ("ufw allow in on sk-+", "ufw route allow in on sk-+ out on sk-+", "ufw allow 4790/udp", "ufw allow 8081/tcp"),
    ),
    "firewalld": Firewall(
        "systemctl start firewalld", "systemctl stop firewalld; rm -rf /etc/firewalld/zones/*",
        (f"nftables chain inet firewalld filter_INPUT drops {LINKS} by rule", f"filter_INPUT drops {TUNNEL} by rule",
         f"filter_INPUT drops {LISTENER} by rule", f"filter_FORWARD drops {TRANSIT} by rule"),
        ("firewall-cmd --permanent --zone=trusted --add-interface=sk-+ && firewall-cmd --reload",
         "firewall-cmd --permanent --add-port=4790/udp && firewall-cmd --reload"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """The line, deployed."""

    lab: labs.Lab
    inventory: Path

    def deploy(self) -> subprocess.CompletedProcess[str]:
        return play(self.lab, self.inventory, "deploy.yml", "-e", "skedge_gate_timeout_s=60")

    def far(self) -> bool:
        """Tell whether edge-a's clients get through edge-b to edge-c's workload."""
        return self.lab.ssh("edge-a", "curl -s -m 2 http://127.0.0.1:8080/", check=False).stdout == "edge-c\n"

    def near(self) -> bool:
        """Tell whether a machine of edge-b's LAN gets to edge-b's own workload."""
        client = self.lab.lan("b-server")
        return client.run(f"curl -s -m 2 http://{client.gateway}:8081/", check=False).stdout == "edge-b\n"

    def becomes(self, far: bool, near: bool, patience: float = 100) -> bool:
        """Wait until traffic is so."""
        end = time.monotonic() + patience
        while (self.far(), self.near()) != (far, near):
            if time.monotonic() > end:
                return False
            time.sleep(0.5)
        return True


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """All three sites deployed, without a firewall."""
    lab = labs.create(f"t-wall-{os.getpid()}", "lan")
    inventory = tmp_path_factory.mktemp("inventory")
    (inventory / "hosts.yml").write_text(INVENTORY)
    made = Network(lab, inventory)
    try:
        lab.up()
        for host in ("edge-b", "edge-c"):
            traffic.start_server(lab, host)
        done = made.deploy()
        assert done.returncode == 0, done.stdout[-4000:]
        yield made
    finally:
        lab.down()


@pytest.mark.parametrize("kind", FIREWALLS)
def test_what_it_blocks_is_named_and_opened_as_told_it_lets_pass(network: Network, kind: str) -> None:
    wall = FIREWALLS[kind]
    assert network.becomes(far=True, near=True)
    try:
        network.lab.ssh("edge-b", wall.close)
        assert network.becomes(far=False, near=not any(LISTENER in words for words in wall.named))
        refused = network.deploy()
        assert refused.returncode != 0
        said = " ".join(refused.stdout.split())
        assert "Nothing was changed on any host:" in said
        assert not re.search(r"changed=[1-9]", said)
        for words in (*wall.named, *wall.opened):
            assert words in said, refused.stdout[-4000:]
        commands = re.findall(r"edge-b: .*?; open it: (.*)", refused.stdout)
        assert len(commands) >= len(wall.named), refused.stdout[-4000:]
        parts = dict.fromkeys(part.strip() for command in commands for part in command.split("&&"))  # once each
        last = [part for part in parts if part == "firewall-cmd --reload"]
        network.lab.ssh("edge-b", " && ".join([*(part for part in parts if part not in last), *last]))
        done = network.deploy()
        assert done.returncode == 0, done.stdout[-4000:]
        assert network.becomes(far=True, near=True)
    finally:
        network.lab.ssh("edge-b", wall.remove)


NAT = """nft -f - <<'E'
table ip nat-of-others {
  chain pre { type nat hook prerouting priority -100; }
  chain post { type nat hook postrouting priority 100; ip saddr 172.17.0.0/16 masquerade; }
}
E"""


def test_hosts_that_translate_addresses_serve_from_their_sockets(network: Network) -> None:
    """As with Docker: connection tracking must not take the socket away again that a SYN was assigned to."""
    assert network.becomes(far=True, near=True)
    hosts = ("edge-b", "edge-c")
    try:
        for host in hosts:
            network.lab.ssh(host, NAT)
        assert network.becomes(far=True, near=True)
        before = {
            host: network.lab.ssh(host, "cat /proc/sys/net/netfilter/nf_conntrack_count").stdout for host in hosts
        }
        assert all(int(count) > 0 for count in before.values()), "connections are tracked"
        assert all(network.far() and network.near() for _ in range(20))
    finally:
        for host in hosts:
            network.lab.ssh(host, "nft delete table ip nat-of-others")
