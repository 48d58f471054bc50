"""Three real sites while daemons die, servers stop, cables are cut and configurations change."""

from __future__ import annotations

import time

from skedge.core.model import WorkloadId
from skedge.core.objects import Candidate, Target
from skedge.core.placement.rule import fill

from .kit import Clients, Line, changes, until

SPLIT = {"a": 47, "b": 37, "c": 16}


def by_rule(costs: dict[str, int], opened: int, others: dict[str, int] | None = None) -> dict[str, int]:
    """The split that the rule gives, without sites that get none."""
    target = Target("100.64.0.1", 61000)
    candidates = [
        Candidate(WorkloadId(site, "web"), cost, capacity=1, others=(others or {}).get(site, 0), target4=target)
        for site, cost in sorted(costs.items())
    ]
    counts = zip(sorted(costs), fill(candidates, opened), strict=True)
    return {site: count for site, count in counts if count}


def test_a_killed_controller_leaves_balancing_alone_and_the_next_one_adopts_it(line: Line, clients: Clients) -> None:
    a = line.sites["a"]
    clients.open(40)
    incarnation = a.rows("site")[0].incarnation
    a.kill()
    clients.open(60)
    assert clients.names() == SPLIT, "the kernel balances without its controller"
    before = a.log_size()
    a.start()
    until(a.works, 20, "the next controller works")
    time.sleep(1.5)  # until it may delete
    assert changes(a.log_since(before)) == [], "it adopts what is there"
    assert a.plan().steps == ()
    until(lambda: a.opens() == SPLIT, 5, "the counts of the life before")
    assert clients.do("check")["dead"] == 0
    assert a.rows("site")[0].incarnation > incarnation
    assert len(a.connections()) == 100, "receipts outlive the controller that placed them"


def test_a_transit_site_without_controller_still_forwards(line: Line, clients: Clients) -> None:
    b = line.sites["b"]
    clients.open(60)
    b.kill()
    time.sleep(1.0)  # longer than it takes to see a link down
    clients.open(40)
    assert clients.names() == SPLIT
    assert clients.do("check")["dead"] == 0
    b.start()
    until(b.works, 20, "the next controller of B works")
    assert clients.do("check")["dead"] == 0


def test_a_transit_site_is_no_router_and_its_links_survive_the_operators_switch(line: Line, clients: Clients) -> None:
    b = line.sites["b"]
    switch = "net.ipv4.ip_forward"

    def own() -> set[str]:
        """The setting of B's link devices."""
        return set(b.inside("sh", "-c", "cat /proc/sys/net/ipv4/conf/sk-*/forwarding").stdout.split())

    assert b.inside("sysctl", "-n", switch).stdout.strip() == "0"
    assert 'iifname != "sk-*" oifname "sk-*"' in b.inside("nft", "list", "chain", "inet", "skedge", "forwarding").stdout
    try:
        b.inside("sysctl", "-qw", f"{switch}=1")
        b.inside("sysctl", "-qw", f"{switch}=0")
        until(lambda: own() == {"1"}, 5, "links that pass packets on again")
    finally:
        b.inside("sysctl", "-qw", f"{switch}=0")
    assert clients.open(100)["c"] == 16
    told = {problem.what: problem.cause for problem in b.status().problems}
    assert "was changed" in told["drift link"]
    assert "by somebody else" in told["drift link"]


def test_a_stopped_server_gets_no_more_connections(line: Line, clients: Clients) -> None:
    a, b = line.sites["a"], line.sites["b"]
    clients.open(100)
    clients.do("keep")
    stopped = b.unserve()
    try:
        until(
            lambda: sum(clients.names().values()) == 100 and clients.do("events")["busy"] == 0, 20, "all served again"
        )
        events = clients.do("events")["events"]
        assert len(events) == SPLIT["b"]
        assert {event["by"] for event in events} <= {"a", "c"}
        worst = max(event["served"] for event in events) - stopped
        refused = sum(event["refused"] for event in events)
        print(f"\nserved again after {worst * 1000:.0f} ms at most, {refused} refusals")
        assert worst < 2.0
        took = until(lambda: a.reasons()["b"] == "unhealthy", 5, "B's workload unhealthy at A")
        print(f"known as unhealthy {took * 1000:.0f} ms later")
        assert clients.names() == by_rule({"a": 0, "c": 30}, 100)
        assert any(problem.what == "workload web" for problem in b.status().problems)
    finally:
        b.serve()
    until(lambda: a.reasons()["b"] == "none", 10, "B's workload back")


