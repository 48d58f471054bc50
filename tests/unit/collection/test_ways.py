"""Routes and rules of a host that lead to sites' addresses: other VPNs as they were recorded, networks, aggregates."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.skedge.edge.plugins.module_utils import ways

OVERLAYS = ["100.104.0.0/16", "fd12:3456:789a::/48"]
SITES = ["100.104.0.1", "100.104.7.2"]
LOCAL = {"priority": 0, "src": "all", "table": "local"}
LAST = [{"priority": 32766, "src": "all", "table": "main"}, {"priority": 32767, "src": "all", "table": "default"}]
MARK = {"src": "all", "fwmark": "0x80000", "fwmask": "0xff0000"}
TAILSCALE = [
    LOCAL, {"priority": 5210, **MARK, "table": "main"}, {"priority": 5230, **MARK, "table": "default"},
    {"priority": 5250, **MARK, "action": "unreachable"}, {"priority": 5270, "src": "all", "table": "52"}, *LAST,
]  # fmt: skip
NETBIRD = [
    LOCAL, {"priority": 105, "src": "all", "table": "main", "suppress_prefixlen": 0},
    {"priority": 110, "not": None, "src": "all", "fwmark": "0x1bd00", "table": "7120"}, *LAST,
]  # fmt: skip
WG_QUICK = [
    LOCAL, {"priority": 32764, "src": "all", "table": "main", "suppress_prefixlen": 0},
    {"priority": 32765, "not": None, "src": "all", "fwmark": "0xca6c", "table": "51820"}, *LAST,
]  # fmt: skip


def found(route: dict[str, Any], rules: list[dict[str, Any]] = [LOCAL, *LAST]) -> list[str]:  # noqa: B006
    return ways.routes(OVERLAYS, [route], SITES, rules)


@pytest.mark.parametrize(
    ("route", "clash"),
    [
        ({"dst": "100.104.0.0/24", "gateway": "10.0.0.9", "dev": "eth0"}, True),
        ({"dst": "100.104.0.0/16", "dev": "wt0", "protocol": "kernel"}, True),
        ({"dst": "100.104.7.2", "dev": "wg0"}, True),
        ({"dst": "100.64.0.0/10", "dev": "eth1"}, True),  # a network that the host is in
        ({"dst": "fd12:3456:789a::/64", "dev": "eth0"}, True),
        ({"dst": "100.104.9.0/24", "dev": "eth1"}, False),  # no site is in it
        ({"dst": "100.64.0.0/10", "gateway": "10.0.0.9", "dev": "eth0"}, False),
        ({"type": "unreachable", "dst": "100.64.0.0/10", "dev": "lo"}, False),
        ({"dst": "unreachable 100.64.0.0/10", "type": "unreachable"}, False),
        ({"dst": "100.0.0.0/8", "gateway": "10.0.0.9", "dev": "eth0"}, False),
        ({"dst": "fd00::/8", "gateway": "fe80::1", "dev": "eth0"}, False),
        ({"dst": "100.100.0.0/16", "dev": "tailscale0", "table": "52"}, False),
        ({"dst": "default", "dev": "eth0"}, False),
        ({"dst": "0.0.0.0/0", "dev": "eth0"}, False),
        ({"dst": "100.104.7.2", "dev": "sk-edge-b-1234", "table": "7400"}, False),
        ({"dst": "100.104.0.1", "dev": "lo", "table": "local"}, False),
        ({"type": "unreachable", "dst": "100.104.7.2", "dev": "lo", "protocol": "74"}, False),
    ],
)
def test_what_leads_to_a_site_and_is_no_wider_than_the_overlay(route: dict[str, Any], clash: bool):
    problems = found(route)
    assert bool(problems) == clash
    assert all("overlaps the overlay" in problem and "give skedge_overlay_cidr" in problem for problem in problems)


@pytest.mark.parametrize(
    ("dst", "clash"),
    [
        ("100.100.100.100", False),
        ("100.90.1.2", False),
        ("100.104.7.2", True),
        ("default", True),
        ("100.64.0.0/10", True),
    ],
)
def test_tailscale_is_asked_before_us(dst: str, clash: bool):
    problems = found({"dst": dst, "dev": "tailscale0", "table": "52"}, TAILSCALE)
    assert bool(problems) == clash
    assert all(one.startswith("its rule 5270 leads 100.104.") for one in problems)
    assert all("to table 52 dev tailscale0, before skedge's own rule 7400" in one for one in problems)


def test_what_tailscale_leaves_out_is_left_out():
    assert found({"type": "throw", "dst": "100.104.0.0/16", "table": "52"}, TAILSCALE) == []


def test_netbird_asks_the_main_table_before_us():
    assert [one.split(",")[0] for one in found({"dst": "100.90.0.0/16", "dev": "wt0"}, NETBIRD)] == [
        "its rule 105 asks the main table before skedge's own rule 7400"
    ]
    exit_node = {"dst": "default", "dev": "wt0", "table": "7120"}
    assert any("its rule 110 leads 100.104.0.1 and 1 more sites" in one for one in found(exit_node, NETBIRD))


def test_wg_quick_comes_after_us():
    assert found({"dst": "default", "dev": "wg0", "table": "51820"}, WG_QUICK) == []


def test_rules_for_others_packets_are_none_of_ours():
    rules = [LOCAL, {"priority": 100, "src": "10.0.0.0/8", "table": "9"}, {"priority": 101, "src": "all", "iif": "eth1",
        "table": "9"}, *LAST]  # fmt: skip
    assert found({"dst": "default", "dev": "eth1", "table": "9"}, rules) == []
