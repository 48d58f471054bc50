"""Three real sites: where real connections go, and what the command says of it."""

from __future__ import annotations

import pytest

from skedge.core.api.documents import VERSION
from skedge.core.errors import ExitCode

from .kit import Clients, Line, until

SPLIT = {"a": 47, "b": 37, "c": 16}

# What the operator's switch changes in test_life.py, which uses the same network; told for ten minutes.
BY_ANOTHER_TEST = ("drift link", "drift setting")


def test_100_held_connections_split_47_37_16(line: Line, clients: Clients) -> None:
    a = line.sites["a"]
    assert clients.open(100) == SPLIT
    until(lambda: a.opens() == SPLIT, 5, "the same counts at the controller")
    assert clients.do("check")["dead"] == 0
    clients.do("close")
    until(lambda: a.opens() == {"a": 0, "b": 0, "c": 0}, 5, "counts back at 0")


def test_in_parallel_the_split_is_exact_within_one(line: Line, clients: Clients) -> None:
    opened = clients.open(100, parallel=8)
    assert all(abs(opened[site] - SPLIT[site]) <= 1 for site in SPLIT), opened


def test_explain_names_the_workload_that_the_kernel_takes_next(line: Line, clients: Clients) -> None:
    """Around the place where B joins, equal perceived costs included."""
    a = line.sites["a"]
    clients.open(8)
    for number in range(8, 20):
        until(lambda count=number: sum(a.opens().values()) == count, 5, f"{number} counted")
        winner = a.explain().winner
        assert clients.open(1) == {str(winner).split("/")[0]: 1}, number


def test_every_receipt_can_be_asked_for_and_agrees_with_the_rule(line: Line, clients: Clients) -> None:
    a = line.sites["a"]
    clients.open(30)
    receipts = a.connections()
    assert len(receipts) == 30
    for row in receipts:
        mine, runner = (int(text.partition("/")[0]) for text in (row.perceived, row.runner_up_perceived))
        assert mine <= runner
        assert row.listener == "127.0.0.1:8080/tcp"
    one = receipts[7]
    said = a.document_of("explain", "connection", one.client)["connections"]
    assert [row["workload"] for row in said] == [one.workload]
    missing = a.skedge("explain", "connection", "127.0.0.1:1", check=False)
    assert missing.returncode == ExitCode.FAILED
    assert "127.0.0.1:1" in missing.stderr


@pytest.mark.parametrize("what", ["site", "sites", "links", "routes", "services", "listeners", "connections", "drops"])
def test_every_list_has_rows_and_a_table(line: Line, clients: Clients, what: str) -> None:
    a = line.sites["a"]
    clients.open(3)
    document = a.document_of("show", what)
    assert document["version"] == VERSION
    rows = document["sites" if what == "site" else what]
    if what == "connections":
        rows = [row for row in rows if row["service"] == "web"]  # datagrams of tests before last a minute
    expected = {"site": 1, "sites": 3, "links": 2, "routes": 8, "services": 1, "listeners": 1, "connections": 3}
    assert what == "drops" or len(rows) == expected[what]
    assert a.skedge("show", what).stdout.strip()


def test_links_routes_and_sync_are_as_built(line: Line) -> None:
    a = line.sites["a"]
    assert {(row.to, row.state, row.up, row.reason) for row in a.rows("links")} == {
        ("b", "full", True, "none"),
        ("c", "full", True, "none"),
    }
    assert all(row.installed for row in a.rows("routes"))
    assert {row.site: row.path_cost for row in a.rows("routes")} == {"b": 10, "c": 30}
    sync = a.document_of("show", "sync")
    assert sync["synced"]
    assert (sync["waiting_for"], sync["dirty"], sync["count_drift"]) == ([], [], 0)


def test_status_is_silent_when_nothing_is_wrong_and_plan_when_nothing_is_to_do(line: Line) -> None:
    for site in line.sites.values():
        wrong = [problem for problem in site.status().problems if problem.severity != "info"]
        told = [
            one for one in wrong if one.what not in BY_ANOTHER_TEST and not one.what.startswith(("drift ", "control "))
        ]
        assert told == []
        assert site.document_of("plan")["steps"] == []
    a = line.sites["a"]
    for check in ("live", "ready", "synced"):
        assert a.skedge("status", "--check", check).returncode == 0
    assert a.skedge("status").returncode == 0


def test_metrics_are_served_in_the_site(line: Line, clients: Clients) -> None:
    a = line.sites["a"]
    clients.open(12)
    until(lambda: sum(a.opens().values()) == 12, 5, "12 counted")
    script = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9464/metrics').read().decode())"
    text = a.inside("/usr/bin/python3", "-c", script).stdout
    assert 'skedge_workload_open{protocol="tcp",service="web",workload="a/web"} 11.0' in text
    assert 'skedge_link_up{link="a--b",to="b"} 1.0' in text
    assert "skedge_count_drift_total 0.0" in text


def test_what_is_not_published_is_dropped_at_the_link_and_counted(line: Line) -> None:
    a, b = line.sites["a"], line.sites["b"]
    server = a.spawn("/usr/bin/python3", "-m", "http.server", "2222", "--bind", "0.0.0.0")
    until(lambda: ":2222" in a.inside("ss", "-Hltn").stdout, 10, "a server that is not published")
    overlay = a.rows("site")[0].overlay4
    script = f"import socket; socket.create_connection(('{overlay}', 2222), 1)"
    refused = b.inside("/usr/bin/python3", "-c", script, check=False)
    assert refused.returncode != 0
    drops = {row["reason"]: row["count"] for row in a.document_of("show", "drops")["drops"]}
    assert drops["not-published"] >= 1
    server.kill()
    server.wait(10)


def test_a_client_bound_to_an_address_is_balanced_as_any_other(line: Line, clients: Clients) -> None:
    a = line.sites["a"]
    assert clients.open(15) == {"a": 13, "b": 2}
    overlay = a.rows("site")[0].overlay4
    script = (
        "import socket, sys; s = socket.create_connection(('127.0.0.1', 8080), 3, (sys.argv[1], 0));"
        " s.sendall(b'?'); print(s.recv(9).decode())"
    )
    for source, server in (("127.0.0.1", "b"), (overlay, "b")):  # 13 against 10 + 2
        asked = a.spawn("/usr/bin/python3", "-c", script, source, log=a.directory / f"{source}.log")
        assert asked.wait(10) == 0
        assert (a.directory / f"{source}.log").read_text().strip() == server, source
