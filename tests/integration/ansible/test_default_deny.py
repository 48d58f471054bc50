"""A neighbour gone bad attacks a host over their link: nothing answers but what is published, each refusal is counted.

edge-b sends frames of its own making, past its own programs. Behind edge-a are sockets to be found: servers at every
address of the host, one on its loopback, one on a machine of its LAN; each is alive where it may be used.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab import lab as labs
from tests.lab.play import play

OPEN, INSIDE, WEB, NAMES, EXTRA = 7000, 7001, 9090, 9053, 9091
LOAD_REPORTS = 7402
AWAY = {4: "10.201.0.0/16", 6: "fd20:1::/48"}  # what edge-b announces, and a client there
AWAY_CLIENT = {4: "10.201.3.9", 6: "fd20:1::9"}

pytestmark = [
    pytest.mark.long,
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
]

INVENTORY = f"""\
skedge_edge:
  hosts:
    edge-a:
      skedge_links: [{{to: edge-b, transport: vxlan}}]
      skedge_prefixes: [LAN4, LAN6]
      skedge_listeners: [{{service: web, port: 8080, preserve_client_ip: true}}]
      skedge_connectors:
        - {{service: web, host: 127.0.0.1, port: {WEB}}}
        - {{service: extra, host: 127.0.0.1, port: {EXTRA}}}
        - {{service: names, host: 127.0.0.1, port: {NAMES}, protocol: udp}}
    edge-b:
      skedge_prefixes: [{AWAY[4]}, {AWAY[6]}]
      skedge_preflight_skip: [routes] # it announces what it does not have
      skedge_listeners:
        - {{service: web, port: 8080}}
        - {{service: extra, port: 8081}}
        - {{service: names, port: 8053, protocol: udp}}
"""
SERVE = "systemd-run -q --unit=lab-{unit} /opt/lab/server.py --name {unit} --port {port} {more}"
EVERYWHERE = "--address 0.0.0.0 --address ::"


@dataclass(frozen=True)
class Attack:
    """The lab with both sites up, and what edge-b knows of edge-a."""

    lab: labs.Lab
    device: str
    mac: str
    own: dict[int, str]
    victim: dict[int, str]

    def ask(self, host: str, command: str) -> Any:
        return json.loads(self.lab.ssh(host, f"skedge {command} --json").stdout)

    def endpoint(self, service: str) -> int:
        """Return the port under which edge-a's workload of a service is published."""
        target = self.ask("edge-b", f"explain {service}")["candidates"][0]["target"]
        return int(target.rpartition(":")[2])

    def drops(self) -> dict[str, int]:
        return {row["reason"]: row["count"] for row in self.ask("edge-a", "show drops")["drops"]}

    def send(self, target: str, protocol: str, *, source: str = "", ports: str = "1-65535") -> dict[str, Any]:
        """Attack an address; return what was sent, the answers, and which drops were counted meanwhile."""
        words = (source or self.own[6 if ":" in target else 4], target, protocol, ports)
        return self.send_all([words])

    def send_all(self, attacks: list[tuple[str, str, str, str]]) -> dict[str, Any]:
        """Attack with one (source, target, protocol, ports) after the other; the answers of all together."""
        before = self.drops()
        lines = [f"/opt/lab/attack.py {self.device} {self.mac} {' '.join(words)}" for words in attacks]
        found = [json.loads(line) for line in self.lab.ssh("edge-b", " && ".join(lines)).stdout.splitlines()]
        assert len(found) == len(attacks)
        after = self.drops()
        counted = {reason: after[reason] - before.get(reason, 0) for reason in after}
        return {
            "sent": sum(one["sent"] for one in found),
            "answers": {port: word for one in found for port, word in one["answers"].items()},
            "drops": {reason: count for reason, count in counted.items() if count},
        }


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    """Both sites deployed, everything that could be found alive."""
    lab = labs.create(f"t-deny-{os.getpid()}", "lan-pair")
    inventory = tmp_path_factory.mktemp("inventory")
    lans = [str(network) for network in lab.plan.lan("edge-a", "lan0")]
    (inventory / "hosts.yml").write_text(INVENTORY.replace("LAN4", lans[0]).replace("LAN6", f"'{lans[1]}'"))
    try:
        lab.up()
        for unit, port, more in (
            ("open", OPEN, EVERYWHERE), ("openudp", OPEN, f"--udp {EVERYWHERE}"), ("inside", INSIDE, ""),
            ("web", WEB, ""), ("extra", EXTRA, ""), ("names", NAMES, "--udp"),
        ):  # fmt: skip
            lab.ssh("edge-a", SERVE.format(unit=unit, port=port, more=more))
        lab.lan("client").start(f"/opt/lab/server.py --name lan --port 80 {EVERYWHERE}", listens="sport = :80")
        done = play(lab, inventory, "deploy.yml")
        assert done.returncode == 0, done.stdout[-3000:]
        yield arm(lab)
    finally:
        lab.down()


