"""LAN clients that keep their own address, with real controllers: to a site, through one, and the other way round."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from skedge.core.names import nat_address, overlay_network

from .kit import NETWORK, Line, Machine, Site, changes, until
from .test_lan import attached, clients, stack

__all__ = ["stack"]
WEB = {"service": "web", "host": "127.0.0.1", "port": 9090}
LAN = "10.94.1.0/24"
KEEPING = [{"service": "web", "port": 8080, "preserve_client_ip": True}]
UDP_SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 9092))
while True:
    data, peer = s.recvfrom(2000)
    s.sendto(f"{sys.argv[2]} {peer[0]} {peer[1]}".encode(), peer)
"""
UDP_CLIENT = """
import json, socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect((sys.argv[1], 8082))
s.send(b"who am I")
print(json.dumps([*s.recv(2000).decode().split(), *s.getsockname()[:2]]))
"""
TCP_TRY = """
import socket, sys
s = socket.socket()
s.settimeout(1.5)
s.bind((sys.argv[1], 0))
try:
    s.connect((sys.argv[2], int(sys.argv[3])))
    print("connected")
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture
def machine(line: Line) -> Iterator[Machine]:
    """A machine behind A, which announces its LAN and lets its clients keep their addresses."""
    a = line.sites["a"]
    made = Machine(a, "box", "10.94.1")
    a.write(prefixes=[LAN], listeners=KEEPING)
    a.reload()
    try:
        until(lambda: attached(made) and a.at_rest(), 15, "attached")
        for name in "bc":
            site = line.sites[name]
            until(lambda site=site: LAN in installed(site), 15, f"{name} has the route")
        yield made
    finally:
        made.close()
        for site in line.sites.values():
            site.write()
            site.reload()
        for name in "bc":
            site = line.sites[name]
            until(lambda site=site: LAN not in installed(site), 15, f"{name} has no route any more")
        line.settle()


def installed(site: Site) -> dict[str, Any]:
    return {row.destination: row for row in site.rows("routes") if row.installed}


def moved(routes: dict[str, Any], before: Any) -> bool:
    return LAN in routes and routes[LAN].next_hops != before


def peers(site: Site, port: int = 9090) -> set[str]:
    """Who the workload's connections are from, as its own sockets see it; the check's own and the host's left out."""
    seen = site.inside("ss", "-Htn", "state", "established", "sport", ">=", ":61000").stdout.split("\n")
    return {one.split()[-1].rsplit(":", 1)[0] for one in seen if one}


def test_the_reference_split_and_every_workload_sees_the_client(line: Line, machine: Machine, stack: ExitStack) -> None:
    a, b, c = line.sites.values()
    lan = clients(stack, machine, f"{machine.gateway}:8080")
    lan.open(100)
    until(lambda: a.opens() == {"a": 47, "b": 37, "c": 16}, 5, "the reference split")
    assert peers(b) == peers(c) == {machine.address}, "through B, too"
    flows = [row for row in a.rows("flows") if row.state != "closed" and row.protocol == "tcp"]
    assert {row.kind for row in flows} == {"remote"}
    assert all(row.source == row.client for row in flows)
    sites = {row.name: row.prefixes for row in c.rows("sites")}
    assert sites == {"a": (LAN,), "b": (), "c": ()}
    assert installed(c)[LAN].site == "a"
    assert [row.preserve_client_ip for row in a.rows("listeners")] == [True]
    host = c.inside("ip", "route", "get", machine.address, check=False)
    assert "sk-" not in host.stdout, "the host's own packets go the way that they always went"


def test_it_survives_the_loss_of_the_link(line: Line, machine: Machine, stack: ExitStack) -> None:
    a, b, c = line.sites.values()
    lan = clients(stack, machine, f"{machine.gateway}:8080")
    lan.open(100)
    before = installed(c)[LAN].next_hops
    line.cut("a", "b")
    try:
        until(lambda: moved(installed(c), before), 5, "C answers the other way")
        until(lambda: b.at_rest() and a.at_rest(), 5, "at rest")
        assert lan.do("check")["dead"] == 0
        assert peers(b) == peers(c) == {machine.address}
    finally:
        line.mend("a", "b")
    until(lambda: LAN in (now := installed(c)) and now[LAN].next_hops == before, 10, "and back")
    assert lan.do("check")["dead"] == 0


