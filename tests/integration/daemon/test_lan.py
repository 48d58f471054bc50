"""Clients and workloads on a LAN with real controllers: from the configuration to connections, over a restart too."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from .kit import BIN, Clients, Line, Machine, Site, changes, until

WEB = {"service": "web", "host": "127.0.0.1", "port": 9090}


@pytest.fixture
def machine(line: Line) -> Iterator[Machine]:
    """A machine behind A, on a device that A's daemon sees come and go."""
    made = Machine(line.sites["a"], "box", "10.94.1")
    yield made
    made.close()
    for site in line.sites.values():
        site.write()
        site.reload()
    line.settle()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def clients(stack: ExitStack, *arguments: Any) -> Clients:
    made = Clients(*arguments)
    stack.callback(made.quit)
    return made


def attached(machine: Machine) -> bool:
    """Whether the daemon put its program onto the machine's device."""
    return "skedge" in machine.site.inside("tc", "filter", "show", "dev", machine.device, "ingress").stdout


def test_half_on_the_host_half_on_the_lan(line: Line, machine: Machine, stack: ExitStack) -> None:
    a = line.sites["a"]
    until(lambda: attached(machine) and a.at_rest(), 5, "the device that came is the LAN's")
    local, lan = clients(stack, a), clients(stack, machine, f"{machine.gateway}:8080")
    for _ in range(10):
        local.open(5)
        lan.open(5)
    until(lambda: a.opens() == {"a": 47, "b": 37, "c": 16}, 5, "the reference split")
    until(lambda: line.sites["b"].others()["b"] == 37, 5, "B was told of all of them")
    rows = a.connections()
    assert sum(row.client.startswith(machine.address) for row in rows) == 50
    flows = [row for row in a.rows("flows") if row.state != "closed" and row.protocol == "tcp"]
    assert {(row.kind, row.state) for row in flows} == {("remote", "established")}, "local ones are their sockets'"
    assert {row.workload for row in flows} == {"b/web", "c/web"}
    filtered = a.document_of("show", "flows", "--workload", "b/web", "--client", machine.address)["flows"]
    assert len(filtered) == sum(row.workload == "b/web" for row in flows)
    a.kill()
    assert lan.open(1) == {"c": 1}, "balanced by the kernel alone"
    before = a.log_size()
    a.start()
    until(a.works, 20, "a ready")
    assert changes(a.log_since(before)) == [], "what was found needed no change"
    assert lan.do("check")["dead"] == 0
    until(lambda: sum(a.opens().values()) == 101, 5, "counts survive the controller")


def test_a_workload_on_the_lan_serves_everybody(line: Line, machine: Machine, stack: ExitStack) -> None:
    a, c = line.sites["a"], line.sites["c"]
    machine.serve("box", 9191)
    box = {"service": "box", "host": machine.address, "port": 9191}
    a.write(connectors=[WEB, box], listeners=[{"service": "web", "port": 8080}, {"service": "box", "port": 8081}])
    c.write(listeners=[{"service": "web", "port": 8080}, {"service": "box", "port": 8081}])
    for site in (a, c):
        site.reload()

    def usable(site: Any) -> bool:
        return any(
            r.service == "box" and [one.reason for one in r.candidates] == ["none"] for r in site.rows("services")
        )

    until(lambda: usable(a) and usable(c) and a.at_rest() and c.at_rest(), 10, "box may be chosen everywhere")
    for where in ((a, "127.0.0.1:8081"), (c, "127.0.0.1:8081"), (machine, f"{machine.gateway}:8081")):
        made = clients(stack, *where)
        assert made.open(3) == {"box": 3}
        assert made.do("check")["dead"] == 0
    found = sorted(
        (row.kind, row.workload) for row in a.rows("flows") if row.state != "closed" and row.protocol == "tcp"
    )
    assert found == [("lan", "a/box")] * 3 + [("overlay", "a/box")] * 3


def test_placements_are_followed_as_they_happen(line: Line, machine: Machine, stack: ExitStack) -> None:
    a = line.sites["a"]
    until(lambda: attached(machine) and a.at_rest(), 5, "attached")
    log = a.directory / "followed.log"
    follower = a.spawn(BIN / "skedge", "--socket", a.socket, "show", "flows", "--follow", log=log)
    stack.callback(follower.kill)
    lan = clients(stack, machine, f"{machine.gateway}:8080")
    until(lambda: lan.open(1) and log.stat().st_size, 10, "the first line")
    before = len(log.read_text().splitlines())
    lan.open(5)
    until(lambda: len(log.read_text().splitlines()) >= before + 5, 5, "five more lines")
    assert all(
        line.split()[1].startswith(f"{machine.address}:") and " web/tcp -> " in line and ", perceived " in line
        for line in log.read_text().splitlines()
    )


def test_without_lan_devices_nothing_is_attached(line: Line, machine: Machine) -> None:
    a = line.sites["a"]
    until(lambda: attached(machine), 5, "attached")
    a.write(lan_devices=[])
    a.reload()
    until(lambda: not attached(machine) and a.at_rest(), 5, "taken off")
    a.write(lan_devices=[machine.device])
    a.reload()
    until(lambda: attached(machine), 5, "attached again")


