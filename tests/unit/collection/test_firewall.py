"""Which of a host's own rules would drop what skedge needs: from rulesets as the firewalls of the field make them.

``iptables-ufw*`` and ``nft-firewalld*`` were taken from Debian 12 (ufw 0.36, firewalld 1.3), as installed and opened by
the very commands that are asked for; ``iptables-docker`` is what Docker 28 makes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skedge.edge.plugins.module_utils import firewall, packetfilter

FIXTURES = Path(__file__).parent / "fixtures"
END = {
    "overlay_address": "100.64.0.1",
    "overlay_address6": "fd12::1",
    "links": [{"to": "edge-b", "local": "10.0.0.1", "remote": "10.0.0.2"}],
}
MIDDLE = {**END, "links": [*END["links"], {"to": "edge-c", "local": "10.0.0.1", "remote": "10.0.0.3"}]}  # type: ignore[misc]


def nft(name: str) -> list[packetfilter.Base]:
    return packetfilter.from_nft(json.loads((FIXTURES / f"{name}.json").read_text()))


def iptables(text: str, command: str = "iptables") -> list[packetfilter.Base]:
    if text.startswith("iptables-"):
        text = (FIXTURES / f"{text}.txt").read_text()
    return packetfilter.from_iptables(text, command, 4)


def problems(bases: list[packetfilter.Base], site: dict[str, Any] = MIDDLE) -> list[str]:
    return firewall.problems(bases, firewall.needs(site, ["10.0.0.1"]))


@pytest.mark.parametrize("name", ["nft-empty", "nft-open", "nft-drop-with-holes", "nft-firewalld-open"])
def test_a_firewall_that_lets_links_pass_is_no_problem(name: str):
    assert problems(nft(name)) == []


def test_ufw_that_was_opened_as_told_is_no_problem():
    assert problems(iptables("iptables-ufw-open")) == []


def test_docker_is_a_problem_only_where_packets_are_passed_on():
    (problem,) = problems(iptables("iptables-docker"))
    assert problem == (
        "iptables chain FORWARD drops forwarded traffic between links by its policy; open it: "
        "iptables -I DOCKER-USER -i sk-+ -o sk-+ -j ACCEPT"
    )
    opened = (FIXTURES / "iptables-docker.txt").read_text() + "-A DOCKER-USER -i sk-+ -o sk-+ -j ACCEPT\n"
    assert problems(iptables(opened)) == []
    assert problems(iptables("iptables-docker"), END) == []


def test_dockers_rules_as_nftables_shows_them():
    (problem,) = problems(nft("nft-docker"))
    assert problem == (
        "nftables chain ip filter FORWARD drops forwarded traffic between links by its policy; open it: "
        'nft insert rule ip filter FORWARD iifname "sk-*" oifname "sk-*" accept'
    )


def test_ufw_as_it_comes():
    assert problems(iptables("iptables-ufw")) == [
        "iptables chain INPUT drops traffic that arrives over links by its policy; open it: ufw allow in on sk-+",
        "iptables chain FORWARD drops forwarded traffic between links by its policy; "
        "open it: ufw route allow in on sk-+ out on sk-+",
        "iptables chain INPUT drops tunnel traffic to UDP port 4790 by its policy; open it: ufw allow 4790/udp",
    ]


def test_firewalld_as_it_comes():
    trust = "firewall-cmd --permanent --zone=trusted --add-interface=sk-+ && firewall-cmd --reload"
    chain, rule = "nftables chain inet firewalld", "by rule {} of chain filter_{}_public; open it: "
    assert problems(nft("nft-firewalld")) == [
        f"{chain} filter_INPUT drops traffic that arrives over links {rule.format(9, 'IN')}{trust}",
        f"{chain} filter_FORWARD drops forwarded traffic between links {rule.format(8, 'FWD')}{trust}",
        f"{chain} filter_INPUT drops tunnel traffic to UDP port 4790 {rule.format(9, 'IN')}"
        "firewall-cmd --permanent --add-port=4790/udp && firewall-cmd --reload",
    ]


def test_rules_of_ones_own_name_every_tunnels_port():
    site = {**MIDDLE, "links": [MIDDLE["links"][0], {**MIDDLE["links"][1], "port": 4791}]}
    text = "\n".join(problems(nft("nft-drop"), site))
    for port in (4790, 4791):
        assert f"inet filter input drops tunnel traffic to UDP port {port} by its policy; open it: nft insert" in text
    assert "inet filter input drops traffic that arrives over links by its policy" in text
    assert "inet filter forward drops forwarded traffic between links by its last rule" in text


def test_iptables_legacy_is_called_by_its_name():
    (problem,) = problems(iptables("-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n", "iptables-legacy"))
    assert problem.endswith("open it: iptables-legacy -I FORWARD -i sk-+ -o sk-+ -j ACCEPT")


INPUT = "-P INPUT DROP\n-A INPUT -i sk-+ -j ACCEPT\n"


@pytest.mark.parametrize(
    ("rules", "passes"),
    [
        ("", False),
        ("-A INPUT -p udp -m udp --dport 4790 -j ACCEPT", True),
        ("-A INPUT -p udp -m multiport --dports 53,4780:4799 -j ACCEPT", True),
        ("-A INPUT -p tcp -m tcp --dport 4790 -j ACCEPT", False),
        ("-A INPUT -p udp -m udp --dport 4791 -j ACCEPT", False),
        ("-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", False),
        ("-A INPUT -m conntrack --ctstate NEW -j ACCEPT", True),
        ("-A INPUT -s 10.0.0.2/32 -j ACCEPT", True),
        ("-A INPUT -s 10.0.0.0/24 -p udp -j ACCEPT", True),
        ("-A INPUT -s 10.9.0.0/16 -j ACCEPT", False),
        ("-A INPUT -i lo -j ACCEPT", False),
        ("-A INPUT ! -i lo -j ACCEPT", True),
        ("-A INPUT -i eth0 -j ACCEPT", True),  # which device it comes by is not known
        ("-A INPUT -s 10.0.0.2/32 -j DROP\n-A INPUT -j ACCEPT", False),
        ("-A INPUT -p udp -j X\n-A X -j RETURN", False),
        ("-A INPUT -p udp -j X\n-A X -j ACCEPT", True),
        ("-A INPUT -g X\n-A INPUT -j ACCEPT\n-A X -s 10.9.0.0/16 -j ACCEPT", False),
        ("-A INPUT -m addrtype --dst-type LOCAL -j ACCEPT", True),
        ("-A INPUT -m mark --mark 0x1 -j ACCEPT", False),
        ('-A INPUT -m comment --comment "a - b" -p udp -j ACCEPT', True),
    ],
)
def test_what_lets_the_tunnels_packets_in(rules: str, passes: bool):
    found = problems(iptables(INPUT + rules), END)
    assert found == [] if passes else len(found) == 1
    assert passes or "tunnel traffic to UDP port 4790" in found[0]


def rule(*expressions: dict[str, Any], chain: str = "input") -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": "f", "chain": chain, "expr": list(expressions)}}


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


DPORT = {"payload": {"protocol": "udp", "field": "dport"}}
ACCEPT: dict[str, Any] = {"accept": None}


@pytest.mark.parametrize(
    ("rules", "passes"),
    [
        ([rule(match(DPORT, {"set": [53, {"range": [4000, 5000]}]}), ACCEPT)], True),
        ([rule(match(DPORT, "@open"), ACCEPT)], True),
        ([rule(match(DPORT, "@closed"), ACCEPT)], False),
        ([rule(match({"ct": {"key": "state"}}, ["established", "related"], "in"), ACCEPT)], False),
        ([rule({"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["invalid", {"drop": None}]]}}})], False),
        ([rule({"vmap": {"key": DPORT, "data": {"set": [[4790, ACCEPT]]}}})], True),
        ([rule(match({"meta": {"key": "nfproto"}}, "ipv6"), ACCEPT)], False),
        ([rule(match({"payload": {"protocol": "ip", "field": "saddr"}}, "10.0.0.2"), {"counter": {}}, ACCEPT)], True),
        ([rule(match({"meta": {"key": "mark"}}, 1, "!="), ACCEPT)], True),
        ([rule({"jump": {"target": "x"}}), rule(match(DPORT, 4790), ACCEPT, chain="x")], True),
    ],
)
def test_what_lets_them_in_with_nftables(rules: list[dict[str, Any]], passes: bool):
    place = {"family": "inet", "table": "f"}
    base = {**place, "name": "input", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}
    sets = [{"set": {**place, "name": name, "elem": [port]}} for name, port in (("open", 4790), ("closed", 1))]
    links = rule(match({"meta": {"key": "iifname"}}, "sk-*"), ACCEPT)
    found = problems(packetfilter.from_nft({"nftables": [{"chain": base}, *sets, links, *rules]}), END)
    assert found == [] if passes else len(found) == 1


def test_tunnels_that_may_not_leave_are_named_too():
    (problem,) = problems(iptables("-P OUTPUT DROP\n-A OUTPUT -o sk-+ -j ACCEPT\n"), END)
    assert "drops tunnel traffic from the host to UDP port 4790 by its policy; open it: iptables -I OUTPUT" in problem


LISTENS = {
    "listeners": [{"service": "web", "port": 8080}, {"service": "far", "port": 8081}],
    "connectors": [{"service": "web", "host": "127.0.0.1", "port": 9090}],
}
BYPASS = {"lan_firewall": "bypass"}


def ports(found: list[str]) -> list[str]:
    return [problem.partition(" on port ")[2].split()[0] for problem in found]


@pytest.mark.parametrize(
    ("change", "local", "found"),
    [
        ({}, ["8080/tcp"], ["8080/tcp", "8081/tcp"]),
        ({"lan_devices": []}, [], []),
        ({"engine": "ipvs"}, ["8080/tcp"], ["8080/tcp"]),
        ({"connectors": [{"service": "web", "host": "10.5.5.5", "port": 9090}]}, [], ["8080/tcp", "8081/tcp"]),
        (
            {"connectors": [{"service": "web", "host": "10.0.0.1", "port": 9090}]},
            ["8080/tcp"],
            ["8080/tcp", "8081/tcp"],
        ),
        ({"listeners": [{"service": "web", "port": 8080, "address": "127.0.0.1"}]}, [], []),
        ({"listeners": [{"service": "far", "port": 53, "protocol": "udp"}]}, [], ["53/udp"]),
        ({"listeners": [{"services": [{"service": "far"}, {"service": "web"}], "port": 80}]}, ["80/tcp"], ["80/tcp"]),
    ],
    ids=["local", "no-lan", "ipvs", "elsewhere", "own-address", "loopback", "udp", "several"],
)
def test_clients_of_the_lan_must_pass_the_filter(change: dict[str, Any], local: list[str], found: list[str]):
    """To sockets of the host they always must; to all others unless the host's rules are by-passed."""
    rules = iptables("-P INPUT DROP\n-A INPUT -i lo -j ACCEPT\n")
    assert ports(problems(rules, {**LISTENS, **change})) == found
    assert ports(problems(rules, {**LISTENS, **change, **BYPASS})) == local


