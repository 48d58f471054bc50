"""Drains by command at real sites with connections held: nothing is cut, nothing new comes, it outlives the daemon."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator

from skedge.core.api.shown import DrainRow

from .kit import Clients, Line, Site, run, until

NOBODY = 65534


def left(site: Site, what: str = "site") -> DrainRow:
    return next(row for row in site.rows("drains") if row.what == what)


@contextlib.contextmanager
def drained(site: Site, *words: str) -> Iterator[None]:
    """Something is drained for the time of a test."""
    site.skedge("drain", *words)
    try:
        yield
    finally:
        site.skedge("undrain", *(word for word in words if not word.startswith("--")))


def test_a_drained_site_gets_nothing_new_and_is_no_transit_and_nothing_is_cut(line: Line, clients: Clients) -> None:
    a, b = line.sites["a"], line.sites["b"]
    held = clients.open(60)
    started = time.monotonic()
    with drained(b):
        until(lambda: a.reasons()["b"] == "drained" and a.candidates()["c"].path == ("a", "c"), 2, "A knows")
        print(f"\nknown after {(time.monotonic() - started) * 1000:.0f} ms, with the command's own start")
        assert clients.do("check")["dead"] == 0
        assert clients.open(60).get("b", 0) == 0
        assert clients.names()["b"] == held["b"]
        row = left(b)
        assert (row.by, row.connections, row.transit, row.cut_off) == ("root", held["b"], 0, ())
        assert 0 < time.time() - (row.since or 0) < 60
        some = b.skedge("drain", "--wait", "0.1s", check=False)
        assert some.returncode == 3, "connections are left"
        b.kill()
        b.start()
        until(b.works, 20, "the next controller of B works")
        assert left(b).since == row.since
        assert clients.open(20).get("b", 0) == 0, "its restart gives it nothing new"
        clients.do("close", "b")
        assert b.skedge("drain", "--wait", "20s").returncode == 0
        assert clients.do("check")["dead"] == 0
    until(lambda: a.reasons()["b"] == "none" and a.candidates()["c"].path == ("a", "b", "c"), 5, "B is back")
    assert clients.open(30)["b"] > 0
    assert clients.do("check")["dead"] == 0


def test_what_is_left_is_ended_where_asked_and_nothing_else(line: Line, clients: Clients) -> None:
    a, b = line.sites["a"], line.sites["b"]
    here = Clients(b)
    assert here.open(5) == {"b": 5}
    held = clients.open(60)
    try:
        done = b.skedge("drain", "--wait", "0.2s", "--then", "abort", "--json")
        assert json.loads(done.stdout)["drains"][0]["connections"] == 0
        until(lambda: clients.do("check")["dead"] in (0, held["b"]), 5, "all ends are told")
        assert clients.names() == {site: number for site, number in held.items() if site != "b"}
        assert here.names() == {}
        assert clients.do("check")["dead"] == 0
    finally:
        b.skedge("undrain")
        here.quit()
    until(lambda: a.reasons()["b"] == "none", 5, "B is back")


def test_with_its_entry_connects_are_refused_at_once_and_what_is_open_goes_on(line: Line, clients: Clients) -> None:
    a = line.sites["a"]
    clients.open(30)
    with drained(a, "--entry"):
        until(a.at_rest, 5, "the kernel has it")
        started = time.monotonic()
        answer = clients.do("open", 5)
        assert answer["failures"] == {"Connection refused": 5}
        assert time.monotonic() - started < 2, "refused, not lost"
        assert {row.reason: row.count for row in a.rows("drops")}["entry-drained"] >= 5
        assert a.explain().reason == "entry-drained"
        assert set(a.reasons().values()) == {"drained", "entry-drained"}
        drains = [problem.severity for problem in a.status().problems if "drain" in problem.what]
        assert set(drains) == {"info"}, a.status().problems
        assert clients.do("check")["dead"] == 0
    until(lambda: set(a.reasons().values()) == {"none"} and a.at_rest(), 5, "A takes connections again")
    clients.open(10)


def test_a_drained_link_is_no_path_while_there_is_another_and_carries_on_where_there_is_none(
    line: Line, clients: Clients
) -> None:
    a, b = line.sites["a"], line.sites["b"]
    held = clients.open(60)
    with drained(a, "link", "a--b"):
        until(lambda: a.candidates()["b"].path == ("a", "c", "b") and a.at_rest(), 5, "another path")
        until(lambda: {row.site: row.path_cost for row in b.explain("a").candidates}["b"] == 120, 5, "both ends")
        assert b.candidates()["a"].path == ("b", "c", "a")
        assert clients.do("check")["dead"] == 0
        line.cut("a", "c")
        try:
            until(lambda: a.candidates()["b"].path == ("a", "b") and a.at_rest(), 5, "the only path")
            assert a.candidates()["b"].path_cost == 65535
            assert clients.do("check")["alive"] == sum(held.values())
        finally:
            line.mend("a", "c")
        until(lambda: a.candidates()["b"].path == ("a", "c", "b"), 10, "the other one again")
    until(lambda: a.candidates()["b"].path_cost == 10, 5, "A--B is back")
    assert clients.do("check")["dead"] == 0


def test_a_drained_workload_is_drained_everywhere_and_others_may_not_command(line: Line, clients: Clients) -> None:
    a, b = line.sites["a"], line.sites["b"]
    os.chmod(b.socket, 0o666)
    b.directory.chmod(0o755)
    refused = run("/usr/bin/python3", "-c", _ASK_AS, NOBODY, b.directory).stdout
    assert "may only look: commands are for root and members of the group skedge-admin" in refused
    assert b.rows("drains") == ()
    with drained(b, "workload", "web"):
        until(lambda: a.reasons()["b"] == "drained", 5, "A knows")
        assert clients.open(40).get("b", 0) == 0
        assert left(b, "workload").name == "web"
        assert a.candidates()["c"].path == ("a", "b", "c"), "the site is transit still"
    until(lambda: a.reasons()["b"] == "none", 5, "back")


_ASK_AS = """
import os, socket, sys
os.chdir(sys.argv[2])  # while it may
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
at = socket.socket(socket.AF_UNIX)
at.connect("api.sock")
at.sendall(b'{"op": "drain"}\\n')
print(at.recv(65536).decode())
"""
