"""What a host tells of itself: addresses, carriers, listening sockets, connects in vain."""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skedge.core.objects import Target
from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf import link_table, packet_check
from skedge.dataplane.ending import sockets
from skedge.dataplane.host import boot, host_addresses, sock_diag, surroundings
from skedge.dataplane.host import watch as watching

from .kit import ENDPOINT_PORTS, Namespace, Site, client, listen


@pytest.fixture
def watch(site: Site) -> Iterator[watching.HostWatch]:
    made = site.ns(watching.HostWatch)
    yield made
    made.close()


def wait(what, seconds: float = 2.0) -> bool:
    return bool(select.select([what], [], [], seconds)[0])


def test_what_the_kernel_takes_in_itself(site: Site) -> None:
    site.ns.ip("route", "add", "local", "198.51.100.0/24", "dev", "lo")  # any address of it is the host's
    site.ns.ip("addr", "add", "fd91::1/64", "dev", "under0", "nodad")
    try:
        found = site.ns(host_addresses.local, site.netlink)
    finally:
        site.ns.ip("route", "del", "local", "198.51.100.0/24", "dev", "lo")
        site.ns.ip("addr", "del", "fd91::1/64", "dev", "under0")
    assert {"10.91.0.1/32", "10.91.0.255/32", "198.51.100.0/24", "fd91::1/128"} <= found
    assert not [one for one in found if one.startswith(("127.", "::1", "fe80", "ff"))]


def test_what_is_around_a_host(site: Site, tmp_path: Path) -> None:
    resolvers = tmp_path / "resolv.conf"
    resolvers.write_text("search x\nnameserver 100.100.2.136\nnameserver fe80::1%eth0\nnameserver bad\n")
    site.ns.sh("ip route add default via 10.91.0.9; ip route add 10.7.0.0/16 via 10.91.0.8")
    site.ns.sh("ip route add 10.33.0.0/16 via 10.91.0.7 table 7400")
    try:
        asked = ("10.91.0.0/24", "10.7.3.0/24", "10.0.0.0/8", "192.0.2.0/24", "fd91::/64")
        found = site.ns(surroundings.read, asked, (), (resolvers, tmp_path / "none"))
    finally:
        site.ns.sh("ip route flush table 7400; ip route del default; ip route del 10.7.0.0/16")
    assert found.led == {
        "10.91.0.0/24": "10.91.0.0/24", "10.7.3.0/24": "10.7.0.0/16", "10.0.0.0/8": "", "192.0.2.0/24": "",
        "fd91::/64": "",
    }  # fmt: skip
    resolver, gateway = "a resolver of this host", "a gateway of this host"
    assert found.beside == {"100.100.2.136": resolver, "fe80::1": resolver, "10.91.0.9": gateway}


OUR_WAY = "ip -{v} route add {to} via {hop} table 7400; ip -{v} route add unreachable {to} metric 65535; "
TAILSCALE = "ip -{v} rule add pref 5270 lookup 52; "
NETBIRD = "ip -{v} rule add pref 105 lookup main suppress_prefixlength 0; "


@pytest.mark.parametrize("v", [4, 6])
@pytest.mark.parametrize(
    ("theirs", "astray"),
    [
        ("", ""),
        (TAILSCALE + "ip -{v} route add {other} dev under0 table 52", ""),
        (TAILSCALE + "ip -{v} route add {to} dev under0 table 52", "to table 52, device under0"),
        (TAILSCALE + "ip -{v} route add default dev under0 table 52", "to table 52, device under0"),
        (NETBIRD, "nowhere"),
        ("ip -{v} rule add pref 32765 lookup 52; ip -{v} route add default dev under0 table 52", ""),
    ],
)
def test_other_vpns_rules_that_lead_sites_astray(site: Site, v: int, theirs: str, astray: str) -> None:
    words = {4: {"to": "100.104.7.2", "other": "100.90.0.1", "hop": "10.91.0.7"},
             6: {"to": "fd12::2", "other": "fd13::1", "hop": "fd91::7"}}[v]  # fmt: skip
    site.ns.sh("ip addr add fd91::1/64 dev under0 nodad")
    had = site.ns.sh(f"ip -{v} rule | wc -l")
    try:
        site.ns.sh((OUR_WAY + theirs).format(v=v, **words))
        if "lookup 7400" not in site.ns.sh(f"ip -{v} rule"):
            site.ns.sh(f"ip -{v} rule add pref 7400 lookup 7400")
        found = site.ns(surroundings.read, (), (words["to"],), ())
    finally:
        site.ns.sh(f"for n in 105 5270 7400 32765; do ip -{v} rule del pref $n || true; done 2>/dev/null;"
                   f"ip -{v} route flush table 52; ip -{v} route flush table 7400 2>/dev/null || true;"
                   f"ip -{v} route del unreachable {words['to']}; ip addr del fd91::1/64 dev under0")  # fmt: skip
    assert site.ns.sh(f"ip -{v} rule | wc -l") == had
    assert found.astray == ({words["to"]: astray} if astray else {})