def test_placements_are_in_the_journal_where_it_is_asked_for(line: Line, machine: Machine, stack: ExitStack) -> None:
    a = line.sites["a"]
    until(lambda: attached(machine) and a.at_rest(), 5, "attached")
    lan = clients(stack, machine, f"{machine.gateway}:8080")
    lan.open(3)
    before = a.log_size()
    a.write(log_placements=True)
    a.reload()
    until(lambda: "op=reload" in a.log_since(before), 5, "reloaded")
    time.sleep(1.0)  # the first look only says from when on
    lan.open(2)
    until(lambda: placed(a, before), 5, "the first lines")
    lan.open(100)
    until(lambda: "op=place left_out=" in a.log_since(before) or len(placed(a, before)) == 102, 5, "all or a number")
    lines = placed(a, before)
    left_out = sum(int(number) for number in re.findall(r"op=place left_out=(\d+)", a.log_since(before)))
    assert len(lines) + left_out == 102, "none of those before"
    assert all(f"client={machine.address}:" in one and " service=web/tcp workload=" in one for one in lines)
    a.write()
    a.reload()
    until(lambda: a.log_since(before).count("op=reload") == 2, 5, "reloaded")
    lan.open(1)
    time.sleep(1.2)
    assert len(placed(a, before)) == len(lines)


def placed(site: Site, since: int) -> list[str]:
    return [one for one in site.log_since(since).splitlines() if "op=place client=" in one]


NAT = (
    "add table ip other { chain pre { type nat hook prerouting priority -100; }; "
    "chain post { type nat hook postrouting priority 100; ip saddr 172.17.0.0/16 masquerade; }; }"
)


def test_a_host_that_translates_addresses_serves_from_its_sockets(
    line: Line, machine: Machine, stack: ExitStack
) -> None:
    """Docker's kind of rules: where packets are tracked, nf_nat takes a listening socket away again from a SYN."""
    a, c = line.sites["a"], line.sites["c"]
    a.write(connectors=[{**WEB, "service": "own"}], listeners=[{"service": "own", "port": 8080}])
    c.write(listeners=[{"service": "own", "port": 8080}])
    a.inside("nft", NAT)
    stack.callback(a.inside, "nft", "delete table ip other")
    until(lambda: int(a.inside("cat", "/proc/sys/net/netfilter/nf_conntrack_count").stdout) > 0, 5, "it tracks")
    for site in (a, c):
        site.reload()
    until(lambda: "notrack" in a.inside("nft", "list", "table", "inet", "skedge").stdout, 10, "the chains")
    until(lambda: attached(machine) and a.at_rest() and c.at_rest(), 10, "all is there")
    until(
        lambda: [r.reason for s in c.rows("services") if s.service == "own" for r in s.candidates] == ["none"],
        10,
        "own",
    )
    for where in ((machine, f"{machine.gateway}:8080"), (c, "127.0.0.1:8080"), (a, "127.0.0.1:8080")):
        made = clients(stack, *where)
        assert made.open(3) == {"a": 3}
        assert made.do("check")["dead"] == 0
    kinds = {row.kind for row in a.rows("flows") if row.service == "own"}
    assert kinds <= {"local"}, "delivered, not translated"


CLOSED = """table inet operator {{
chain in {{
type filter hook input priority filter; policy drop;
iifname != "{device}" accept
meta l4proto ipv6-icmp accept
tcp dport {port} accept
}}
}}"""


def test_the_hosts_own_rules_hold_as_they_and_the_setting_change(
    line: Line, machine: Machine, stack: ExitStack
) -> None:
    """Closed, opened, by-passed, closed again, with workloads of other sites; and the chains come back when flushed."""
    a = line.sites["a"]
    a.write(connectors=[])
    a.reload()

    def tried() -> str:
        return machine.inside("python3", "-c", PROBE, machine.gateway).stdout.strip()

    until(lambda: attached(machine) and a.at_rest() and tried() == "answered", 10, "served")
    lan = clients(stack, machine, f"{machine.gateway}:8080")
    stack.callback(a.inside, "nft", "delete table inet operator")

    def rules(port: int) -> None:
        text = CLOSED.format(device=machine.device, port=port)
        a.inside("nft", f"table inet operator {{}}\ndelete table inet operator\n{text}")

    rules(22)
    assert tried() == "no answer"
    rules(8080)
    assert sum(lan.open(3).values()) == 3
    rules(22)
    assert lan.do("check")["dead"] == 0, "what is open goes on"
    a.write(connectors=[], lan_firewall="bypass")
    a.reload()
    until(lambda: tried() == "answered", 5, "by-passed")
    assert "skedge" not in a.inside("nft", "list", "tables", "ip").stdout
    a.write(connectors=[])
    a.reload()
    until(lambda: tried() == "no answer", 5, "honoured again")
    assert any(row.reason == "host-firewall" and row.count for row in a.rows("drops"))
    a.inside("nft", "delete table ip skedge")
    until(lambda: "accepted" in a.inside("nft", "list", "table", "ip", "skedge", check=False).stdout, 2, "back")
    until(lambda: any("accepted" in f"{one.what} {one.cause}" for one in a.status().problems), 2, "named")
    assert lan.do("check")["dead"] == 0
    lan.do("close")


PROBE = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 8080), 1.0).close()
    print("answered")
except TimeoutError:
    print("no answer")
except OSError as error:
    print(error)
"""