def arm(lab: labs.Lab) -> Attack:
    """Look at edge-b for what an attacker there knows, and wait until the workloads can be used."""
    lab.ssh("edge-b", "skedge status --check synced --wait 30")
    known = lab.ssh("edge-b", "ip neigh show nud permanent | grep ' dev sk-'").stdout.split()
    sites = json.loads(lab.ssh("edge-b", "skedge show sites --json").stdout)["sites"]
    overlay = {site["name"]: {4: site["overlay4"], 6: site["overlay6"]} for site in sites}
    made = Attack(
        lab, known[known.index("dev") + 1], known[known.index("lladdr") + 1], overlay["edge-b"], overlay["edge-a"]
    )
    deadline = time.monotonic() + 30
    while not all(made.ask("edge-b", f"explain {s}")["winner"] for s in ("web", "extra", "names")):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    return made


def lan_addresses(lab: labs.Lab) -> list[str]:
    """Return addresses behind edge-a that are no overlay's: its own of its LAN, and a machine's."""
    client = lab.lan("client")
    return [str(a) for a in (client.gateway, client.address, client.gateway6, client.address6)]


def test_what_may_be_found_is_alive(attack: Attack) -> None:
    near = attack.lab.plan.address("edge-a")
    assert attack.lab.ssh("edge-b", f"curl -sf http://{near}:{OPEN}/").stdout == "open\n"
    assert attack.lab.ssh("edge-a", f"curl -sf http://127.0.0.1:{INSIDE}/").stdout == "inside\n"
    for address in lan_addresses(attack.lab)[1::2]:
        url = f"http://[{address}]/" if ":" in address else f"http://{address}/"
        assert attack.lab.ssh("edge-a", f"curl -sfg {url}").stdout == "lan\n"
    assert attack.lab.ssh("edge-b", "curl -sf http://127.0.0.1:8080/").stdout == "web\n"


# A workload that is bound to an IPv4 address refuses at its endpoint's IPv6 address, at once, as a closed port does.
@pytest.mark.parametrize(("family", "word"), [(4, "syn-ack"), (6, "rst")])
def test_of_all_tcp_ports_of_the_overlay_address_only_endpoints_answer(attack: Attack, family: int, word: str) -> None:
    published = {str(attack.endpoint(s)): word for s in ("web", "extra")}
    found = attack.send(attack.victim[family], "tcp")
    assert found["answers"] == published
    assert found["drops"].pop("workload-closed", 0) == (len(published) if word == "rst" else 0)
    assert found["drops"] == {"not-published": found["sent"] - len(published)}


# The port of load reports takes datagrams of other sites (over IPv4), and believes none that is not signed.
@pytest.mark.parametrize(
    ("family", "word", "reports"), [(4, "udp", {}), (6, "icmp", {str(LOAD_REPORTS): "icmp"})], ids=["IPv4", "IPv6"]
)
def test_of_all_udp_ports_of_the_overlay_address_only_endpoints_answer(
    attack: Attack, family: int, word: str, reports: dict[str, str]
) -> None:
    published = {str(attack.endpoint("names")): word}
    found = attack.send(attack.victim[family], "udp")
    assert found["answers"] == published | reports
    found["drops"].pop("workload-closed", None)
    nat = 65535 - 63000 + 1  # ports of flows, of which there are none
    assert found["drops"] == {"no-socket": nat, "not-published": found["sent"] - len(published) - 1 - nat}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_lan_behind_a_host_cannot_be_reached_over_a_link(attack: Attack, protocol: str) -> None:
    own = {True: attack.own[6], False: attack.own[4]}
    found = attack.send_all([(own[":" in a], a, protocol, "1-65535") for a in lan_addresses(attack.lab)])
    assert found["answers"] == {}
    assert found["drops"] == {"no-socket": 4 * 65535}, "announced or not, nobody there is of an open connection"


@pytest.mark.parametrize(("address", "protocol"), [("127.0.0.1", "tcp"), ("127.0.0.1", "udp"), ("::1", "tcp")])
def test_loopback_cannot_be_reached_over_a_link(attack: Attack, address: str, protocol: str) -> None:
    found = attack.send(address, protocol)
    assert found["answers"] == {}
    assert found["drops"] == {"not-overlay": found["sent"]}


def test_the_hosts_own_address_below_the_link_cannot_be_reached_through_it(attack: Attack) -> None:
    found = attack.send(str(attack.lab.plan.address("edge-a")), "tcp")
    assert found["answers"] == {}
    assert found["drops"] == {"host-address": found["sent"]}


