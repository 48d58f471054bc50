"""Sites that lie, replay, forge and flood: what they can break is their own links, nothing of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skedge.core.linkstate.database import versions
from skedge.core.linkstate.messages import AgedRecord, Key, Kind, Message, Pull, Records, SignedRecord, signed_bytes
from skedge.core.linkstate.pacing import Backoff
from skedge.core.model import LinkId
from skedge.core.reasons import Reason
from skedge.core.records import LinksRecord, LinkState, ServicesRecord, Version
from tests.sim.doubles import FakeSigner, PlainCodec
from tests.sim.node import NETWORK
from tests.sim.world import World, random_network

BOUND_S = 1.5
HOSTILE = "s07"
CODEC = PlainCodec()


@pytest.fixture
def world() -> World:
    """Return 15 sites that agree; s07 is the hostile one and has two links or more."""
    world = random_network(15, 11)
    world.link("s00", HOSTILE, 1)
    world.start()
    world.run(2)
    assert world.disagreements() == []
    assert len(world.wires_of[HOSTILE]) >= 2
    return world


def say(world: World, *records: SignedRecord, age_ms: int = 0) -> None:
    """Let the hostile site send records over all its links, past its own flooder."""
    message = Records(tuple(AgedRecord(record, age_ms) for record in records))
    for wire in world.wires_of[HOSTILE]:
        world.nodes[wire.link.far_end(HOSTILE)].receive(wire.link, message)


def signed(site: str, key: str, version: Version, body: LinksRecord | ServicesRecord) -> SignedRecord:
    signer = FakeSigner(site, key)
    kind = Kind.LINKS if isinstance(body, LinksRecord) else Kind.SERVICES
    record = SignedRecord(site, kind, version, CODEC.encode(body), signer.certificate, b"")
    return replace(record, signature=signer.sign(signed_bytes(NETWORK, record)))


def held(world: World, at: str, of: str, kind: Kind = Kind.LINKS) -> SignedRecord:
    return world.nodes[at].flooder.database.get(Key(of, kind)).record


def everything(world: World) -> list[object]:
    return [versions(node.flooder.database) for node in world.nodes.values()]


def test_replayed_records_change_nothing(world: World) -> None:
    old = [held(world, HOSTILE, name, kind) for name in world.nodes for kind in Kind]
    wire = next(iter(world.wires.values()))
    wire.recost(77)
    for node in world.nodes.values():
        node.port += 1
        node.link_changed()
    world.run(BOUND_S)
    assert world.disagreements() == []
    before = everything(world)
    for _ in range(20):
        say(world, *old)
        world.run(0.1)
    assert everything(world) == before


def test_forged_records_stop_at_the_first_honest_site(world: World) -> None:
    before = everything(world)
    victim = LinksRecord("s03", "", "", ())
    genuine = held(world, HOSTILE, "s03")
    say(
        world,
        signed("s03", "a key of no certificate", Version(9, 9), victim),  # own key under another's name
        replace(genuine, version=Version(9, 9)),  # a genuine signature on another version
        replace(genuine, body=CODEC.encode(victim), version=Version(9, 9)),
        replace(signed(HOSTILE, "", Version(9, 9), replace(victim, site=HOSTILE)), site="s03"),
        signed(HOSTILE, "", Version(9, 9), victim),  # genuine, but speaks for another
    )
    world.run(1)
    assert everything(world) == before
    neighbours = {wire.link.far_end(HOSTILE) for wire in world.wires_of[HOSTILE]}
    for name, node in world.nodes.items():
        refused = {reason for reason in node.problems if node.problems[reason]}
        expected = {Reason.BAD_SIGNATURE, Reason.DUPLICATE_SITE, Reason.BAD_FRAME} if name in neighbours else set()
        assert refused == expected


def test_an_age_that_lies_drops_nothing_young(world: World) -> None:
    before = everything(world)
    records = [held(world, HOSTILE, name, kind) for name in world.nodes for kind in Kind]
    for age_ms in (0, 1_799_999, 1_800_000, 1 << 62):
        say(world, *records, age_ms=age_ms)
    world.run(10)
    assert everything(world) == before


def test_one_end_alone_cannot_claim_a_link(world: World) -> None:
    claims = tuple(LinkState(name, "main", 1, True) for name in world.nodes if name != HOSTILE)
    paths = {name: world.rib(name).paths for name in world.nodes}
    used = {wire.link for wire in world.wires_of[HOSTILE]}
    costs = {wire.link: wire.cost for wire in world.wires_of[HOSTILE]}
    claims = tuple(replace(claim, cost=costs.get(LinkId.between(HOSTILE, claim.to), 1)) for claim in claims)
    version = held(world, HOSTILE, HOSTILE).version
    say(
        world,
        signed(HOSTILE, "", replace(version, sequence=version.sequence + 1), LinksRecord(HOSTILE, "", "", claims)),
    )
    world.run(0.2)
    assert len(claims) > len(used)
    assert {name: world.rib(name).paths for name in world.nodes} == paths


def test_a_site_that_floods_is_slowed_and_the_others_converge(world: World) -> None:
    hostile = world.nodes[HOSTILE]
    for own in hostile.flooder._originator._own.values():
        own.backoff = Backoff(0, 0, 0)  # it does not pace itself

    def flood(seconds: float) -> None:
        for _ in range(int(seconds * 1000)):
            hostile.port = 1 + hostile.port % 60000
            hostile.link_changed()
            world.run(0.001)

    honest = [wire for wire in world.wires.values() if HOSTILE not in (wire.link.a, wire.link.b)]
    frames = sum(wire.frames for wire in honest)
    flood(1.0)
    honest[0].recost(99)
    flood(BOUND_S)
    assert list(world._routes(set(world.nodes))) == []  # the news got through the flood
    sent = held(world, HOSTILE, HOSTILE, Kind.SERVICES).version.sequence
    assert sent > 2500
    passed_on = 20 + 10 * (1 + BOUND_S)  # the burst and the rate of one origin
    carried = sum(wire.frames for wire in honest) - frames
    assert carried < 2 * len(honest) * passed_on * 2  # news, and at most one correction for each
    neighbour = world.nodes[world.wires_of[HOSTILE][0].link.far_end(HOSTILE)]
    assert neighbour.problems[Reason.RATE_LIMITED] > 2000
    world.run(5, until=world.agreed)
    assert world.disagreements() == []  # in the end all hold what it said last
    assert held(world, "s00", HOSTILE, Kind.SERVICES).version.sequence == sent


def test_forgeries_under_anothers_name_do_not_keep_its_news_out(world: World) -> None:
    def forged(number: int) -> SignedRecord:
        return replace(held(world, HOSTILE, "s03"), version=Version(50, number))

    for number in range(2500):
        if number == 1000:
            world.nodes["s03"].port = 62222
            world.nodes["s03"].link_changed()
        say(world, forged(number))
        world.run(0.001)
    for node in world.nodes.values():
        assert node.flooder.network_map().services["s03"].workloads[0].port == 62222


def test_garbage_ends_the_stream_and_the_site_comes_back(world: World) -> None:
    wire = world.wires_of[HOSTILE][0]
    neighbour = world.nodes[wire.link.far_end(HOSTILE)]
    session = wire.session
    garbage: list[Message] = [Pull(tuple(Key(str(number), Kind.LINKS) for number in range(10_000)))]
    for message in garbage:
        neighbour.receive(wire.link, message)
    assert neighbour.problems == {Reason.BAD_FRAME: 1}
    world.run(1)
    assert wire.session > session
    assert world.disagreements() == []