def test_rules_by_mark(site: Site) -> None:
    rules = (
        ("-4", "fwmark 0x2/0xff lookup 100"), ("-6", "fwmark 0x3 lookup 70000"),
        ("-4", "fwmark 0x80000/0xff0000 lookup main"),
        ("-4", "fwmark 0x7000138b lookup 1879053195"), ("-4", "not fwmark 0xca6c lookup 51820"),
        ("-4", "from 10.9.0.1 lookup 101"),
    )  # fmt: skip
    for family, rule in rules:
        site.ns.sh(f"ip {family} rule add {rule}")
    try:
        found = site.ns(surroundings.read, (), (), ())
    finally:
        for family, rule in rules:
            site.ns.sh(f"ip {family} rule del {rule}")
    assert found.marked == {"0x2/0xff": 100, "0x3/0xffffffff": 70000}


def test_ephemeral_ports_are_what_is_neither_reserved_nor_ours(tmp_path: Path) -> None:
    (tmp_path / "ip_local_port_range").write_text("32768\t60999\n")
    (tmp_path / "ip_local_reserved_ports").write_text("40000,50000-50010,61000-65535\n")
    found = packet_check.ephemeral_ports((61000, 62999), (63000, 65535), settings=tmp_path)
    assert found == ((32768, 39999), (40001, 49999), (50011, 60999))
    (tmp_path / "ip_local_port_range").write_text("1024 65535")
    (tmp_path / "ip_local_reserved_ports").write_text("\n")
    found = packet_check.ephemeral_ports((61000, 62999), (63000, 65535), settings=tmp_path)
    assert found == ((1024, 60999),)
    flags = packet_check.ephemeral_flags(found)
    assert (flags >> 16 & 255, flags >> 24) == (4, 234), "ports 1024 to 60927, in blocks of 256"
    assert packet_check.ephemeral_flags(()) == packet_check.ephemeral_flags(((5, 9),)) == 0
    assert packet_check.ephemeral_ports((1, 2), settings=tmp_path / "none") == ()


def test_addresses_come_and_go(site: Site, watch: watching.HostWatch) -> None:
    before = site.ns(host_addresses.addresses, site.netlink)
    assert {"127.0.0.1/8", "::1/128", "10.91.0.1/24"} <= before
    assert not [address for address in before if address.startswith("fe80")]
    site.ns.ip("addr", "add", "192.0.2.5/24", "dev", "under0")
    assert wait(watch)
    assert watch.read().addresses
    assert site.ns(host_addresses.addresses, site.netlink) - before == {"192.0.2.5/24"}
    site.ns.ip("addr", "del", "192.0.2.5/24", "dev", "under0")
    assert wait(watch)
    assert watch.read().addresses
    assert watch.read() == watching.Changes()


def test_prefixes_that_become_the_hosts_own(site: Site, watch: watching.HostWatch) -> None:
    found = site.ns(host_addresses.host_prefixes)
    for what in ("add", "del"):
        watch.read()
        site.ns.ip("route", what, "local", "10.9.0.0/24", "dev", "lo")
        assert wait(watch)
        assert watch.read().objects
        assert site.ns(host_addresses.host_prefixes) == (found | {"10.9.0.0/24"} if what == "add" else found)
    site.ns.ip("route", "add", "10.9.0.0/24", "dev", "lo")
    assert not watch.read().compare, "a plain route"
    site.ns.ip("route", "del", "10.9.0.0/24", "dev", "lo")


def test_carrier_of_our_devices(site: Site, watch: watching.HostWatch) -> None:
    site.ns.sh("ip link add sk-w0 type veth peer name sk-w1; ip link set sk-w0 up; ip link set sk-w1 up")
    time.sleep(0.1)
    assert watch.read().carriers == {"sk-w0": True, "sk-w1": True}
    assert site.ns(host_addresses.carriers, site.netlink) == {"sk-w0": True, "sk-w1": True}
    site.ns.ip("link", "set", "sk-w1", "down")
    assert wait(watch)
    time.sleep(0.1)
    assert watch.read().carriers == {"sk-w0": False, "sk-w1": False}
    site.ns.ip("link", "del", "sk-w0")
    assert wait(watch)
    time.sleep(0.1)
    assert watch.read().carriers == {"sk-w0": False, "sk-w1": False}
    assert site.ns(host_addresses.carriers, site.netlink) == {}


