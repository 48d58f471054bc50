"""Links that carry nothing, or no TCP: three real sites notice, agree, go round them, and say what to look at."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from skedge.core.model import COST_MAX

from .kit import Clients, Line, Site, until

BOUND_S = 3.0  # a second for the host's own overload, four probes, and one computation of paths


def device(line: Line, here: str, far: str) -> str:
    """The device of a site's link to another."""
    return str(next(row.device for row in line.sites[here].rows("links") if row.to == far))


def path_cost(site: Site, to: str) -> int | None:
    return next(row.path_cost for row in site.rows("sites") if row.name == to)


def reason(site: Site, to: str) -> tuple[bool, str]:
    return next((row.up, row.reason) for row in site.rows("links") if row.to == to)


def problem(site: Site, what: str) -> str:
    return next((one.cause for one in site.status().problems if one.what == what), "")


@contextlib.contextmanager
def rules(site: Site, family: str, chain: str, *lines: str) -> Iterator[None]:
    """Rules of somebody else at a site, and their end."""
    said = "\n".join([f"table {family} others {{", " chain others {", f"  {chain}", *lines, " }", "}"])
    site.inside("nft", said)
    try:
        yield
    finally:
        site.inside("nft", "delete", "table", family, "others")


def whole(line: Line) -> bool:
    """Whether the link between A and B is like others again."""
    a, b = line.sites["a"], line.sites["b"]
    return reason(a, "b") == reason(b, "a") == (True, "none") and path_cost(a, "b") == path_cost(b, "a") == 10


def test_what_both_hosts_throw_away_at_their_own_devices_is_a_cut(line: Line, clients: Clients) -> None:
    a, b = line.sites["a"], line.sites["b"]
    clients.open(60)
    name, far = device(line, "a", "b"), device(line, "b", "a")
    began = time.monotonic()
    with (
        rules(a, "netdev", f"type filter hook egress device {name} priority 0; policy drop;"),
        rules(b, "netdev", f"type filter hook egress device {far} priority 0; policy drop;"),
    ):
        until(lambda: path_cost(a, "b") == path_cost(b, "a") == 120, BOUND_S, "the way round, at both ends")
        print(f"\nrerouted after {time.monotonic() - began:.2f} s")
        until(lambda: reason(a, "b") == reason(b, "a") == (False, "not-sent"), BOUND_S, "the reason")
        assert f"throws away what is sent into {name}" in problem(a, "link a--b")
        until(a.at_rest, 5, "routes")
        assert clients.do("check")["dead"] == 0
        clients.open(10)
    until(lambda: whole(line), 5, "the link is back")


def test_a_rule_against_the_probes_is_named(line: Line) -> None:
    a = line.sites["a"]
    name = device(line, "a", "b")
    rule = f'oifname "{name}" icmpv6 type echo-request drop'
    with rules(a, "inet", "type filter hook output priority 0;", rule):
        until(lambda: reason(a, "b") == (False, "not-sent"), BOUND_S, "down")
        assert f"the host's own rules refuse our probes on {name}" in problem(a, "link a--b")
        until(lambda: not reason(line.sites["b"], "a")[0], BOUND_S, "down at the other end, whose probes are answered")
    until(lambda: whole(line), 5, "the link is back")


def test_an_end_that_gets_no_answers_tells_the_one_that_does(line: Line) -> None:
    a, b = line.sites["a"], line.sites["b"]
    rule = f'iifname "{device(line, "a", "b")}" icmpv6 type echo-reply drop'
    with rules(a, "inet", "type filter hook prerouting priority -300;", rule):
        until(lambda: path_cost(a, "b") == path_cost(b, "a") == 120, BOUND_S, "the way round, at both ends")
        assert reason(a, "b") == (False, "probe-lost")
        assert reason(b, "a") == (False, "one-way"), "its own probes are answered"
    until(lambda: whole(line), 5, "the link is back")


@pytest.mark.slow_in_vm
def test_a_link_without_tcp_is_named_and_used_only_where_no_other_is(line: Line, clients: Clients) -> None:
    """The far controller is begun anew, because it takes eleven seconds to find that an open stream is dead."""
    a, b = line.sites["a"], line.sites["b"]
    with rules(
        b,
        "inet",
        "type filter hook prerouting priority -300;",
        f'iifname "{device(line, "b", "a")}" tcp dport 7401 drop',
        f'iifname "{device(line, "b", "a")}" tcp sport 7401 drop',
    ):
        began = time.monotonic()
        b.kill()
        b.start()
        until(lambda: path_cost(a, "b") == 120, 12, "the way round")
        print(f"\nrerouted after {time.monotonic() - began:.2f} s")
        assert reason(a, "b") == (True, "tcp-dropped")
        assert "b answers probes, but no TCP connection over" in problem(a, "link a--b")
        until(b.works, 12, "B in sync, without the hold time for a neighbour that it cannot hear")
        assert path_cost(b, "a") == 120
        until(a.at_rest, 5, "routes")
        assert clients.open(20)
        line.cut("a", "c")
        try:
            until(lambda: path_cost(a, "b") == COST_MAX, BOUND_S, "no other path")
        finally:
            line.mend("a", "c")
        until(lambda: path_cost(a, "b") == 120, 10, "the way round again")
    until(lambda: whole(line), 10, "the link is back")
