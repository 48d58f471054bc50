"""Alternates in whole networks: packets have a way again at once, and circles are few, short and gone."""

from __future__ import annotations

import pytest

from skedge.core.model import LinkId
from skedge.core.routing.forwarding import LOCAL_DELAY_S
from tests.sim.micro_loops import APPLY_S, LEAD_S, STEP_S, cut, measure
from tests.sim.world import World

SLOWEST_S = 2 * APPLY_S[1]  # the last site's new routes, with all that floods before


@pytest.mark.parametrize("seed", range(3))
def test_after_a_cut_nothing_is_without_a_path_for_long(seed: int) -> None:
    with_them, without = cut(seed), cut(seed, alternates=False)
    assert with_them.without_s <= max(without.without_s, LEAD_S + STEP_S)
    assert with_them.circles_s <= SLOWEST_S
    assert with_them.pairs == without.pairs


def ring() -> World:
    """A reaches D by P, else by N at once; by X for good, whose way led through A before."""
    world = World(7)
    for name in "ADNPX":
        world.site(name)
    for a, b, cost in (("A", "P", 1), ("P", "D", 1), ("A", "N", 10), ("N", "D", 9), ("A", "X", 1), ("X", "D", 5)):
        world.link(a, b, cost)
    return world


def circling(delay_s: float) -> set[tuple[str, str]]:
    """The pairs whose packets ever go in a circle, whoever is the slowest."""
    found: set[tuple[str, str]] = set()
    for seed in range(6):
        world = ring()
        world.random.seed(seed)
        found |= measure(world, LinkId("A", "P"), delay_s=delay_s).circling
    return found


def test_a_site_beside_the_cut_waits_until_no_other_sends_its_packets_back() -> None:
    assert ("A", "D") in circling(0.0)
    assert ("A", "D") not in circling(LOCAL_DELAY_S)