def test_devices_come_change_and_go(site: Site, watch: watching.HostWatch) -> None:
    def told(*command: str) -> bool:
        site.ns.ip(*command)
        time.sleep(0.1)
        return watch.read().devices

    assert told("link", "add", "w0", "type", "veth", "peer", "name", "w1")
    assert told("link", "add", "w2", "type", "bridge")
    assert told("link", "set", "w0", "master", "w2")
    told("link", "set", "w0", "up")
    assert not told("link", "set", "w0", "mtu", "1400"), "it is the same device"
    assert told("link", "set", "w0", "nomaster")
    assert told("link", "set", "w1", "name", "w3")
    assert told("link", "del", "w0")
    assert told("link", "del", "w2")
    assert not watch.read().devices


def test_a_closed_listener_is_told_and_a_closed_connection_is_not(site: Site) -> None:
    one, two = site.ns(listen, "127.0.0.1", 9300), site.ns(listen, "::", 9301)
    watch = site.ns(sock_diag.ListenWatch, 0.05)
    try:
        mine = site.ns(socket.create_connection, ("127.0.0.1", 9300))
        one.accept()[0].close()
        mine.close()
        assert site.ns(watch.read) == frozenset()
        one.close()
        two.close()
        started = time.monotonic()
        assert wait(watch)
        assert site.ns(watch.read) == {Target("127.0.0.1", 9300), Target("::", 9301)}
        assert time.monotonic() - started < 0.3
        assert site.ns(watch.read) == frozenset()
    finally:
        watch.close()


def test_connects_towards_a_withdrawn_endpoint_end_at_once(site: Site) -> None:
    site.ns.ip("route", "add", "203.0.113.0/24", "dev", "under0")
    site.ns.ip("neigh", "add", "203.0.113.5", "lladdr", "02:00:00:00:00:77", "dev", "under0")
    try:
        waiting = [site.ns(client, "203.0.113.5") for _ in range(3)]
        for one, port in zip(waiting, (61000, 61000, 61001), strict=True):
            one.setblocking(False)
            assert one.connect_ex(("203.0.113.5", port)) == errno.EINPROGRESS
        with site.ns(listen, "127.0.0.1", 9300) as server:
            established = site.ns(socket.create_connection, ("127.0.0.1", 9300))
            accepted, _ = server.accept()
            targets = [Target("203.0.113.5", 61000), Target("127.0.0.1", 9300)]
            assert site.ns(sockets.abort_connecting, targets) == 2
            assert [one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for one in waiting] == [
                errno.ECONNABORTED,
                errno.ECONNABORTED,
                0,
            ]
            established.sendall(b"still")
            assert accepted.recv(5) == b"still"
            accepted.close()
            established.close()
        assert site.ns(sockets.abort_connecting, targets) == 0
        assert site.ns(sockets.abort_connecting, []) == 0
        for one in waiting:
            one.close()
    finally:
        site.ns.ip("route", "del", "203.0.113.0/24")


def test_the_values_fit_the_maps(site: Site) -> None:
    sizes = {
        "link_config_v2": (4, len(site.config.pack())),
        "link_table_v2": (4, link_table.ENTRY.size),
        "endpoint_marks_v1": (4, 4),
        "link_drops_v2": (4, 8),
        "endpoints_v1": (4, 152),
        "endpoint_sources_v1": (20, 2),
    }
    for name, (key, value) in sizes.items():
        with syscall.Fd(syscall.obj_get(f"{site.pin_dir}/{name}")) as fd:
            info = syscall.map_info(fd)
        assert (info.key_size, info.value_size) == (key, value), name
    with syscall.Fd(syscall.obj_get(f"{site.pin_dir}/link_config_v2")) as fd:
        raw = syscall.map_lookup(fd, bytes(4), len(site.config.pack()))
    assert raw is not None
    assert struct.unpack("=2H", raw[-8:-4]) == ENDPOINT_PORTS
    assert site.filter.configuration() == site.filter.wanted(site.config)


def test_what_loses_all_connections_is_named_by_the_network_namespace(site: Site) -> None:
    here, again, inside = boot.identity(), boot.identity(), site.ns(boot.identity)
    assert here == again
    assert len({here, inside, ""}) == 3
    other = Namespace("other")
    try:
        first = other(boot.identity)
    finally:
        other.close()
    other = Namespace("other")
    try:
        assert len({first, other(boot.identity), inside}) == 3, "one of the same name is another one"
    finally:
        other.close()