def test_controllers_that_start_again_change_nothing(line: Line, machine: Machine, stack: ExitStack) -> None:
    a, b, c = line.sites.values()
    lan = clients(stack, machine, f"{machine.gateway}:8080")
    lan.open(100)
    for site in (a, b, c):
        before = site.log_size()
        site.kill()
        assert lan.do("check")["dead"] == 0
        site.start()
        until(site.works, 20, f"{site.name} ready")
        until(site.at_rest, 5, "at rest")
        assert changes(site.log_since(before)) == []
    assert lan.do("check")["dead"] == 0
    assert peers(b) == peers(c) == {machine.address}


def nat_address_of(site: Site) -> str:
    """Return what other sites see as the address of a LAN client that does not keep its own."""
    return str(nat_address(overlay_network(NETWORK), NETWORK, site.name))


def test_a_client_of_another_lan_is_translated(line: Line, machine: Machine, stack: ExitStack) -> None:
    a, b, c = line.sites.values()
    other = Machine(a, "other", "10.95.1")
    stack.callback(other.close)
    until(lambda: attached(other) and a.at_rest(), 5, "attached")
    until(lambda: any(other.gateway in row.addresses for row in a.rows("listeners")), 5, "its address is a listener")
    lan = clients(stack, other, f"{other.gateway}:8080")
    lan.open(100)
    assert peers(b) == peers(c) == {nat_address_of(a)}
    assert {row.source.rsplit(":", 1)[0] for row in a.rows("flows") if row.client.startswith(other.address)} == {
        nat_address_of(a)
    }


def test_a_site_in_a_lan_of_the_same_numbers_refuses_and_gets_translated_ones(
    line: Line, machine: Machine, stack: ExitStack
) -> None:
    a, b, c = line.sites.values()
    neighbour = Machine(c, "twin", "10.94.1")
    stack.callback(neighbour.close)
    until(lambda: any("overlapping" in p.cause or "overlaps" in p.cause for p in c.status().problems), 5, "C says so")
    time.sleep(1.0)  # the news is on its way: a connect placed before A has it would find C's door closed
    until(a.at_rest, 5, "A follows")
    lan = clients(stack, machine, f"{machine.gateway}:8080")
    lan.open(100)
    until(lambda: a.opens() == {"a": 47, "b": 37, "c": 16}, 5, "the same split")
    assert peers(b) == {machine.address}
    assert peers(c) == {nat_address_of(a)}
    assert lan.do("check")["dead"] == 0
    local = c.inside("ping", "-c1", "-W2", neighbour.address, check=False)
    assert local.returncode == 0, "C's own neighbour is its neighbour"


def test_datagrams(line: Line, machine: Machine, stack: ExitStack) -> None:
    a, c = line.sites["a"], line.sites["c"]
    probe = {"service": "who", "protocol": "udp", "port": 9092}
    listener = {"service": "who", "protocol": "udp", "port": 8082, "preserve_client_ip": True}
    a.write(prefixes=[LAN], listeners=[*KEEPING, listener])
    c.write(connectors=[WEB, {**probe, "host": "127.0.0.1"}])
    for host in ("127.0.0.1", "0.0.0.0"):
        server = c.spawn("/usr/bin/python3", "-c", UDP_SERVER, host, "c")
        for site in (a, c):
            site.reload()
        until(lambda: usable(a, "who"), 10, "who may be chosen")
        until(lambda: a.at_rest() and c.at_rest(), 5, "at rest")
        name, seen, port, own, own_port = json.loads(
            machine.inside("/usr/bin/python3", "-c", UDP_CLIENT, machine.gateway).stdout
        )
        assert (name, seen, int(port)) == ("c", own, own_port), host
        server.kill()
        server.wait(10)


