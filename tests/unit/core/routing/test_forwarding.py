"""What a site forwards by from the loss of a link until all others have new paths."""

from __future__ import annotations

from math import inf

from skedge.core.model import LinkId
from skedge.core.routing.alternates import Protection
from skedge.core.routing.forwarding import LOCAL_DELAY_S, Forwarding, Hops
from tests.fakes.networks import configs, map_of

AB, AC, BD = LinkId("A", "B"), LinkId("A", "C"), LinkId("B", "D")
DIAMOND = configs([("A", "B", 10), ("B", "D", 10), ("A", "C", 15), ("C", "D", 15)])
# A reaches D by P; N is loop-free, and so is what the new paths use once P is lost: X, whose way led through A before
RING = configs([("A", "P", 1), ("P", "D", 1), ("A", "N", 10), ("N", "D", 9), ("A", "X", 1), ("X", "D", 5)])
AP, AN, AX = LinkId("A", "P"), LinkId("A", "N"), LinkId("A", "X")


def started(site: str, network: object) -> Forwarding:
    made = Forwarding(site)
    made.recompute(0.0, map_of(network))  # type: ignore[arg-type]
    return made


def test_a_failed_link_is_left_before_paths_are_computed_and_nothing_changes_then() -> None:
    made = started("A", DIAMOND)
    assert made.hops()["D"] == Hops((AB,), (AC,), Protection.NODE)
    assert made.follow(1.0, frozenset({AB}))
    assert made.hops()["D"] == Hops((AC,))
    made.recompute(1.0, map_of(DIAMOND, down=[AB]))
    assert made.hops()["D"] == Hops((AC,))
    assert made.deadline == inf, "it was safe on the old map: nothing to wait for"


def test_a_site_without_alternate_keeps_its_route_and_takes_the_new_one_at_once() -> None:
    made = started("B", DIAMOND)
    assert made.hops()["D"] == Hops((BD,))
    made.follow(1.0, frozenset({BD}))
    assert made.hops()["D"] == Hops((BD,))
    made.recompute(1.0, map_of(DIAMOND, down=[BD]))
    assert made.hops()["D"] == Hops((AB,))


def test_a_path_that_was_not_safe_before_waits_where_an_alternate_serves() -> None:
    made = started("A", RING)
    assert made.hops()["D"] == Hops((AP,), (AN,), Protection.NODE)
    made.follow(1.0, frozenset({AP}))
    made.recompute(1.01, map_of(RING, down=[AP]))
    assert made.rib.next_hops("D") == (AX,)
    assert made.hops()["D"] == Hops((AN,)), "X still sends what is for D to A"
    assert made.deadline == 1.0 + LOCAL_DELAY_S
    made.recompute(1.02, map_of(RING, down=[AP]))
    assert made.hops()["D"] == Hops((AN,)), "another change does not end the wait"
    assert not made.release(made.deadline - 0.01)
    assert made.release(made.deadline)
    assert made.hops()["D"] == Hops((AX,), (AN,), Protection.NODE)
    assert made.deadline == inf


def test_nothing_waits_on_an_alternate_that_fails_too() -> None:
    made = started("A", RING)
    made.follow(1.0, frozenset({AP}))
    made.recompute(1.01, map_of(RING, down=[AP]))
    made.follow(1.1, frozenset({AP, AN}))
    assert made.hops()["D"].links == (AX,)


def test_a_link_that_is_back_is_used_when_paths_are() -> None:
    made = started("A", DIAMOND)
    made.follow(1.0, frozenset({AB}))
    made.recompute(1.0, map_of(DIAMOND, down=[AB]))
    assert not made.follow(5.0, frozenset())
    assert made.hops()["D"] == Hops((AC,))
    made.recompute(5.1, map_of(DIAMOND))
    assert made.hops()["D"] == Hops((AB,), (AC,), Protection.NODE)


def test_a_link_that_carries_nothing_may_fail_unnoticed() -> None:
    spare = configs([("A", "B", 1), ("A", "B", 2, "y")])
    made = started("A", spare)
    assert not made.follow(1.0, frozenset({LinkId("A", "B", "y")}))
    assert made.hops()["B"] == Hops((AB,))
