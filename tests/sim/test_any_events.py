"""Whatever happens to a small network, once it stops happening all that can talk agree."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim.node import Node
from tests.sim.wire import Wire
from tests.sim.world import World

BOUND_S = 4.0  # detection, dialling, six hops of 0.1 s, retransmissions; far below the 30 s of anti-entropy
EVENTS: dict[str, Callable[[World, int], object]] = {
    "cut": lambda world, pick: world.cut(_wire(world, pick).link),
    "mend": lambda world, pick: world.mend(_wire(world, pick).link),
    "reset": lambda world, pick: _wire(world, pick).close(),
    "recost": lambda world, pick: _wire(world, pick).recost(1 + pick % 7),
    "kill": lambda world, pick: _node(world, pick).stop(),
    "kill and lose the disk": lambda world, pick: _node(world, pick).stop(forget=True),
    "start": lambda world, pick: _node(world, pick).start(),
    "power off": lambda world, pick: _node(world, pick).die(),
    "power on": lambda world, pick: _node(world, pick).revive(),
    "serve": lambda world, pick: _serve(_node(world, pick), 61000 + pick),
}


def _wire(world: World, pick: int) -> Wire:
    return list(world.wires.values())[pick % len(world.wires)]


def _node(world: World, pick: int) -> Node:
    return list(world.nodes.values())[pick % len(world.nodes)]


def _serve(node: Node, port: int) -> None:
    node.port = port
    node.link_changed()


@st.composite
def networks(draw: st.DrawFn) -> World:
    """Draw a connected network of 2 to 6 sites with up to 4 further links, lossy or not."""
    world = World(draw(st.integers(0, 1000)))
    names = "abcdef"[: draw(st.integers(2, 6))]
    loss = draw(st.sampled_from([0.0, 0.1]))
    cost, delay = st.integers(1, 5), st.sampled_from([0.0, 0.005, 0.1])
    for name in names:
        world.site(name)
    for index in range(1, len(names)):
        world.link(names[index], names[draw(st.integers(0, index - 1))], draw(cost), draw(delay), loss)
    pairs = [(a, b) for a in names for b in names if a < b]
    for a, b in draw(st.lists(st.sampled_from(pairs), max_size=4)):
        world.link(a, b, draw(cost), draw(delay), loss, name=f"extra{len(world.wires)}")
    return world


happenings = st.lists(
    st.tuples(st.sampled_from(sorted(EVENTS)), st.integers(0, 100), st.sampled_from([0.0, 0.01, 0.15, 0.29, 0.4, 2.0])),
    max_size=25,
)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(networks(), happenings)
def test_all_that_can_talk_agree(world: World, happens: list[tuple[str, int, float]]) -> None:
    world.start()
    for what, pick, wait in happens:
        EVENTS[what](world, pick)
        world.run(wait)
    for node in world.nodes.values():
        node.start()  # hosts without power stay off
    world.run(BOUND_S, until=world.agreed)
    assert world.disagreements() == []
    world.run(1.0)
    assert world.disagreements() == []  # and it stays so
