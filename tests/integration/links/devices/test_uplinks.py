"""Two wireguard links between two hosts with two uplinks: each leaves by the uplink that has its local address."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from skedge.core import names
from skedge.core.model import LinkId
from skedge.core.objects import LinkDevice, Uplink, Way
from skedge.dataplane.routing import uplinks
from skedge.dataplane.routing.uplinks import UplinkDriver

from ..kit import Site, veth
from .wg import Go, kernel_has_wireguard

KERNEL_HAS_IT = kernel_has_wireguard()
# Both far ends are one address behind two routers, as seen over the internet.
FAR, FAR6 = "198.51.100.1", "2001:db8:51::1"
LOCALS = {4: ("10.96.1.1", "10.96.2.1"), 6: ("fd96:1::1", "fd96:2::1")}
PORTS = (5001, 5003)
MARKS = tuple(names.uplink_mark(port) for port in PORTS)


class World:
    """Site P with uplinks u0 and u1, the default route over u0; site Q at one address behind both."""

    def __init__(self, bpffs: Path) -> None:
        self.p = self.q = None  # type: ignore[assignment]
        self.processes: list[Go] = []
        try:
            self.p, self.q = Site("p", bpffs), Site("q", bpffs)
            self._underlay()
            for site in (self.p, self.q):
                site.put_base()
                if not KERNEL_HAS_IT:
                    self.processes += [Go(site.ns, site.sockets, self.device(site, n)) for n in (0, 1)]
            self.driver = UplinkDriver(self.p.netlink)
        except BaseException:
            self.close()
            raise

    def _underlay(self) -> None:
        for n in (0, 1):
            veth(self.p.ns, self.q.ns, f"u{n}", f"u{n}", f"10.96.{n + 1}.1/24", f"10.96.{n + 1}.2/24")
            for site, host in ((self.p, 1), (self.q, 2)):
                site.ns.ip("addr", "add", f"fd96:{n + 1}::{host}/64", "dev", f"u{n}", "nodad")
        self.p.ns.sh("sysctl -qw net.ipv6.conf.u1.keep_addr_on_down=1")  # the tests take u1 down and up
        self.q.ns.ip("addr", "add", f"{FAR}/32", "dev", "lo")
        self.q.ns.ip("addr", "add", f"{FAR6}/128", "dev", "lo", "nodad")
        self.p.ns.ip("route", "add", "default", "via", "10.96.1.2")
        self.p.ns.ip("-6", "route", "add", "default", "via", "fd96:1::2")

    def far(self, site: Site) -> Site:
        return self.q if site is self.p else self.p

    def device(self, site: Site, n: int) -> str:
        return site.device(self.far(site).name, f"way{n}")

    def wanted(self, site: Site, n: int, version: int, **more: object) -> LinkDevice:
        """Return one end's device; Q is told where P is, by P's packets."""
        remote = (FAR if version == 4 else FAR6) if site is self.p else ""
        port, far_port = (PORTS[n], PORTS[n] + 1) if site is self.p else (PORTS[n] + 1, 0)
        base = site.wg(self.far(site), port, remote, far_port, keepalive_s=1 if site is self.p else 0)
        mark = MARKS[n] if site is self.p else 0
        return replace(base, link=LinkId.between("p", "q", f"way{n}"), **{"mark": mark, **more})

    def put_links(self, version: int, **more: object) -> None:
        for site in (self.q, self.p):
            for n in (0, 1):
                changes = more if site is self.p else {}
                site.ns(site.links.put, self.device(site, n), self.wanted(site, n, version, **changes))

    def look(self, n: int, version: int) -> Uplink:
        far_ends = self.p.ns(self.p.links.far_ends, self.device(self.p, n), self.wanted(self.p, n, version))
        return self.p.ns(uplinks.wanted, self.p.netlink, LOCALS[version][n], far_ends)

    def put_uplinks(self, version: int) -> None:
        for n in (0, 1):
            self.p.ns(self.driver.put, MARKS[n], self.look(n, version))

    def ping(self, n: int) -> bool:
        far = f"{self.q.link_local}%{self.device(self.p, n)}"
        return "1 received" in self.p.ns.sh(f"ping -6 -c1 -W1 {far}", check=False)

    def sent(self, device: str) -> int:
        return int(re.findall(r"TX:.*?\n\s*\d+\s+(\d+)", self.p.ns.ip("-s", "link", "show", device))[0])

    def leaves_by(self, n: int) -> str:
        """Return the uplink that 20 probes of a link leave by."""
        before = [self.sent(f"u{one}") for one in (0, 1)]
        far = f"{self.q.link_local}%{self.device(self.p, n)}"
        answer = self.p.ns.sh(f"ping -6 -c20 -i0.01 -W1 {far}", check=False)
        assert " 0% packet loss" in answer, answer
        more = [self.sent(f"u{one}") - old for one, old in zip((0, 1), before, strict=True)]
        assert max(more) >= 20, more
        assert min(more) < 20, more
        return f"u{more.index(max(more))}"

    def close(self) -> None:
        for process in self.processes:
            process.close()
        for site in (self.p, self.q):
            if site is not None:
                site.close()


@pytest.fixture(scope="module")
def world(bpffs: Path) -> Iterator[World]:
    made = World(bpffs)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def as_it_was(world: World) -> Iterator[None]:
    yield
    ns = world.p.ns
    for mark in ns(world.driver.read):
        ns(world.driver.delete, mark)
    assert ns(world.driver.read) == {}
    for family in ("-4", "-6"):
        for mark in MARKS:
            assert ns.ip(family, "route", "show", "table", str(mark), check=False) == ""
        ns.sh(f"ip {family} rule del pref 100 2>/dev/null; ip {family} route flush table 50; true")
        ns.sh(f"ip {family} route del default metric 5000 2>/dev/null; true")
    ns.ip("link", "set", "u1", "up")
    for n in (0, 1):
        for site in (world.p, world.q):
            site.ns(site.links.delete, world.device(site, n))
            if not KERNEL_HAS_IT:
                world.processes = [one for one in world.processes if not one.ends(world.device(site, n))]
                world.processes.append(Go(site.ns, site.sockets, world.device(site, n)))


def until(world: World) -> None:
    deadline = time.monotonic() + 30
    while not (world.ping(0) and world.ping(1)):
        assert time.monotonic() < deadline, "links are not up"


def source_routing(world: World, version: int) -> None:
    """As operators have it with two uplinks: a rule for the second one's address."""
    ns, gateway = world.p.ns, "10.96.2.2" if version == 4 else "fd96:2::2"
    ns.ip(f"-{version}", "rule", "add", "pref", "100", "from", LOCALS[version][1], "lookup", "50")
    ns.ip(f"-{version}", "route", "add", "default", "via", gateway, "table", "50")


