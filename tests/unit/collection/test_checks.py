"""What pre-flight finds on a host, from what the host's own tools print."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.skedge.edge.plugins.module_utils import checks, sockets

PACKAGES = yaml.safe_load((Path(__file__).parents[3] / "roles/skedge/vars/main.yml").read_text())["__skedge_packages"]
READY = {
    "uid": 0, "kernel": "6.1.0", "btf": True, "cgroup2": True, "ipv6": True, "systemd": True, "python": (3, 11),
    "engine": "auto", "ipvs": False,
}  # fmt: skip
SITE = {
    "listeners": [{"service": "backend", "port": 8080}],
    "links": [{"to": "edge-b", "local": "10.0.0.1", "remote": "10.0.0.2"}],
}


# ---- the kernel ------------------------------------------------------------------------------------------------


def test_a_ready_host_has_no_problem():
    assert checks.kernel(READY) == []


@pytest.mark.parametrize("host", [{"btf": False, "ipvs": True}, {"cgroup2": False, "ipvs": True, "engine": "ipvs"}])
def test_what_only_the_engine_ebpf_needs_may_lack_where_ipvs_serves(host: dict[str, Any]):
    assert checks.kernel({**READY, **host}) == []


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"engine": "ebpf", "ipvs": True, "btf": False}, "has no BTF"),
        ({"engine": "ipvs"}, "has no IPVS (module ip_vs); install it, or set skedge_engine: ebpf"),
    ],
)
def test_an_engine_that_cannot_serve_is_one_sentence(host: dict[str, Any], words: str):
    (problem,) = checks.kernel({**READY, **host})
    assert words in problem


@pytest.mark.parametrize(
    ("lacks", "words"),
    [
        ({"uid": 1000}, "runs as user id 1000; set ansible_become: true"),
        ({"btf": False}, "has no BTF (/sys/kernel/btf/vmlinux); boot one with CONFIG_DEBUG_INFO_BTF"),
        ({"cgroup2": False}, "no cgroup2 is mounted; boot with"),
        ({"ipv6": False}, "without IPv6, which links need; remove ipv6.disable=1"),
        ({"systemd": False}, "systemd is not the init system"),
        ({"python": (3, 9)}, "/usr/bin/python3 is version 3.9; skedge needs 3.11"),
    ],
)
def test_what_the_host_lacks_is_one_sentence(lacks: dict[str, Any], words: str):
    (problem,) = checks.kernel({**READY, **lacks})
    assert words in problem


RELEASES = {
    "debian": ('ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"', "debian"),
    "ubuntu": ('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"', "ubuntu"),
    "mint": ('ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_ID="22"', "ubuntu"),
    "rocky9": ('ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"', "rhel9"),
    "rhel9": ('ID="rhel"\nID_LIKE="fedora"\nVERSION_ID="9.4"', "rhel9"),
    "alma10": ('ID="almalinux"\nID_LIKE="rhel centos fedora"\nVERSION_ID="10.0"', "rhel"),
    "fedora": ("ID=fedora\nVERSION_ID=41", "fedora"),
    "alpine": ("ID=alpine\nVERSION_ID=3.20.1\nPRETTY_NAME='Alpine Linux v3.20'", ""),
}


@pytest.mark.parametrize("name", RELEASES)
def test_which_packages_a_distribution_needs(name: str):
    text, family = RELEASES[name]
    words = checks.parse_release(text)[1]
    assert next((word for word in words if word in PACKAGES), "") == family


def test_an_unknown_distribution_is_one_sentence_unless_its_operator_installs_the_packages():
    name = checks.parse_release(RELEASES["alpine"][0])[0]
    (problem,) = checks.distribution(name, "", PACKAGES, managed=True)
    assert problem.startswith("Alpine Linux v3.20 is not among the distributions whose packages skedge knows (debian, ")
    assert problem.endswith("and set skedge_manage_packages: false")
    assert checks.distribution(name, "", PACKAGES, managed=False) == []
    assert checks.distribution(name, "debian", PACKAGES, managed=True) == []


def test_the_python_of_a_distribution_whose_own_is_too_old():
    assert checks.python_of(PACKAGES["rhel9"], (3, 9)) == ("/usr/bin/python3.11", (3, 11))
    assert checks.python_of(PACKAGES["debian"], (3, 11)) == ("/usr/bin/python3", (3, 11))
    assert checks.python_of({}, (3, 9)) == ("/usr/bin/python3", (3, 9))


@pytest.mark.parametrize(("skew", "words"), [(299, None), (301, "301 s ahead of"), (-4000, "4000 s behind")])
def test_clock(skew: int, words: str | None):
    found = checks.clock(1_000_000 + skew, 1_000_000)
    assert (words in found[0]) if words else not found


# ---- ports -----------------------------------------------------------------------------------------------------


def bound(protocol: str, address: str, port: int, inode: int = 5) -> sockets.Bound:
    return sockets.Bound(protocol, address, port, inode)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "127.0.0.1", "10.0.0.1"])
def test_a_program_on_a_listeners_port_is_named(address: str):
    (problem,) = checks.ports(SITE, [bound("tcp", address, 8080)], {5: ("haproxy", 812)})
    assert problem.startswith("port 8080/tcp of the listener of service backend is held by haproxy (pid 812) on ")


def test_a_program_on_the_port_of_several_services_is_named_with_all():
    site = {"listeners": [{"services": [{"service": "app"}, {"service": "app-new"}], "port": 80}]}
    (problem,) = checks.ports(site, [bound("tcp", "10.0.0.1", 80)], {5: ("nginx", 7)})
    assert problem.startswith("port 80/tcp of the listener of service app, app-new is held by nginx (pid 7) on ")


@pytest.mark.parametrize(
    "other",
    [bound("udp", "0.0.0.0", 8080), bound("tcp", "0.0.0.0", 8081), bound("udp", "0.0.0.0", 4790, inode=99)],
    ids=["udp", "other-port", "kernel"],
)
def test_other_sockets_are_none_of_our_business(other: sockets.Bound):
    assert checks.ports(SITE, [other], {5: ("x", 1)}) == []


def test_a_listener_on_one_address_minds_only_that_address():
    site = {"listeners": [{"service": "a", "port": 80, "address": "10.0.0.1"}]}
    assert checks.ports(site, [bound("tcp", "127.0.0.1", 80)], {}) == []
    assert len(checks.ports(site, [bound("tcp", "10.0.0.1", 80)], {})) == 1
    assert len(checks.ports(site, [bound("tcp", "0.0.0.0", 80)], {})) == 1


def test_tunnels_and_metrics_need_their_ports_but_our_own_program_may_hold_them():
    held = [bound("udp", "0.0.0.0", 4790), bound("tcp", "127.0.0.1", 9464, inode=6)]
    problems = checks.ports(SITE, held, {5: ("vpnd", 9), 6: ("skedged", 10)})
    assert problems == [
        "port 4790/udp of the tunnels of links is held by vpnd (pid 9) on 0.0.0.0:4790; stop that program, bind it to "
        "another port, or give another port"
    ]
    assert checks.ports({**SITE, "links": []}, held, {6: ("skedged", 10)}) == []


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_real_socket_of_this_process_is_found_with_its_program(family: int):
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        server.listen()
        port = server.getsockname()[1]
        (mine,) = [item for item in sockets.bound_sockets() if item.protocol == "tcp" and item.port == port]
        assert mine.address in ("127.0.0.1", "::1")
        assert sockets.programs()[mine.inode][1] == os.getpid()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000000000000000000001000000", "::1"),
        ("0000000000000000FFFF00000100007F", "127.0.0.1"),
        ("B80D0120000000000000000001000000", "2001:db8::1"),
    ],
)
def test_addresses_of_proc_net(text: str, address: str):
    assert sockets.decode_address(text) == address


# ---- routes and addresses --------------------------------------------------------------------------------------


def test_a_sites_address_that_is_something_else_on_a_host():
    others = {"edge-b": "100.64.0.2", "edge-c": "100.64.0.3", "edge-d": "100.64.0.4", "edge-e": "100.64.0.5"}
    own = {"devices": ["eth0"], "addresses": ["10.0.0.4", "100.64.0.2", "100.64.9.9"]}
    table = [
        {"dst": "default", "gateway": "100.64.0.3", "dev": "eth0"},
        {"dst": "100.64.0.5", "gateway": "100.64.0.5", "dev": "sk-123", "table": "7400"},
    ]
    found = checks.sites(others, own, table, "# x\nnameserver 100.64.0.4\nnameserver 100.100.2.136\nnameserver\n")
    assert [problem.split(",")[0] for problem in found] == [
        "100.64.0.2 is the overlay address of edge-b and an address of this host",
        "100.64.0.3 is the overlay address of edge-c and its gateway",
        "100.64.0.4 is the overlay address of edge-d and its resolver",
    ]
    assert all("give edge-" in problem and "skedge_overlay_address" in problem for problem in found)


def test_announced_prefixes_are_the_hosts_own():
    table = [
        {"dst": "default", "gateway": "10.0.0.1", "dev": "eth0"},
        {"dst": "10.0.0.0/24", "dev": "eth0"},
        {"dst": "10.7.0.0/16", "gateway": "10.0.0.9", "dev": "eth0"},
        {"dst": "10.9.0.0/16", "dev": "sk-123", "table": "7401", "protocol": "74"},
        {"dst": "broadcast 10.8.0.0", "type": "broadcast", "table": "local"},
        {"dst": "fd00::/48", "dev": "eth0"},
    ]
    announced = ["10.0.0.0/24", "10.7.3.0/24", "10.0.0.0/16", "10.8.0.0/24", "10.9.0.0/16", "fd00::/64", "fd00::/32"]
    found = checks.prefixes({"prefixes": announced}, table)
    assert [problem.split(",")[0] for problem in found] == [
        "it announces 10.0.0.0/16", "it announces 10.8.0.0/24", "it announces 10.9.0.0/16", "it announces fd00::/32",
    ]  # fmt: skip
    assert checks.prefixes({}, table) == []


def test_the_own_end_of_a_link_must_be_on_the_host():
    own = {"devices": ["lo", "eth0"], "addresses": ["127.0.0.1", "10.0.0.4", "fe80::1"]}
    (problem,) = checks.addresses(SITE, own)
    assert problem.startswith(
        "10.0.0.1, its end of the link to edge-b, is not an address of this host (it has 10.0.0.4)"
    )
    assert checks.addresses(SITE, {**own, "addresses": ["10.0.0.1"]}) == []
    direct = {"links": [{"to": "edge-b", "transport": "direct", "device": "eth9"}]}
    assert checks.addresses(direct, own) == ["eth9, the device of the link to edge-b, is not there (it has eth0)"]


def test_looking_is_quick():
    start = time.monotonic()
    sockets.programs()
    assert time.monotonic() - start < 5
