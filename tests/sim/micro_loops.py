"""What packets meet between the loss of a link and the last site's new route: measured in whole simulated networks.

``python -m tests.sim.micro_loops [CUTS]`` prints a table: how long pairs of sites were without a path after the probes
told of the loss, and how long packets went in circles, without alternates, with them, and with the local delay too.
Each site's kernel takes over a failure in `LEAD_S`, new paths in `APPLY_S` (a random part of it, once for each run).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from unittest.mock import patch

from skedge.core.linkstate.pacing import Backoff
from skedge.core.model import LinkId
from skedge.core.routing import forwarding
from skedge.core.routing.forwarding import Forwarding
from tests.sim.wire import DETECT_S
from tests.sim.world import World, random_network

LEAD_S, APPLY_S = 0.01, (0.02, 0.12)
STEP_S = 0.005
WATCH_S = 1.2  # after the loss was detected

Fib = Mapping[str, tuple[LinkId, ...]]


@dataclass
class Router:
    """One site's routes: what it computed, and what its kernel has."""

    made: Forwarding
    spf: Backoff = field(default_factory=Backoff)
    runs: int = -1
    fib: Fib = field(default_factory=dict)


@dataclass
class Outcome:
    """Of one cut: the longest time that any pair had no path, and that anything went in circles; in seconds."""

    without_s: float
    circles_s: float
    pairs: int
    circling: frozenset[tuple[str, str]] = frozenset()


class Routers:
    """The routes of all sites of a world, driven as the daemon drives them."""

    def __init__(self, world: World, *, alternates: bool) -> None:
        self.world, self._alternates = world, alternates
        self.all = {name: Router(Forwarding(name)) for name in world.nodes}

    def step(self) -> None:
        """Let every site draw its consequences."""
        now = self.world.now
        for name, one in self.all.items():
            node = self.world.nodes[name]
            failed = frozenset(wire.link for wire in node.wires() if not wire.answers)
            if self._alternates and one.made.follow(now, failed):
                self._install(one, LEAD_S)
            if node.spf_runs != one.runs:
                one.runs = node.spf_runs
                one.spf.event(now)
            if one.spf.due(now) and node.flooder is not None:
                one.spf.done()
                one.made.recompute(now, node.flooder.network_map())
                self._install(one, self.world.random.uniform(*APPLY_S))
            if one.made.release(now):
                self._install(one, LEAD_S)

    def _install(self, one: Router, wait: float) -> None:
        fib = {site: hops.links for site, hops in one.made.hops().items()}

        def take() -> None:
            one.fib = fib

        self.world.after(wait, take)

    def fate(self, here: str, site: str) -> str:
        """Return what becomes of a packet over the first of its next hops each time: there, lost or circle."""
        met = set()
        while here != site:
            if here in met:
                return "circle"
            met.add(here)
            links = self.all[here].fib.get(site, ())
            if not links or not self.world.wires[links[0]].up:
                return "lost"
            here = links[0].far_end(here)
        return "there"


def cut(seed: int, *, alternates: bool = True, delay_s: float = forwarding.LOCAL_DELAY_S, sites: int = 20) -> Outcome:
    """Cut one random link of a random network; the same seed is the same network, link and timing."""
    world = random_network(sites, seed)
    return measure(world, sorted(world.wires)[seed % len(world.wires)], alternates=alternates, delay_s=delay_s)


def measure(world: World, link: LinkId, *, alternates: bool = True, delay_s: float) -> Outcome:
    """Start a network, cut a link of it, and watch."""
    world.start()
    routers = Routers(world, alternates=alternates)
    with patch.object(forwarding, "LOCAL_DELAY_S", delay_s):
        while world.now < 4:
            world.run(STEP_S)
            routers.step()
        pairs = [(a, b) for a in world.nodes for b in world.nodes if a != b]
        assert all(routers.fate(a, b) == "there" for a, b in pairs)
        world.cut(link)
        world.run(DETECT_S)
        return _watch(world, routers, pairs)


def _watch(world: World, routers: Routers, pairs: list[tuple[str, str]]) -> Outcome:
    without: dict[tuple[str, str], float] = {}
    circles, began, circling = 0.0, world.now, set()
    while world.now < began + WATCH_S:
        world.run(STEP_S)
        routers.step()
        fates = {pair: routers.fate(*pair) for pair in pairs}
        circles += STEP_S * ("circle" in fates.values())
        circling |= {pair for pair, fate in fates.items() if fate == "circle"}
        for pair, fate in fates.items():
            if fate != "there":
                without[pair] = without.get(pair, 0.0) + STEP_S
    whole = {pair for pair in without if routers.fate(*pair) == "there"}
    return Outcome(max((without[pair] for pair in whole), default=0.0), circles, len(whole), frozenset(circling))


def main(cuts: int = 40) -> None:
    print(f"{cuts} cuts in networks of 20 sites, seconds from when the probes told of it")
    print("                      without a path            in circles")
    print("                      median   worst   pairs    cuts with  median  worst")
    for name, alternates, delay_s in (("none", False, 0.0), ("alternates", True, 0.0), ("and delay", True, 0.5)):
        found = [cut(seed, alternates=alternates, delay_s=delay_s) for seed in range(cuts)]
        without, circles = (sorted(getattr(one, key) for one in found) for key in ("without_s", "circles_s"))
        some = [one for one in circles if one] or [0.0]
        print(
            f"{name:20}  {without[cuts // 2]:6.3f}  {without[-1]:6.3f}  {sum(one.pairs for one in found):6}"
            f"   {sum(map(bool, circles)):9}  {some[len(some) // 2]:6.3f} {some[-1]:6.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