def second_default(world: World, version: int) -> None:
    """A second default route, behind the first."""
    gateway = "10.96.2.2" if version == 4 else "fd96:2::2"
    world.p.ns.ip(f"-{version}", "route", "add", "default", "via", gateway, "dev", "u1", "metric", "5000")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("routing", [source_routing, second_default])
def test_each_link_leaves_by_the_uplink_of_its_local_address(world: World, version: int, routing) -> None:
    routing(world, version)
    world.put_uplinks(version)
    world.put_links(version)
    world.put_uplinks(version)
    until(world)
    assert [world.leaves_by(n) for n in (0, 1)] == ["u0", "u1"]
    held = world.p.ns(world.driver.read)
    assert held == {MARKS[n]: world.look(n, version) for n in (0, 1)}
    assert [held[mark].local for mark in MARKS] == list(LOCALS[version])
    assert world.p.ns(world.driver.strays) == {}
    for n in (0, 1):
        device = world.device(world.p, n)
        assert world.p.ns(world.p.links.read)[device] == world.wanted(world.p, n, version)


def test_without_a_mark_both_leave_by_the_default_route(world: World) -> None:
    """The fault that marks are for."""
    source_routing(world, 4)
    world.put_uplinks(4)
    world.put_links(4, mark=0)
    until(world)
    assert [world.leaves_by(n) for n in (0, 1)] == ["u0", "u0"]


def test_an_uplink_without_a_route_of_its_own_is_named(world: World) -> None:
    world.put_uplinks(4)
    assert world.p.ns(world.driver.read)[MARKS[1]] == Uplink("10.96.2.1", (Way(f"{FAR}/32", "u0", "10.96.1.2"),))
    assert world.p.ns(world.driver.strays) == {MARKS[1]: "u0"}


def test_an_uplink_that_comes_back_has_its_link_again(world: World) -> None:
    """While it is down the host's own rules decide, as for any packet from that address; that is named."""
    source_routing(world, 4)
    world.put_links(4)
    world.put_uplinks(4)
    until(world)
    world.p.ns.ip("link", "set", "u1", "down")
    world.put_uplinks(4)
    assert world.p.ns(world.driver.strays) == {MARKS[1]: "u0"}
    world.p.ns.ip("link", "set", "u1", "up")
    world.p.ns.ip("route", "replace", "default", "via", "10.96.2.2", "table", "50")
    world.put_uplinks(4)
    until(world)
    deadline = time.monotonic() + 20
    while [world.leaves_by(n) for n in (0, 1)] != ["u0", "u1"]:
        assert time.monotonic() < deadline, "the link does not go back to its uplink"
        world.p.ns(world.p.wireguard.tend)


def test_an_address_that_the_host_has_not_leads_nowhere(world: World) -> None:
    far_ends = {FAR}
    nowhere = world.p.ns(uplinks.wanted, world.p.netlink, "10.96.9.9", far_ends)
    assert nowhere == Uplink("", (Way(f"{FAR}/32"),))
    world.p.ns(world.driver.put, MARKS[0], nowhere)
    assert world.p.ns(world.driver.read) == {MARKS[0]: nowhere}


def test_what_others_delete_is_a_difference_and_is_put_back(world: World) -> None:
    world.put_uplinks(4)
    want = world.look(0, 4)
    for fault in (
        f"ip rule del fwmark {MARKS[0]}",
        f"ip -6 rule del fwmark {MARKS[0]}",
        f"ip route flush table {MARKS[0]}",
        f"ip route change {FAR} via 10.96.2.2 table {MARKS[0]}",
        f"ip route add 198.51.100.7 dev u1 proto 74 table {MARKS[0]}",
    ):
        world.p.ns.sh(fault)
        assert world.p.ns(world.driver.read).get(MARKS[0]) != want, fault
        world.p.ns(world.driver.put, MARKS[0], want)
        assert world.p.ns(world.driver.read)[MARKS[0]] == want, fault
