"""Whose port it is, and what taking it over would take away: from what the host shows."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.skedge.edge.plugins.filter.skedge import skedge_without_listeners
from ansible_collections.skedge.edge.plugins.module_utils import checks, takeover
from ansible_collections.skedge.edge.plugins.module_utils.sockets import Bound

UNIT = "haproxy.service"
WEB = {"service": "web", "port": 8080, "takeover": UNIT}
PROGRAMS, UNITS = {5: ("haproxy", 812), 6: ("nginx", 7)}, {812: UNIT, 7: "nginx.service"}


def bound(port: int, inode: int = 5, protocol: str = "tcp", address: str = "0.0.0.0") -> Bound:
    return Bound(protocol, address, port, inode)


def record(*words: str) -> dict[str, Any]:
    return {UNIT: {"enabled": True, "active": True, "listeners": list(words), "served": list(words)}}


def test_a_port_that_is_to_be_taken_over_is_no_problem():
    assert checks.ports({"listeners": [WEB]}, [bound(8080)], PROGRAMS, UNITS) == []


def test_the_way_out_names_the_unit_that_holds_the_port():
    listener = {"service": "web", "port": 8080}
    (problem,) = checks.ports({"listeners": [listener]}, [bound(8080)], PROGRAMS, UNITS)
    assert problem.endswith("or give another port, or take the port over from it: takeover: haproxy.service")


def test_a_port_of_another_unit_than_the_one_named_is_refused():
    (problem,) = checks.ports({"listeners": [WEB]}, [bound(8080, inode=6)], PROGRAMS, UNITS)
    assert "held by nginx (pid 7) on 0.0.0.0:8080" in problem
    assert problem.endswith("(it is of nginx.service, not of haproxy.service, which takeover names)")


def test_tunnels_cannot_take_a_port_over():
    site = {"listeners": [], "links": [{"to": "edge-b"}]}
    (problem,) = checks.ports(site, [bound(4790, protocol="udp")], PROGRAMS, UNITS)
    assert problem.endswith("or give another port")


def test_what_else_the_unit_serves_is_named():
    sockets = [bound(8080), bound(443), bound(8404, address="127.0.0.1"), bound(40000, protocol="udp"), bound(80, 6)]
    (problem,) = takeover.problems([WEB], sockets, PROGRAMS, UNITS)
    assert (
        "haproxy.service, whose port a listener takes over, also serves 0.0.0.0:443/tcp, 127.0.0.1:8404/tcp, "
        in problem
    )
    assert "skedge_preflight_skip: [takeover]" in problem
    more = [{**WEB, "port": 443}, {**WEB, "port": 8404}]
    assert takeover.problems([WEB, *more], sockets, PROGRAMS, UNITS) == []
    assert takeover.problems([WEB], sockets[1:], PROGRAMS, UNITS) == [], "nothing is taken over"


@pytest.mark.parametrize(
    ("sockets", "known", "numbers"),
    [
        ([bound(8080)], {}, [0]),
        ([], {}, []),
        ([bound(8080, inode=6)], {}, []),
        ([bound(8080)], record("tcp * 8080"), []),
        ([bound(8080)], record("tcp * 8081"), [0]),
    ],
    ids=["serves", "off", "another-unit", "came-back", "another-port"],
)
def test_a_listener_waits_while_its_unit_serves_unless_skedge_served_already(
    sockets: list[Bound], known: dict[str, Any], numbers: list[int]
):
    assert takeover.held([WEB], sockets, PROGRAMS, UNITS, known) == numbers


def test_a_unit_gets_its_ports_back_when_no_listener_is_on_any():
    known = record("tcp * 8080", "tcp * 8081")
    assert takeover.returned([], known) == [UNIT]
    assert takeover.returned([{"service": "x", "port": 8081}], known) == []
    assert takeover.returned([{"service": "x", "port": 8081, "protocol": "udp"}], known) == [UNIT]


@pytest.mark.parametrize(
    ("row", "steps", "words"),
    [
        (None, [], "does not have it yet"),
        ({"addresses": []}, [], "does not have it yet"),
        ({"addresses": ["10.0.0.1"], "healthy_workloads": 0, "reason": "no-workload"}, [], "(no-workload)"),
        ({"addresses": ["10.0.0.1"], "healthy_workloads": 1}, [{"kind": "listener", "action": "put"}], "the kernel"),
        ({"addresses": ["10.0.0.1"], "healthy_workloads": 1}, [{"kind": "route", "action": "put"}], ""),
    ],
)
def test_when_a_listener_serves(row: dict[str, Any] | None, steps: list[dict[str, str]], words: str):
    why = takeover.is_ready(row, steps)
    assert words in why if words else why == ""


def test_a_listener_without_a_workload_is_named_before_the_controller_gets_it():
    def request(asked: dict[str, str]) -> dict[str, Any]:
        return {"explain": {"winner": "edge-b/web" if asked["name"] == "web" else ""}}

    assert takeover.without_workload([WEB], request) == ""
    assert takeover.without_workload([{"services": [{"service": "x"}, {"service": "web"}], "port": 1}], request) == ""
    assert takeover.without_workload([WEB, {"service": "x", "port": 81}], request) == (
        "the listener on port 81 cannot take over: no workload of service x may be chosen here"
    )


def test_the_row_of_a_listener_is_found_by_address_and_protocol():
    rows = [{"protocol": p, "address": a, "port": 8080} for p in ("udp", "tcp") for a in ("10.0.0.1", "*")]
    assert takeover.find_row(WEB, rows) == rows[3]
    assert takeover.find_row({**WEB, "address": "10.0.0.1"}, rows) == rows[2]
    assert takeover.find_row({**WEB, "port": 1}, rows) is None


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/haproxy.service\n", UNIT),
        ("12:cpu:/a.service\n1:name=systemd:/payload/system.slice/haproxy.service\n0::/\n", UNIT),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service\n", "user@1000.service"),
        ("0::/system.slice/docker-0123.scope\n", "docker-0123.scope"),
        ("0::/\n", ""),
    ],
)
def test_the_unit_of_a_process(text: str, unit: str):
    assert takeover.parse_unit(text) == unit


def test_open_connections_are_found_by_their_local_port():
    row = "   0: 0100007F:{:04X} 0100007F:C350 {} 00000000:00000000 00:00000000 00000000 0 0 {} 1\n"
    sockets = [(8080, "01", 11), (8081, "01", 12), (8080, "0A", 13), (8080, "06", 0)]
    text = "  sl\n" + "".join(row.format(*one) for one in sockets)
    assert takeover.parse_connections(text, {8080}) == [11]
    assert takeover.parse_connections(text, {8080, 8081}) == [11, 12]


def test_the_configuration_without_listeners_that_wait():
    config = {"site": "a", "listeners": [WEB, {"service": "x", "port": 1}], "links": []}
    assert skedge_without_listeners(config, [0])["listeners"] == config["listeners"][1:]
    assert skedge_without_listeners(config, []) == config
    assert skedge_without_listeners({"site": "a"}, []) == {"site": "a"}


def test_a_lost_record_is_made_from_units_that_are_stopped_and_would_not_start():
    """A unit that a listener names, and that still serves or would start at boot, was not taken over."""
    listeners = [{"service": "s", "port": n, "takeover": f"{name}.service"} for n, name in enumerate("abcd", 80)]
    off = {"there": True, "active": False, "enabled": False}
    states = {"a.service": off, "b.service": {**off, "active": True}, "c.service": {**off, "enabled": True}}
    states["d.service"] = {**off, "there": False}
    was = {"enabled": True, "active": True, "listeners": ["tcp * 80"], "served": ["tcp * 80"]}
    assert takeover.rebuilt(listeners, states) == {"a.service": was}
    assert takeover.rebuilt([], {}) == {}
