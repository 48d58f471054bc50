"""What is drained by command, beside the configuration; and what passes through a site."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skedge.core.drains import Drain, DrainKind, applied, drained, find, named, undrained, workloads
from skedge.core.errors import ApiError
from skedge.core.linkstate.own_records import links_record, services_record
from skedge.core.model import COST_MAX, Connector, Link, LinkId, SiteConfig, WorkloadId
from skedge.core.reasons import Reason
from skedge.core.records import NetworkMap
from skedge.core.routing.rib import compute
from skedge.core.routing.transit import transit
from tests.fakes.networks import configs, map_of

CONFIG = SiteConfig(
    network="lab",
    site="b",
    overlay_cidr="100.64.0.0/10",
    overlay4="100.64.0.2",
    overlay6="fd00::2",
    links=(Link("a", cost=10, service_costs={"db": 3}), Link("a", "second", cost=20), Link("c", cost=30)),
    connectors=(
        Connector(service="web", name="web", host="::1", port=1),
        Connector(service="db", name="db", host="::1", port=2, drain=True),
    ),
)
SITE = Drain(DrainKind.SITE, by="ann", since=5.0)


def test_nothing_drained_is_the_configuration_itself() -> None:
    assert applied(CONFIG, ()) == CONFIG
    gone = (Drain(DrainKind.WORKLOAD, "gone"), Drain(DrainKind.LINK, "b--gone"))
    assert applied(CONFIG, gone) == CONFIG


def test_a_drained_site_is_no_transit_and_its_record_says_both() -> None:
    made = applied(CONFIG, (SITE,))
    record = links_record(made, {})
    assert (record.drain, record.overload, made.entry_drain) == (True, True, False)
    assert applied(CONFIG, (replace(SITE, entry=True),)).entry_drain
    by_configuration = replace(CONFIG, drain=True)
    assert applied(by_configuration, ()) == by_configuration, "a command takes nothing of the configuration back"


def test_a_drained_workload_is_told_to_all_and_the_others_are_as_they_were() -> None:
    made = applied(CONFIG, (Drain(DrainKind.WORKLOAD, "web"),))
    said = services_record(made, {}, {"web": 1, "db": 2}).workloads
    assert {one.connector: one.drain for one in said} == {"web": True, "db": True}
    assert workloads(made, DrainKind.WORKLOAD, "web") == {WorkloadId("b", "web")}
    assert workloads(made, DrainKind.SITE, "") == {WorkloadId("b", "web"), WorkloadId("b", "db")}


def test_a_drained_link_is_the_dearest_also_for_each_service_and_only_it() -> None:
    made = applied(CONFIG, (Drain(DrainKind.LINK, "a--b"),))
    assert [one.cost for one in made.links] == [COST_MAX, 20, 30]
    assert made.links[0].service_costs == {"db": COST_MAX}


@pytest.mark.parametrize("end", "AB")
def test_a_link_that_one_end_drains_is_no_path_for_either_while_there_is_another(end: str) -> None:
    networks = configs([("A", "B", 10), ("B", "C", 20), ("A", "C", 100)], "ABC")
    drains = (Drain(DrainKind.LINK, "A--B"),)
    networks[end] = applied(networks[end], drains)
    for site, far, cost, hop in (("A", "B", 120, "A--C"), ("B", "A", 120, "B--C")):
        rib = compute(map_of(networks), site)
        assert (rib.path_cost(far), [str(link) for link in rib.next_hops(far)]) == (cost, [hop])
    only = compute(map_of(networks, down=[LinkId("A", "C")]), "A")
    assert only.path_cost("B") == COST_MAX, "where no other path is, it goes on"


def test_a_drain_that_stands_keeps_its_time_unless_it_becomes_another() -> None:
    later = replace(SITE, by="bob", since=9.0)
    assert drained((SITE,), later) == (SITE,)
    assert drained((SITE,), replace(later, entry=True)) == (replace(later, entry=True),)
    link = Drain(DrainKind.LINK, "a--b")
    both = drained((SITE,), link)
    assert both == (SITE, link)
    assert undrained(both, DrainKind.SITE, "") == (link,)
    assert find(both, DrainKind.LINK, "a--b") == link
    assert find(both, DrainKind.WORKLOAD, "web") is None


@pytest.mark.parametrize(
    ("what", "name", "found"),
    [
        ("site", "", (DrainKind.SITE, "")),
        ("site", "b", (DrainKind.SITE, "")),
        ("workload", "web", (DrainKind.WORKLOAD, "web")),
        ("workload", "b/web", (DrainKind.WORKLOAD, "web")),
        ("link", "a--b:second", (DrainKind.LINK, "a--b:second")),
    ],
)
def test_names(what: str, name: str, found: tuple[DrainKind, str]) -> None:
    assert named(CONFIG, what, name) == found


@pytest.mark.parametrize(
    ("what", "name", "sentence"),
    [
        ("site", "c", "c is another site; a site is drained on its own host"),
        ("workload", "c/web", "c/web is a workload of another site; it is drained on that site's host"),
        ("workload", "wob", "this site has no workload 'wob'; it has: db, web"),
        ("link", "b--a", "this site has no link 'b--a'; it has: a--b, a--b:second, b--c"),
        ("world", "", "'world' cannot be drained; give site, workload NAME or link NAME"),
    ],
)
def test_what_is_not_here_is_refused_in_a_sentence(what: str, name: str, sentence: str) -> None:
    with pytest.raises(ApiError) as refused:
        named(CONFIG, what, name)
    assert str(refused.value) == sentence


def test_transit_is_counted_by_pairs_and_what_has_no_other_way_is_named() -> None:
    ring = map_of(configs([("A", "B", 10), ("B", "C", 20), ("A", "C", 100)], "ABC"))
    assert (transit(ring, "B").through, transit(ring, "B").cut) == (1, ())
    assert transit(ring, "A").through == 0
    line = configs([("A", "B", 10), ("B", "C", 20), ("C", "D", 1)], "ABCD")
    assert transit(map_of(line), "B").through == 2
    assert transit(map_of(line), "B").cut == (("A", "C"), ("A", "D"))
    line["B"] = applied(line["B"], (SITE,))
    told = transit(map_of(line), "B")
    assert (told.through, told.cut) == (0, (("A", "C"), ("A", "D"))), "nothing passes any more, and that is why"
    assert transit(NetworkMap({}, {}), "B").cut == ()


def test_the_programs_know_an_entry_drain_by_a_bit_that_no_other_reason_of_a_candidate_has() -> None:
    of_candidates = [one for one in Reason if 10 <= one.code < 20]
    assert Reason.ENTRY_DRAINED.code & 0x20
    assert not any(one.code & 0x20 for one in of_candidates)