def usable(site: Site, service: str) -> bool:
    return any(row.service == service and [one.reason for one in row.candidates] == ["none"]
               for row in site.rows("services"))  # fmt: skip


def test_over_ipv6(line: Line, machine: Machine, stack: ExitStack) -> None:
    a, c = line.sites["a"], line.sites["c"]
    for where, address in ((a, "fd94:1::1"), (machine, "fd94:1::9")):
        device = machine.device if where is a else "eth0"
        where.inside("sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=0")
        where.inside("ip", "addr", "add", f"{address}/64", "dev", device, "nodad")
    a.write(
        prefixes=[LAN, "fd94:1::/64"],
        listeners=[*KEEPING, {"service": "six", "port": 8086, "preserve_client_ip": True},
                   {"service": "who6", "protocol": "udp", "port": 8082, "preserve_client_ip": True}],
    )  # fmt: skip
    c.write(connectors=[WEB, {"service": "six", "host": "::1", "port": 9096},
                        {"service": "who6", "protocol": "udp", "host": "::1", "port": 9092}])  # fmt: skip
    server = c.spawn("/usr/bin/python3", Path(__file__).parents[2] / "workloads" / "server.py", "--name", "six",
                     "--port", "9096", "--address", "::1")  # fmt: skip
    datagrams = c.spawn("/usr/bin/python3", "-c", UDP_SERVER, "::", "c")
    for made in (server, datagrams):
        stack.callback(made.kill)
    for site in (a, c):
        site.reload()
    until(lambda: usable(a, "six") and usable(a, "who6"), 10, "both may be chosen")
    until(lambda: a.at_rest() and c.at_rest() and "fd94:1::/64" in installed(c), 5, "at rest")
    hold = machine.spawn("/usr/bin/python3", "-c", "import socket, time; "
                         "s = socket.create_connection(('fd94:1::1', 8086), 5); time.sleep(60)")  # fmt: skip
    stack.callback(hold.kill)
    until(lambda: peers(c) == {"[fd94:1::9]"}, 5, "the workload sees the client")
    name, seen, port, own, own_port = json.loads(
        machine.inside("/usr/bin/python3", "-c", UDP_CLIENT, "fd94:1::1").stdout
    )
    assert (name, seen, int(port)) == ("c", own, own_port)


def test_a_neighbour_cannot_claim_what_is_not_announced(line: Line, machine: Machine) -> None:
    """From B: an address of no LAN gets nothing of C, and one of A's LAN is believed only as far as answers go."""
    b, c = line.sites["b"], line.sites["c"]
    endpoint = next(row.target for row in b.explain().candidates if row.site == "c")
    host, port = endpoint.rsplit(":", 1)
    b.inside("ip", "addr", "add", "10.99.0.9/32", "dev", "lo")
    try:
        before = {row.reason: row.count for row in c.rows("drops")}
        tried = b.inside("/usr/bin/python3", "-c", TCP_TRY, "10.99.0.9", host, port)
        assert tried.stdout.strip() == "TimeoutError"
        after = {row.reason: row.count for row in c.rows("drops")}
        assert after["not-overlay"] > before.get("not-overlay", 0)
    finally:
        b.inside("ip", "addr", "del", "10.99.0.9/32", "dev", "lo")


def test_rules_and_routes_go_with_the_announcement(line: Line, machine: Machine) -> None:
    a, c = line.sites["a"], line.sites["c"]
    overlay = c.rows("site")[0].overlay4
    looked = c.inside("ip", "route", "get", machine.address, "from", overlay, check=False)
    assert "sk-" in looked.stdout
    a.write(listeners=[{"service": "web", "port": 8080}])
    a.reload()
    until(lambda: LAN not in {row.destination for row in c.rows("routes")}, 5, "withdrawn")
    until(c.at_rest, 5, "C at rest")
    looked = c.inside("ip", "route", "get", machine.address, "from", overlay, check=False)
    assert looked.returncode != 0, "nothing from the overlay leaves by the host's other routes"
    assert c.inside("ip", "route", "show", "table", "7401", check=False).stdout == ""