@pytest.mark.parametrize(
    ("state", "found", "bypassed"),
    [("NEW", ["8080/tcp"], ["8080/tcp"]), ("UNTRACKED", ["8080/tcp", "8081/tcp"], []), ("NEW,UNTRACKED", [], [])],
)
def test_a_new_connection_is_new_and_a_socket_of_the_host_gets_untracked_packets(
    state: str, found: list[str], bypassed: list[str]
):
    rules = "-P INPUT DROP\n-A INPUT -i lo -j ACCEPT\n"
    rules += f"-A INPUT -p tcp -m tcp --dport 8080:8081 -m conntrack --ctstate {state} -j ACCEPT\n"
    assert ports(problems(iptables(rules), LISTENS)) == found
    assert ports(problems(iptables(rules), {**LISTENS, **BYPASS})) == bypassed


@pytest.mark.parametrize(("hook", "found"), [("INPUT", ["8080/tcp"]), ("OUTPUT", ["8080/tcp", "8081/tcp"])])
@pytest.mark.parametrize("accepting", ["", "-i lo", "-o lo"])
def test_what_they_let_through_goes_over_lo(hook: str, found: list[str], accepting: str):
    rules = f"-P {hook} DROP\n-A {hook} ! -{'i' if hook == 'INPUT' else 'o'} lo -j ACCEPT\n"
    fits = accepting and (accepting == "-i lo") == (hook == "INPUT")
    rules += f"-A {hook} {accepting} -j ACCEPT\n" if fits else ""
    told = problems(iptables(rules), LISTENS)
    assert ports(told) == ([] if fits else found)
    assert all("on their way over lo" in one for one in told)
    assert problems(iptables(rules), {**LISTENS, **BYPASS}) == []


