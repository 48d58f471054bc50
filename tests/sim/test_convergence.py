"""A whole network under cuts, loss, restarts and power failures ends agreed, with right and loop-free routes."""

from __future__ import annotations

import pytest

from skedge.core.linkstate.messages import Key, Kind
from tests.sim.node import HOLD_S
from tests.sim.world import World, random_network

BOUND_S = 1.5  # after the last change, 0.3 s of detection included; far below the 30 s of anti-entropy


def disturb(world: World) -> float:
    """Do one random thing to a network; return when what it breaks is mended, at most 3 seconds later."""
    wire = world.random.choice(list(world.wires.values()))
    node = world.random.choice(list(world.nodes.values()))
    later = world.random.uniform(0.05, 3)
    match world.random.randrange(7):
        case 0 | 1:
            world.cut(wire.link)
            world.after(later, lambda: world.mend(wire.link))
        case 2:
            node.stop(forget=world.random.random() < 0.5)
            world.after(later, node.start)
        case 3:
            node.die()
            world.after(later, node.revive)
        case 4:
            wire.close()
        case 5:
            wire.recost(world.random.randint(1, 100))
        case 6:
            node.port = world.random.randint(61000, 62999)
            node.link_changed()
    return world.now + later


@pytest.mark.parametrize(("seed", "loss"), [(1, 0.0), (2, 0.05), (3, 0.2)])
def test_fifty_sites_agree_after_a_storm(seed: int, loss: float) -> None:
    world = random_network(50, seed, loss)
    world.start()
    world.run(5)
    assert world.disagreements() == []
    mended = 0.0
    for _ in range(60):
        mended = max(mended, disturb(world))
        world.run(world.random.expovariate(4))
    world.run(mended - world.now)
    took = world.run(60, until=world.agreed)
    assert world.disagreements() == []
    assert len(world.parts()) == 1
    assert took < BOUND_S + 5 * loss  # each loss is a retransmission after 0.2 s or more


def test_parts_that_were_apart_agree_when_they_meet() -> None:
    world = random_network(20, 4)
    world.start()
    world.run(2)
    bridge = [wire.link for wire in world.wires.values() if (wire.link.a < "s10") != (wire.link.b < "s10")]
    for link in bridge:
        world.cut(link)
    world.run(2)
    assert len(world.parts()) > 1
    assert world.disagreements() == []
    for node in world.nodes.values():
        node.port += 1
        node.link_changed()
    world.nodes["s03"].stop(forget=True)
    world.nodes["s03"].start()
    world.run(2)
    for link in bridge:
        world.mend(link)
    world.run(BOUND_S, until=world.agreed)
    assert len(world.parts()) == 1
    assert world.disagreements() == []


def line(seed: int = 5) -> World:
    """Return a -10- b -20- c with a dear way round, started."""
    world = World(seed)
    for name in "abc":
        world.site(name)
    world.link("a", "b", 10)
    world.link("b", "c", 20)
    world.link("a", "c", 100)
    world.start()
    world.run(2)
    assert world.disagreements() == []
    return world


def test_a_dead_site_vanishes_because_its_neighbours_say_so() -> None:
    world = line()
    world.nodes["b"].die()
    world.run(0.4)  # 0.3 s of it until the probes notice
    for name in "ac":
        assert "b" not in world.rib(name).paths
        assert world.nodes[name].flooder.database.get(Key("b", Kind.SERVICES)) is not None  # not by its age
    assert world.rib("a").path_cost("c") == 100


def test_its_records_go_when_they_are_old() -> None:
    world = line()
    world.nodes["b"].die()
    world.run(1790)
    assert world.nodes["a"].flooder.database.get(Key("b", Kind.LINKS)) is not None
    world.run(20)
    for name in "ac":
        assert world.nodes[name].flooder.database.get(Key("b", Kind.LINKS)) is None
        assert world.nodes[name].flooder.database.get(Key("c", Kind.LINKS)) is not None  # those were refreshed


def test_a_restart_of_the_controller_changes_no_route() -> None:
    world = line()
    before = {name: world.nodes[name].spf_runs for name in "ac"}
    world.nodes["b"].stop()
    world.run(HOLD_S / 2)
    world.nodes["b"].start()
    world.run(5)
    assert world.disagreements() == []
    assert {name: world.nodes[name].spf_runs for name in "ac"} == before  # nobody ever heard a difference


def test_a_controller_that_stays_away_is_given_up_after_the_hold_time() -> None:
    world = line()
    world.nodes["b"].stop()
    world.run(HOLD_S - 1)
    assert world.rib("a").path_cost("c") == 30
    world.run(2)
    assert world.rib("a").path_cost("c") == 100
    assert "b" not in world.rib("a").paths
    world.nodes["b"].start()
    world.run(2)
    assert world.disagreements() == []


def test_a_restart_without_memory_jumps_past_the_life_before() -> None:
    world = line()
    for _ in range(5):
        world.nodes["b"].stop()
        world.run(1)
        world.nodes["b"].start()
        world.run(1)
    world.nodes["b"].stop(forget=True)
    world.run(1)
    world.nodes["b"].port = 62000
    world.nodes["b"].start()
    assert world.nodes["b"].flooder.incarnation == 1
    world.run(1)
    assert world.disagreements() == []
    assert world.nodes["b"].flooder.incarnation == 7
    assert world.nodes["a"].flooder.network_map().services["b"].workloads[0].port == 62000


def test_a_burst_of_changes_is_paced_and_its_last_word_arrives() -> None:
    world = line()
    before = world.nodes["b"].flooder.database.get(Key("b", Kind.SERVICES)).record.version.sequence
    for number in range(1000):
        world.nodes["b"].port = 61001 + number
        world.nodes["b"].link_changed()
        world.run(0.005)
    world.run(0.5)
    after = world.nodes["a"].flooder.database.get(Key("b", Kind.SERVICES))
    assert after.body.workloads[0].port == 62000
    assert after.record.version.sequence - before < 40  # 5 s: 0, then every 50 ms for half a second, then every 200


def test_a_slow_link_gets_only_the_newest() -> None:
    world = line()
    slow = world.wires_of["a"][0]
    slow.bytes_s = 2000.0  # a record takes longer than the time between two
    carried = slow.frames
    for number in range(100):
        world.nodes["a"].port = 61001 + number
        world.nodes["a"].link_changed()
        world.run(0.05)
    world.run(3)
    assert world.nodes["b"].flooder.network_map().services["a"].workloads[0].port == 61100
    assert slow.frames - carried < 40
