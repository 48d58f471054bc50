"""A whole network in one process: virtual clock, links with delay, loss and cuts, sites that crash; seeded.

Every site runs the real `Flooder` and, when routes are looked at, the real `core.routing.rib`. Modelled are only the
wire (tests/sim/wire.py), the probes (a change is seen after `DETECT_S`), and the disk.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from skedge.core.linkstate.database import Limits, versions
from skedge.core.linkstate.messages import Message, Verifier
from skedge.core.model import LinkId
from skedge.core.routing import rib, spf
from tests.sim.doubles import FakeVerifier
from tests.sim.node import NETWORK, Node
from tests.sim.wire import Wire


class World:
    """Nodes, wires and the event queue."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 0.0
        self.events = 0
        self.verifier: Verifier = FakeVerifier(NETWORK)
        self.carry: Callable[[Message], Message] = lambda message: message  # a test may encode and decode here
        self.nodes: dict[str, Node] = {}
        self.wires: dict[LinkId, Wire] = {}
        self.wires_of: dict[str, list[Wire]] = {}
        self._down: set[LinkId] = set()
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0

    # ---- building and driving -------------------------------------------------------------------------------------

    def site(self, name: str, limits: Limits | None = None) -> Node:
        self.nodes[name] = Node(self, name, limits or Limits())
        self.wires_of[name] = []
        return self.nodes[name]

    def link(self, a: str, b: str, cost: int = 1, delay: float = 0.005, loss: float = 0.0, name: str = "main") -> Wire:
        wire = Wire(self, LinkId.between(a, b, name), cost, delay, loss)
        self.wires[wire.link] = wire
        self.wires_of[a].append(wire)
        self.wires_of[b].append(wire)
        return wire

    def start(self) -> None:
        for node in self.nodes.values():
            node.start()

    def cut(self, link: LinkId) -> None:
        self._down.add(link)
        self.wires[link].cut()

    def mend(self, link: LinkId) -> None:
        self._down.discard(link)
        self.wires[link].mend()

    def wanted_up(self, wire: Wire) -> bool:
        return wire.link not in self._down

    def at(self, when: float, step: Callable[[], object]) -> None:
        self._count += 1
        heappush(self._queue, (max(when, self.now), self._count, step))

    def after(self, wait: float, step: Callable[[], object]) -> None:
        self.at(self.now + wait, step)

    def run(self, seconds: float, *, until: Callable[[], bool] | None = None) -> float:
        """Let time pass, or less if ``until`` comes true (looked at every 10 ms); return how much passed."""
        start, end = self.now, self.now + seconds
        look = start
        while self.now < end:
            if until is not None:
                if until():
                    break
                look += 0.01
            stop = end if until is None else min(look, end)
            while self._queue and self._queue[0][0] <= stop:
                self.now, _, step = heappop(self._queue)
                self.events += 1
                step()
            self.now = stop
        return self.now - start

    # ---- judging --------------------------------------------------------------------------------------------------

    def parts(self) -> list[set[str]]:
        """Return the sites with running controllers, by who can talk to whom."""
        left = {name for name, node in self.nodes.items() if node.running}
        parts = []
        while left:
            part, edge = set(), [left.pop()]
            while edge:
                here = edge.pop()
                part.add(here)
                for wire in self.wires_of[here]:
                    there = wire.link.far_end(here)
                    if wire.up and there in left:
                        left.discard(there)
                        edge.append(there)
            parts.append(part)
        return parts

    def disagreements(self) -> list[str]:
        """Return what breaks the invariant: connected sites hold the same database, routes are right and loop-free."""
        return [fault for part in self.parts() for fault in (*self._databases(part), *self._routes(part))]

    def rib(self, name: str) -> rib.Rib:
        """Return the routes that a site computes now."""
        return rib.compute(self.nodes[name].flooder.network_map(), name)

    def agreed(self) -> bool:
        return not self.disagreements()

    def _databases(self, part: set[str]) -> Iterable[str]:
        first = min(part)
        expected = versions(self.nodes[first].flooder.database)
        for name in part:
            held = versions(self.nodes[name].flooder.database)
            if held != expected:
                yield f"{name} and {first} differ in {sorted(set(held.items()) ^ set(expected.items()))[:3]}"

    def _routes(self, part: set[str]) -> Iterable[str]:
        """Compare with the truth: cheapest paths over the wires that are up (all controllers of the part run)."""
        truth: dict[str, dict[str, int]] = {name: {} for name in part}
        for wire in self.wires.values():
            a, b = wire.link.a, wire.link.b
            if wire.up and a in part and b in part:
                truth[a][b] = truth[b][a] = min(wire.cost, truth[a].get(b, wire.cost))
        ribs = {name: self.rib(name) for name in part}
        for name in part:
            distance = spf.dijkstra(truth, name).distance
            paths = ribs[name].paths
            if {there: path.cost for there, path in paths.items()} != dict(distance):
                yield f"{name} reaches {sorted(paths)} but could reach {sorted(distance)}"
                continue
            for there, path in paths.items():
                for link in path.next_hops:  # each hop comes strictly nearer: no loop, whatever branch ECMP takes
                    rest = ribs[link.far_end(name)].path_cost(there)
                    if rest is None or rest >= path.cost:
                        yield f"{name} sends packets for {there} over {link}, which does not come nearer"


def random_network(sites: int, seed: int, loss: float = 0.0) -> World:
    """Return a connected network: a random tree and about as many more links as sites."""
    world = World(seed)
    names = [f"s{number:02}" for number in range(sites)]
    for name in names:
        world.site(name)
    for index in range(1, sites):
        world.link(names[index], world.random.choice(names[:index]), world.random.randint(1, 100), loss=loss)
    for _ in range(sites):
        a, b = world.random.sample(names, 2)
        if LinkId.between(a, b) not in world.wires:
            world.link(a, b, world.random.randint(1, 100), world.random.uniform(0.001, 0.05), loss)
    return world