def test_a_source_outside_of_the_overlay_reaches_no_endpoint(attack: Attack) -> None:
    web, names = attack.endpoint("web"), attack.endpoint("names")
    client = attack.lab.lan("client")
    sources = ("127.0.0.1", "203.0.113.9", str(client.address), str(client.gateway), attack.victim[4])
    aims = (("tcp", str(web)), ("udp", str(names)))
    found = attack.send_all([(source, attack.victim[4], *aim) for source in sources for aim in aims])
    assert found["answers"] == {}
    own = len(aims)  # from the gateway, which is the host itself
    assert found["drops"] == {"host-address": own, "not-overlay": (len(sources) - 1) * len(aims)}
    assert "SYN-RECV" not in attack.lab.ssh("edge-a", f"ss -Htn state syn-recv sport = :{web}").stdout


@pytest.mark.parametrize(("family", "word"), [(4, "syn-ack"), (6, "rst")])
def test_a_client_of_a_lan_that_the_neighbour_announces_reaches_endpoints_alone(
    attack: Attack, family: int, word: str
) -> None:
    published = {str(attack.endpoint(s)): word for s in ("web", "extra")}
    found = attack.send(attack.victim[family], "tcp", source=AWAY_CLIENT[family])
    if family == 4:  # nobody resets what is half open, and a later test would see it sent again
        attack.lab.ssh("edge-a", f"ss -Ktn state syn-recv dst {AWAY[4]}")
    assert found["answers"] == published, "and they answer over the link"
    found["drops"].pop("workload-closed", None)
    assert found["drops"] == {"not-published": found["sent"] - len(published)}
    lan = [(AWAY_CLIENT[6 if ":" in a else 4], a, "tcp", "1-1024") for a in lan_addresses(attack.lab)]
    found = attack.send_all(lan)
    assert (found["answers"], found["drops"]) == ({}, {"not-overlay": 4 * 1024}), "nor the LAN behind the host"


def test_an_endpoint_that_was_withdrawn_does_not_answer_though_its_server_lives(attack: Attack) -> None:
    port = attack.endpoint("extra")
    assert attack.send(attack.victim[4], "tcp", ports=str(port))["answers"] == {str(port): "syn-ack"}
    without = (
        "import yaml; p = '/etc/skedge/skedge.yaml'; c = yaml.safe_load(open(p)); kept = c['connectors']; "
        "c['connectors'] = [k for k in kept if k['service'] != 'extra']; open(p, 'w').write(yaml.safe_dump(c))"
    )
    attack.lab.ssh(
        "edge-a", f'cp -p /etc/skedge/skedge.yaml /root/kept; python3 -c "{without}"; systemctl reload skedge'
    )
    try:
        deadline = time.monotonic() + 10
        while attack.ask("edge-b", "explain extra")["candidates"] and time.monotonic() < deadline:
            time.sleep(0.2)
        found = attack.send(attack.victim[4], "tcp", ports=str(port))
        assert attack.lab.ssh("edge-a", f"curl -sf http://127.0.0.1:{EXTRA}/").stdout == "extra\n"
    finally:
        attack.lab.ssh("edge-a", "cp -p /root/kept /etc/skedge/skedge.yaml; systemctl reload skedge")
    assert found["answers"] == {}
    assert found["drops"] == {"not-published": 1}


def test_a_lan_machine_reaches_no_overlay_address_through_its_host(attack: Attack) -> None:
    attack.lab.ssh("edge-b", SERVE.format(unit="far", port=OPEN, more=EVERYWHERE))
    assert not got_by_lan(attack, attack.own[4], OPEN)


def test_a_lan_machine_reaches_no_overlay_address_of_its_host(attack: Attack) -> None:
    assert not got_by_lan(attack, attack.victim[4], OPEN)


def got_by_lan(attack: Attack, address: str, port: int) -> str:
    """Return what a machine of edge-a's LAN gets from an address and port, by way of edge-a."""
    return attack.lab.lan("client").run(f"curl -s -m 2 http://{address}:{port}/", check=False).stdout


def test_a_host_does_not_become_a_router_of_its_lan(attack: Attack) -> None:
    """From the LAN, edge-b's address below the link is only to be had if edge-a forwards for everybody."""
    client, far = attack.lab.lan("client"), attack.lab.plan.address("edge-b")
    attack.lab.ssh("edge-b", "nft -f - <<'E'\ntable ip seen { chain in { type filter hook input priority -300; "
                   f"ip saddr {client.address} counter drop; }}; }}\nE")  # fmt: skip
    try:
        client.run(f"ping -c 3 -i 0.2 -W 1 {far}", check=False)
        seen = attack.lab.ssh("edge-b", "nft list table ip seen").stdout
    finally:
        attack.lab.ssh("edge-b", "nft delete table ip seen")
    assert "packets 0 " in seen, seen
