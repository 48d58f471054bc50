"""What a host forwards: packets between its links, and for nobody else because of us; a LAN machine behind B tries."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from skedge.core import names
from skedge.core.objects import ChainGroup
from skedge.dataplane.host.watch import HostWatch
from skedge.dataplane.links import driver
from skedge.dataplane.nftables import forward_guard
from skedge.dataplane.purge import purge
from skedge.dataplane.routing import ipv6_forwarding

from .conftest import Line
from .kit import CIDR, KERNEL, NETWORK, Namespace, Site, client, listen, veth
from .test_line import PORT, WORKLOAD, connect, overlay, published

OPERATOR = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
UNDERLAY = {4: "10.92.2.2", 6: "fd92:2::2"}
SEEN = 5000
SETTINGS = "sysctl -a 2>/dev/null | grep -E '(forwarding|ip_forward|accept_ra) =' | grep -v 'conf.sk-'"


class House:
    """The line, and a machine on a LAN of site B that takes B for its router."""

    def __init__(self, line: Line) -> None:
        self.line, self.b, self.lan = line, line.b, Namespace("lan")
        veth(self.b.ns, self.lan, "lan0", "eth0", "10.95.0.1/24", "10.95.0.2/24")
        self.b.ns.sh("ip addr add fd95::1/64 dev lan0 nodad; ip addr add fd92:2::1/64 dev u1 nodad")
        self.line.c.ns.sh(f"ip addr add {UNDERLAY[6]}/64 dev u0 nodad")
        self.lan.sh("ip addr add fd95::2/64 dev eth0 nodad; ip route add default via 10.95.0.1")
        self.lan.sh("ip -6 route add default via fd95::1")
        for place in (self.b.ns, self.lan):  # before that a device says nothing from its link-local address
            place.sh("for _ in $(seq 100); do ip -6 addr show tentative | grep -q . || exit 0; sleep 0.1; done; exit 1")

    def reaches(self, address: str, port: int = SEEN, at: Namespace | None = None) -> bool:
        """Return whether a datagram of the LAN machine arrives at a socket of that address."""
        with (
            (at or self.line.c.ns)(listen, address, port, socket.SOCK_DGRAM) as server,
            self._sender(address) as sender,
        ):
            server.settimeout(1.5)  # a neighbour may have to be found, on a busy machine
            for _ in range(3):
                self.lan(sender.sendto, b"x", (address, port))
            with suppress(TimeoutError):
                return server.recv(10) == b"x"
        return False

    def _sender(self, address: str) -> socket.socket:
        return self.lan(client, address, socket.SOCK_DGRAM)

    def close(self) -> None:
        for setting in OPERATOR.values():
            self.b.ns.sh(f"sysctl -qw {setting}=0")
        self.b.ns.sh("ip link del lan0")
        self.lan.close()


@pytest.fixture(scope="module")
def built(line: Line) -> Iterator[House]:
    made = House(line)
    yield made
    made.close()
    fresh(line.b)
    line.b.ns(line.b.forwarding.ensure, transit=True)  # as the line was built, for the tests of other files
    repair(line.b)


@pytest.fixture(params=["this kernel", "one switch"])
def house(request: pytest.FixtureRequest, built: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """B as after a boot with this kernel; and as with one that has but the host's switch for IPv6."""
    if request.param == "one switch":
        for module in (ipv6_forwarding, driver):
            monkeypatch.setattr(module, "per_device_forwarding6", lambda: False)
    fresh(built.b)
    built.b.ns(built.b.forwarding.ensure, transit=True)
    repair(built.b)
    return built