@pytest.mark.parametrize("name", ["iptables-ufw", "iptables-ufw-open"])
def test_ufw_lets_what_goes_over_lo_pass(name: str):
    assert not [problem for problem in problems(iptables(name), LISTENS) if "over lo" in problem]


def test_firewalld_lets_what_goes_over_lo_pass():
    assert not [problem for problem in problems(nft("nft-firewalld"), LISTENS) if "over lo" in problem]


def test_a_listeners_port_is_named_with_what_to_open():
    here, elsewhere = problems(iptables("iptables-ufw"), LISTENS)
    assert here == (
        "iptables chain INPUT drops clients of the LAN that come to the listener on port 8080/tcp by its policy; "
        "open it: ufw allow 8080/tcp"
    )
    assert elsewhere == (
        "iptables chain INPUT drops clients of the LAN that come to the listener on port 8081/tcp by its policy; "
        "open it: ufw allow 8081/tcp, or let the LAN in past these rules: skedge_lan_firewall: bypass"
    )


@pytest.mark.parametrize(("code", "found"), [(0, 0), (None, 0), (1, 1)])
def test_a_kernel_that_cannot_be_asked_is_named(code: int | None, found: int):
    assert len(firewall.trial_problems(LISTENS, code)) == found
    for change in ({"engine": "ipvs"}, {"lan_devices": []}, {"listeners": []}, BYPASS):
        assert firewall.trial_problems({**LISTENS, **change}, code) == []


