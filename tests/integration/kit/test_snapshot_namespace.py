"""The judge from outside in a real namespace: each kind of object made by hand is told, and nothing else is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.snapshot import Snapshot

pytestmark = [pytest.mark.needs_root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
Place = tuple[str, Path]

FILTER = "tc qdisc add dev v0 clsact; tc filter add dev v0 ingress pref 74 bpf bytecode '1,6 0 0 0' flowid 1:1"
CLSACT = ("qdisc", "v0", "clsact", "ffff:fff1", "ffff:")
TABLE = "nft 'add table inet t; add chain inet t c { type filter hook input priority 0; policy accept; }'"
MAP = "bpftool map create {pins}/config_v1 type array key 4 value 88 entries 1 name mine"

# what is there before, what is done, and what is told of it
CASES: dict[str, tuple[str, str, list[tuple[Any, ...]]]] = {
    "a device": ("", "ip link add b0 type bridge", [("link", "b0")]),
    "a device goes": ("ip link add b0 type bridge", "ip link del b0", [("link", "b0")]),
    "a vxlan": ("", "ip link add x0 type vxlan id 7 remote 10.1.0.2 dstport 4790", [("link", "x0")]),
    "an MTU": ("", "ip link set v0 mtu 1400", [("link", "v0")]),
    "an alias": ("", "ip link set v0 alias mine", [("link", "v0")]),
    "a master": ("ip link add b0 address 02:00:00:00:00:07 type bridge", "ip link set v0 master b0", [("link", "v0")]),
    "an address": ("", "ip addr add 10.2.0.1/24 dev v0", [("address", "10.2.0.1/24", "v0")]),
    "an address of IPv6": ("", "ip addr add fd00:2::1/64 dev v0 nodad", [("address", "fd00:2::1/64", "v0")]),
    "a link-local address": ("", "ip addr add fe80::74/64 dev v0 nodad", [("address", "fe80::74/64", "v0")]),
    "a route": ("", "ip route add 10.3.0.0/16 via 10.1.0.2 table 7400 proto 74", [("route", "10.3.0.0/16", 7400)]),
    "a route's cost": (
        "ip -6 route add fd00:3::/64 via fd00:1::2 metric 5",
        "ip -6 route change fd00:3::/64 via fd00:1::3 metric 5",
        [("route", "fd00:3::/64", 254)],
    ),
    "a next hop": (
        "ip route add 10.3.0.0/16 via 10.1.0.2",
        "ip route replace 10.3.0.0/16 nexthop via 10.1.0.2 nexthop via 10.1.0.3",
        [("route", "10.3.0.0/16", 254)],
    ),
    "an unreachable route": ("", "ip route add unreachable 10.4.0.0/16 proto 74", [("route", "10.4.0.0/16", 254)]),
    "a rule": (
        "",
        "ip rule add to 100.64.0.0/10 lookup 7400 pref 7400 protocol 74",
        [("rule", "ipv4", 7400, "dst 100.64.0.0 dstlen 10 src all")],
    ),
    "a rule of the kernel's goes": ("", "ip -6 rule del pref 32766", [("rule", "ipv6", 32766, "src all")]),
    "a neighbour": (
        "",
        "ip neigh add 10.1.0.7 lladdr 02:00:00:00:00:01 dev v0 nud permanent",
        [("neighbour", "10.1.0.7", "v0")],
    ),
    "a neighbour that is learnt": ("", "ip neigh add 10.1.0.7 lladdr 02:00:00:00:00:01 dev v0 nud reachable", []),
    "a filter": (
        "",
        FILTER,
        [("filter", "v0", "ingress", 74, "bpf", "0x1"), ("qdisc", "v0", "clsact", "ffff:fff1", "ffff:")],
    ),
    "a table": ("", "nft add table inet t", [("nft table", "inet", "t")]),
    "a chain": ("nft add table inet t", TABLE, [("nft chain", "inet", "t", "c")]),
    "a rule of nft": (TABLE, "nft add rule inet t c counter drop", [("nft chain", "inet", "t", "c")]),
    "a set": (
        TABLE,
        "nft 'add set inet t s { type ipv4_addr; elements = { 10.0.0.1 }; }'",
        [("nft set", "inet", "t", "s")],
    ),
    "the whole rule set goes": (
        TABLE,
        "nft flush ruleset",
        [("nft chain", "inet", "t", "c"), ("nft table", "inet", "t")],
    ),
    "a sysctl": ("", "sysctl -qw net.ipv4.conf.v0.rp_filter=2", [("sysctl", "net/ipv4/conf/v0/rp_filter")]),
    "a sysctl of the host": (
        "",
        "sysctl -qw net.ipv4.fib_multipath_hash_policy=1",
        [("sysctl", "net/ipv4/fib_multipath_hash_policy")],
    ),
    "forwarding of all": (
        "",
        "sysctl -qw net.ipv6.conf.all.forwarding=1",
        [("sysctl", "net/ipv6/conf/all/forwarding")],
    ),
    "a pin": ("", MAP, [("pin", "config_v1")]),
    "an entry": (
        MAP,
        f"bpftool map update pinned {{pins}}/config_v1 key 0 0 0 0 value {'7 ' * 88}",
        [("map entry", "config_v1", "0")],
    ),
    "an entry's spare bytes": (
        MAP + f" && bpftool map update pinned {{pins}}/config_v1 key 0 0 0 0 value 1 {'0 ' * 87}",
        f"bpftool map update pinned {{pins}}/config_v1 key 0 0 0 0 value 1 {'0 ' * 86} 9",
        [],
    ),
}


@pytest.fixture(scope="module")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    where = tmp_path_factory.mktemp("bpf")
    subprocess.run(["mount", "-t", "bpf", "skedge-kit-test", where], check=True)
    yield where
    subprocess.run(["umount", "-l", where], check=True)


@pytest.fixture
def place(bpffs: Path) -> Iterator[Place]:
    """A namespace with one cable in it, at rest, and a directory for pins."""
    name = f"skk{os.getpid()}"
    pins = bpffs / name
    pins.mkdir()
    subprocess.run(["ip", "netns", "add", name], check=True)
    made: Place = name, pins
    try:
        do(made, "ip link set lo up; sysctl -qw net.ipv6.conf.default.accept_dad=0")
        do(made, "ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up")
        do(made, "ip addr add 10.1.0.1/24 dev v0; ip addr add fd00:1::1/64 dev v0 nodad")
        yield made
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
        for pin in pins.iterdir():
            pin.unlink()
        pins.rmdir()


def do(place: Place, command: str) -> None:
    name, pins = place
    words = ["nsenter", f"--net=/run/netns/{name}", "sh", "-ec", command.replace("{pins}", str(pins))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def take(place: Place) -> Snapshot:
    return Snapshot.take(place[0], pin_dir=place[1])


@pytest.mark.parametrize("what", CASES)
def test_each_kind_of_object_is_told_and_nothing_else(place: Place, what: str) -> None:
    first, then, told = CASES[what]
    do(place, first)
    before = take(place)
    assert before.diff(take(place)) == ()
    do(place, then)
    changes = before.diff(take(place))
    assert [change.owner_hint for change in changes if not change.because] == told, "\n".join(map(str, changes))


def test_a_map_without_a_mask_is_refused(place: Place) -> None:
    do(place, "bpftool map create {pins}/new_v9 type array key 4 value 4 entries 1 name mine")
    with pytest.raises(AssertionError, match=r"new_v9: say in tests/kit/snapshot_maps\.py"):
        take(place)


def test_a_map_of_another_size_is_refused(place: Place) -> None:
    do(place, "bpftool map create {pins}/ports_v1 type array key 4 value 16 entries 1 name mine")
    with pytest.raises(AssertionError, match="not those of its mask"):
        take(place)


def test_a_namespace_of_a_process_is_the_same(place: Place) -> None:
    process = subprocess.Popen(["nsenter", f"--net=/run/netns/{place[0]}", "sleep", "60"])
    try:
        while os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            pass
        assert Snapshot.take(place[0]).diff(Snapshot.take(process.pid)) == ()
    finally:
        process.kill()
        process.wait()
