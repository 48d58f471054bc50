"""Policies, affinity and the health of UDP workloads with real controllers, from configuration to connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .kit import Clients, Line, Site, changes, until

OTHER = {"service": "other", "host": "127.0.0.1", "port": 9090}
WEB = {"service": "web", "host": "127.0.0.1", "port": 9090}


@pytest.fixture
def restored(line: Line) -> Iterator[Line]:
    """The line, as it was made again after the test."""
    yield line
    for site in line.sites.values():
        site.write()
        site.reload()
    line.settle()


def configure(site: Site, **changes: Any) -> None:
    site.write(**changes)
    site.reload()


def listener(site: Site) -> Any:
    return site.rows("listeners")[0]


def shares(site: Site) -> dict[str, float]:
    return {one.service: one.share for one in listener(site).services}


def test_priority_follows_drain_and_lasts_over_a_restart(restored: Line, clients: Clients) -> None:
    a, b = restored.sites["a"], restored.sites["b"]
    configure(b, connectors=[WEB, OTHER])
    both = [{"service": "other"}, {"service": "web"}]
    configure(a, listeners=[{"port": 8080, "policy": "priority", "services": both}])
    until(lambda: shares(a) == {"other": 1.0, "web": 0.0} and a.at_rest(), 10, "other is used")
    assert clients.open(5) == {"b": 5}
    assert "policy priority, 0% of its new connections come to web now" in a.skedge("explain", "web").stdout
    configure(b, connectors=[WEB, {**OTHER, "drain": True}])
    until(lambda: shares(a) == {"other": 0.0, "web": 1.0} and a.at_rest(), 10, "web is used")
    assert clients.open(5) == {"a": 5}
    assert [problem.severity for problem in a.status().problems if problem.what == "service other/tcp"] == ["warning"]
    configure(b, connectors=[WEB, OTHER])
    until(lambda: shares(a)["other"] == 1.0 and a.at_rest(), 10, "other is used again")
    a.kill()
    assert clients.open(3) == {"b": 3}
    before = a.log_size()
    a.start()
    until(a.works, 20, "a ready")
    assert clients.open(3) == {"b": 3}
    assert changes(a.log_since(before)) == [], "what was found needed no change"
    until(lambda: b.others()["a"] == 5, 5, "B told by the controller of now")


def test_weighted_is_shared_out_from_the_configuration_on(restored: Line, clients: Clients) -> None:
    a, b = restored.sites["a"], restored.sites["b"]
    configure(b, connectors=[WEB, OTHER])
    both = [{"service": "other", "weight": 3}, {"service": "web", "weight": 7}]
    configure(a, listeners=[{"port": 8080, "policy": "weighted", "services": both}])
    until(lambda: shares(a) == {"other": 0.3, "web": 0.7} and a.at_rest(), 10, "shared out")
    assert clients.open(10) == {"b": 3, "a": 7}
    assert "other 30%, web 70%" in a.skedge("show", "listeners").stdout


def test_a_client_is_kept_over_a_restart_of_the_controller(restored: Line, clients: Clients) -> None:
    a = restored.sites["a"]
    configure(a, listeners=[{"port": 8080, "service": "web", "affinity": "client"}])
    until(lambda: listener(a).affinity_s == 10_800 and a.at_rest(), 10, "affinity")
    assert clients.open(20) == {"a": 20}  # 15 and 5 by the rule
    a.kill()
    a.start()
    until(a.works, 20, "a ready")
    assert clients.open(5) == {"a": 5}
    rows = a.connections()
    assert {row.reason for row in rows} == {"none", "affinity"}
    kept = next(row for row in rows if row.reason == "affinity")
    assert kept.runner_up == "b/web"
    a.unserve()
    until(lambda: a.reasons()["a"] == "unhealthy" and a.at_rest(), 10, "a unhealthy")
    assert clients.open(5) == {"b": 5}
    a.serve()
    until(lambda: a.reasons()["a"] == "none" and a.at_rest(), 10, "a healthy")
    assert clients.open(5) == {"b": 5}, "and is kept there"
    until(lambda: a.opens() == {"a": 0, "b": 10, "c": 0}, 5, "counted")


def test_a_udp_workload_is_healthy_while_its_socket_is_bound(restored: Line) -> None:
    a, b = restored.sites["a"], restored.sites["b"]
    configure(b, connectors=[WEB, {"service": "dns", "host": "127.0.0.1", "port": 5353, "protocol": "udp"}])

    def reason() -> str:
        return next((row.candidates[0].reason for row in a.rows("services") if row.service == "dns"), "not offered")

    until(lambda: reason() == "unhealthy", 10, "no socket")
    script = "import socket, time; s = socket.socket(type=2); s.bind(('127.0.0.1', 5353)); time.sleep(60)"
    server = b.spawn("/usr/bin/python3", "-c", script)
    until(lambda: reason() == "none", 10, "a socket is bound")
    server.kill()
    server.wait(10)
    until(lambda: reason() == "unhealthy", 10, "the socket is gone")