def test_a_site_alone_needs_nothing():
    assert problems(iptables("-P INPUT DROP\n-P FORWARD DROP\n-P OUTPUT DROP\n"), {"links": []}) == []


# ---- other VPNs ----------------------------------------------------------------------------------------------------

SITES = ["100.104.0.2", "100.104.0.3"]
OURS = {**MIDDLE, "overlay_address": "100.104.0.1"}  # type: ignore[misc]
TS_INPUT = (
    "iptables chain INPUT drops traffic that arrives over links by rule 3 of chain ts-input; open it: "
    "iptables -I INPUT -i sk-+ -j ACCEPT" + firewall.TAILSCALE
)


def beside_tailscale(text: str, site: dict[str, Any] = OURS, sites: list[str] = SITES) -> list[str]:
    return firewall.problems(iptables(text), firewall.needs(site, ["10.0.0.1"], others=sites))


def test_tailscale_drops_what_is_from_its_range_and_not_from_its_device():
    assert beside_tailscale("iptables-tailscale") == [TS_INPUT]


def test_tailscale_opened_as_told_or_another_range_is_no_problem():
    text = (FIXTURES / "iptables-tailscale.txt").read_text()
    assert beside_tailscale(text.replace("-A INPUT -j", "-A INPUT -i sk-+ -j ACCEPT\n-A INPUT -j")) == []
    assert beside_tailscale(text, {**OURS, "overlay_address": "10.200.0.1"}, ["10.200.0.2"]) == []


def test_tailscale_with_nftables():
    chains = nft("nft-tailscale")
    found = firewall.problems(chains, firewall.needs(OURS, ["10.0.0.1"], others=SITES))
    assert [one.split(";")[0] for one in found] == [
        "nftables chain ip filter INPUT drops traffic that arrives over links by rule 3 of chain ts-input"
    ]
    assert found[0].endswith('nft insert rule ip filter INPUT iifname "sk-*" accept' + firewall.TAILSCALE)