def test_a_cut_cable_moves_the_path_and_cuts_no_connection(line: Line, clients: Clients) -> None:
    a = line.sites["a"]
    clients.open(100)
    cut = line.cut("b", "c")
    try:
        until(lambda: a.candidates()["c"].path_cost == 100 and a.at_rest(), 10, "C over the spare link")
        print(f"\nrerouted after {(time.monotonic() - cut) * 1000:.0f} ms")
        assert a.candidates()["c"].path == ("a", "c")
        answer = clients.do("check")
        assert (answer["alive"], answer["dead"]) == (100, 0)
        assert a.opens() == SPLIT
    finally:
        line.mend("b", "c")
    until(lambda: a.candidates()["c"].path_cost == 30, 10, "C over B again")


def test_a_site_that_cannot_be_reached_is_out_with_its_reason(line: Line, clients: Clients) -> None:
    a = line.sites["a"]
    cut = line.cut("b", "c")
    line.cut("a", "c")
    try:
        until(lambda: a.reasons()["c"] == "unreachable" and a.at_rest(), 10, "C unreachable")
        print(f"\nunreachable after {(time.monotonic() - cut) * 1000:.0f} ms")
        assert clients.open(100) == by_rule({"a": 0, "b": 10}, 100)
        assert {row.to: row.reason for row in a.rows("links")} == {"b": "none", "c": "probe-lost"}
        assert any(problem.what == "site c" for problem in a.status().problems)
    finally:
        line.mend("b", "c")
        line.mend("a", "c")
    until(lambda: a.reasons()["c"] == "none", 10, "C back")
    assert clients.do("check")["dead"] == 0


def test_a_changed_cost_changes_the_split_and_cuts_nothing(line: Line, clients: Clients) -> None:
    a = line.sites["a"]
    clients.open(50)
    a.write(links=line.document("a", {"b": 40})["links"])
    a.reload()
    try:
        until(lambda: a.candidates()["b"].path_cost == 40 and a.at_rest(), 10, "the new cost")
        assert a.candidates()["c"].path_cost == 60
        assert clients.do("check")["dead"] == 0
        clients.open(150)
        assert clients.names() == by_rule({"a": 0, "b": 40, "c": 60}, 200)
    finally:
        a.write()
        a.reload()
    until(lambda: a.candidates()["b"].path_cost == 10, 10, "the old cost")
    assert clients.do("check")["dead"] == 0


def test_a_bad_configuration_keeps_the_last_good_one(line: Line, clients: Clients) -> None:
    a = line.sites["a"]
    document = line.document("a")
    document["links"][0]["cost"] = 0
    a.write(links=document["links"])
    a.reload()
    try:
        until(lambda: any(one.what == "configuration" for one in a.status().problems), 10, "the problem")
        cause = next(one.cause for one in a.status().problems if one.what == "configuration")
        assert "links[0].cost" in cause
        assert a.skedge("status", check=False).returncode == 3
        assert a.document_of("show", "sync")["config_error"]
        assert clients.open(100) == SPLIT
    finally:
        a.write()
        a.reload()
    until(lambda: not any(one.what == "configuration" for one in a.status().problems), 10, "the problem is gone")


def test_two_entering_sites_reckon_with_each_others_connections(line: Line, clients: Clients) -> None:
    a, c = line.sites["a"], line.sites["c"]
    opened = clients.open(30)
    assert opened == {"a": 20, "b": 10}
    took = until(lambda: c.others() == {"a": 20, "b": 10, "c": 0}, 5, "A's report at C")
    print(f"\nreported after {took * 1000:.0f} ms")
    assert c.candidates()["a"].others_age_s is not None
    here = Clients(c)
    try:
        costs = {site: row.path_cost or 0 for site, row in c.candidates().items()}
        assert here.open(40) == by_rule(costs, 40, {"a": 20, "b": 10})
        until(lambda: a.others() == {"a": 0, "b": here.names()["b"], "c": here.names()["c"]}, 5, "C's report at A")
        asked = {row.site: (row.open, row.others) for row in a.explain("c").candidates}
        assert asked == {"a": (0, 20), "b": (here.names()["b"], 10), "c": (here.names()["c"], 0)}
    finally:
        here.quit()
    until(lambda: a.others() == {"a": 0, "b": 0, "c": 0}, 5, "C's connections gone at A")


def test_a_drained_connector_gets_no_new_connection_and_keeps_its_own(line: Line, clients: Clients) -> None:
    a, b = line.sites["a"], line.sites["b"]
    clients.open(60)
    held = clients.names()
    connector = dict(line.document("b")["connectors"][0], drain=True)
    b.write(connectors=[connector])
    b.reload()
    try:
        until(lambda: a.reasons()["b"] == "drained" and a.at_rest(), 10, "drained at A")
        assert "b" not in clients.open(20)
        assert clients.names()["b"] == held["b"]
        assert clients.do("check")["dead"] == 0
    finally:
        b.write()
        b.reload()
    until(lambda: a.reasons()["b"] == "none", 10, "B's workload back")