@pytest.fixture
def one_switch(built: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """B before the switch is thrown, on a kernel that has but this one."""
    for module in (ipv6_forwarding, driver):
        monkeypatch.setattr(module, "per_device_forwarding6", lambda: False)
    fresh(built.b)
    return built


def fresh(site: Site) -> None:
    site.ns(site.forwarding.undo)
    for setting in OPERATOR.values():
        site.ns.sh(f"sysctl -qw {setting}=0")
    site.ns.sh("nft delete table inet skedge 2>/dev/null; true")
    site.nft.forget()
    repair(site)


def closing(site: Site, *devices: str) -> dict[str, ChainGroup]:
    return {forward_guard.NAME: forward_guard.group(set(devices), site.config)}


def not_forwarded(site: Site) -> int:
    return site.nft.packets("test").get(forward_guard.COUNTER, 0)


def repair(site: Site) -> bool:
    """Do what the next reconcile does to the links of B; return whether there was anything to do."""
    wanted = {
        site.device("a"): site.vxlan("a", "10.92.1.2", "10.92.1.1"),
        site.device("c"): site.vxlan("c", "10.92.2.1", "10.92.2.2"),
    }
    have = site.ns(site.links.read)
    for key, value in wanted.items():
        if have[key] != value:
            site.ns(site.links.put, key, value)
    assert site.ns(site.links.read) == wanted
    return have != wanted


def transits(house: House, v: int) -> None:
    """A's connection reaches C by way of B."""
    a, c = house.line.a, house.line.c
    with published(c, "127.0.0.1" if v == 4 else "::1"), c.ns(listen, "::", WORKLOAD) as server:
        for end in connect(a, overlay(c, v), PORT, server):
            end.close()


@pytest.mark.parametrize("v", [4, 6])
def test_packets_between_links_pass_and_the_lans_do_not(house: House, v: int) -> None:
    assert house.b.ns.sh("sysctl -n net.ipv4.ip_forward").strip() == "0"
    transits(house, v)
    assert not house.reaches(UNDERLAY[v])
    before = house.line.c.drops().get("NOT_OVERLAY", 0)
    assert not house.reaches(overlay(house.line.c, v))
    assert house.line.c.drops().get("NOT_OVERLAY", 0) == before, "it went into the link"


@pytest.mark.skipif(KERNEL < (6, 17), reason="before Linux 6.17 the host has but one switch")
def test_the_hosts_switch_is_left_alone_where_devices_have_their_own(built: House) -> None:
    fresh(built.b)
    before = built.b.ns.sh(SETTINGS)
    assert built.b.ns(built.b.forwarding.ensure, transit=True)
    assert not built.b.ns(built.b.forwarding.ensure, transit=True)
    assert built.b.ns.sh(SETTINGS) == before
    assert not built.b.ns(built.b.forwarding.undo)


@pytest.mark.parametrize("v", [4, 6])
def test_a_router_of_the_operators_goes_on_routing_but_not_into_links(built: House, v: int) -> None:
    b, c = built.b, built.line.c
    fresh(b)
    b.ns.sh(f"sysctl -qw {OPERATOR[v]}=1")
    b.ns(b.forwarding.ensure, transit=True)
    repair(b)
    assert b.ns.sh(f"sysctl -n {OPERATOR[v]}").strip() == "1"
    assert built.reaches(UNDERLAY[v])
    refused, arrived = b.ns(not_forwarded, b), c.drops().get("NOT_OVERLAY", 0)
    assert not built.reaches(overlay(c, v))
    assert b.ns(not_forwarded, b) == refused + 3
    assert c.drops().get("NOT_OVERLAY", 0) == arrived
    transits(built, v)
    b.ns(b.forwarding.undo)
    assert b.ns.sh(f"sysctl -n {OPERATOR[v]}").strip() == "1", "what the operator had on stays on"


@pytest.mark.parametrize("v", [4, 6])
@pytest.mark.parametrize("values", ["1 0", "1"])
def test_an_operator_who_throws_the_switch_is_noticed_and_links_go_on(house: House, v: int, values: str) -> None:
    b = house.b
    watch = b.ns(HostWatch)
    try:
        watch.read()
        for value in values.split():
            b.ns.sh(f"sysctl -qw {OPERATOR[v]}={value}")
        switched = b.ns(ipv6_forwarding.read_sysctl6, "all", "forwarding")
        assert watch.read().forwarding or (v == 6 and switched == "1")  # on it was already
        assert not watch.read().forwarding
        b.ns(b.forwarding.ensure, transit=True)
        repair(b)
        watch.read()
        assert not b.ns(b.forwarding.ensure, transit=True)
        assert not repair(b)
        assert not watch.read().forwarding
    finally:
        watch.close()
    transits(house, v)


def test_closed_devices_are_those_of_the_host_and_not_a_container_bridge(one_switch: House) -> None:
    """Docker's bridge is there before, another comes later: the LAN reaches what is behind both, when it is routed."""
    b = one_switch.b
    boxes = [Namespace("box0"), Namespace("box1")]
    try:
        bridge(b, boxes[0], "docker0", "fd96::")
        b.ns(b.forwarding.ensure, transit=True)
        assert b.ns(b.chains.read) == closing(b, "u0", "u1", "lan0", "docker0p")
        bridge(b, boxes[1], "later", "fd97::")
        b.nft.forget()
        assert not b.ns(b.forwarding.ensure, transit=True)
        assert one_switch.reaches("fd96::2", at=boxes[0])
        assert one_switch.reaches("fd97::2", at=boxes[1])
        assert not one_switch.reaches(UNDERLAY[6])
    finally:
        for box in boxes:
            box.close()
        b.ns.sh("ip link del docker0; ip link del later", check=False)


def bridge(site: Site, box: Namespace, name: str, network: str) -> None:
    """Put a box behind a bridge of its own, as container software does."""
    site.ns.sh(
        f"ip link add {name} type bridge; sysctl -qw net.ipv6.conf.{name}.accept_dad=0;"
        f"ip addr add {network}1/64 dev {name} nodad; ip link set {name} up;"
        f"ip link add {name}p type veth peer name eth0 netns {box.name}; ip link set {name}p master {name} up"
    )
    box.sh(f"ip addr add {network}2/64 dev eth0 nodad; ip link set eth0 up; ip -6 route add default via {network}1")


def test_a_guard_that_was_flushed_comes_back_as_it_was(one_switch: House) -> None:
    b = one_switch.b
    b.ns(b.forwarding.ensure, transit=True)
    closed = b.ns(b.chains.read)
    assert closed == closing(b, "u0", "u1", "lan0")
    b.ns.sh("nft flush ruleset")
    b.nft.forget()
    assert b.ns(b.forwarding.ensure, transit=True)
    assert b.ns(b.chains.read) == closed
    assert not one_switch.reaches(UNDERLAY[6])


@contextmanager
def advertised(house: House) -> Iterator[None]:
    """A router on the LAN tells B that it is the way out, as on a network with SLAAC."""
    with house.lan(socket.socket, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as router:
        router.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        index = house.lan(socket.if_nametoindex, "eth0")
        for _ in range(2):
            house.lan(router.sendto, struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 9, 0, 0), ("ff02::1", 0, 0, index))
            time.sleep(0.1)
    yield
    house.b.ns.sh("ip -6 route flush default", check=False)


def default_routes(site: Site) -> list[str]:
    return [route["dev"] for route in json.loads(site.ns.ip("-6", "-j", "route", "show", "default") or "[]")]


def test_a_host_that_listens_to_advertisements_keeps_its_way_out(one_switch: House) -> None:
    b = one_switch.b
    with advertised(one_switch):
        assert default_routes(b) == ["lan0"], "the test's router is heard"
        b.ns(b.forwarding.ensure, transit=True)
        assert b.ns.sh("sysctl -n net.ipv6.conf.all.forwarding").strip() == "1"
        assert default_routes(b) == ["lan0"]
    assert default_routes(b) == []
    with advertised(one_switch):
        assert default_routes(b) == ["lan0"], "and heard afterwards"
    assert b.ns.sh("sysctl -n net.ipv6.conf.default.accept_ra").strip() == "2"


def test_what_was_changed_is_taken_back(one_switch: House) -> None:
    b = one_switch.b
    b.ns.sh("sysctl -qw net.ipv6.conf.u0.forwarding=1 net.ipv6.conf.u1.accept_ra=0")
    try:
        before = b.ns.sh(SETTINGS)
        assert b.ns(b.forwarding.ensure, transit=True)
        assert b.ns.sh(SETTINGS) != before
        assert "u1.accept_ra = 0" in b.ns.sh(SETTINGS)
        b.ns.sh("sysctl -qw net.ipv6.conf.all.forwarding=0")  # somebody throws it back: it is thrown again
        assert b.ns(b.forwarding.ensure, transit=True)
        assert b.ns(b.forwarding.undo)
        assert b.ns.sh(SETTINGS) == before
        assert not b.ns(b.forwarding.undo)
    finally:
        b.ns.sh("sysctl -qw net.ipv6.conf.u0.forwarding=0 net.ipv6.conf.u1.accept_ra=1")


def test_a_site_that_passes_nothing_on_needs_no_switch(one_switch: House) -> None:
    b = one_switch.b
    before = b.ns.sh(SETTINGS)
    assert b.ns(b.forwarding.ensure, transit=False)
    assert b.ns.sh(SETTINGS) == before
    assert b.ns(b.chains.read) == closing(b)


@pytest.mark.parametrize(
    "text", ["{", '{"where": "another boot 1", "closed": ["u0"], "listening": [], "forwarding": []}']
)
def test_the_memory_of_another_boot_is_not_believed(one_switch: House, text: str) -> None:
    b = one_switch.b
    (b.state / ipv6_forwarding.MEMORY).write_text(text)
    b.ns.sh("sysctl -qw net.ipv6.conf.all.forwarding=1")
    b.ns(b.forwarding.ensure, transit=True)
    assert b.ns(b.chains.read) == closing(b)
    assert not b.ns(b.forwarding.undo)
    (b.state / ipv6_forwarding.MEMORY).unlink()


def test_purge_throws_the_switch_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipv6_forwarding, "per_device_forwarding6", lambda: False)
    before = site.ns.sh(SETTINGS)
    site.ns(site.forwarding.ensure, transit=True)
    overlays = (CIDR, names.overlay_prefix6(NETWORK))
    assert site.ns(purge, site.netlink, overlays, site.state) == ["forwarding ipv6", "table inet skedge"]
    assert site.ns.sh(SETTINGS) == before
    assert site.ns(purge, site.netlink, overlays, site.state) == []
