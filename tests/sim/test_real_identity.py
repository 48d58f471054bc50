"""The simulation once more with everything real: Ed25519, certificates of a CA, the wire's own encoding."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from skedge.control.identity import identity
from skedge.control.streams import frames
from skedge.control.streams.record_codec import BodyCodec
from skedge.core.linkstate.messages import Key, Kind
from skedge.core.reasons import Reason
from tests.sim.node import NETWORK
from tests.sim.world import World, random_network
from tests.unit.control.authority import Authority, key_pem


def identity_of(authority: Authority, directory: Path, site: str) -> identity.Identity:
    """Make a site's identity directory and read it."""
    key = Ed25519PrivateKey.generate()
    directory.mkdir(parents=True)
    (directory / "site.key").write_bytes(key_pem(key))
    (directory / "site.key").chmod(0o600)
    (directory / "site.crt").write_bytes(authority.issue(site, key).public_bytes(Encoding.PEM))
    (directory / "ca.crt").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    return identity.load(directory, NETWORK, site)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return 8 sites with identities of one CA; every message is encoded and decoded on its way."""
    authority = Authority(NETWORK)
    world = random_network(8, 21)
    for name, node in world.nodes.items():
        node.signer = identity_of(authority, tmp_path / name, name)
        node.codec = BodyCodec()
    world.verifier = world.nodes["s00"].signer.verifier
    world.carry = lambda message: frames.decode_message(frames.encode_message(message))
    return world


def test_real_records_over_the_real_encoding_agree(world: World) -> None:
    world.start()
    world.run(2, until=world.agreed)
    assert world.disagreements() == []
    some = world.wires_of["s03"][0]
    some.recost(50)
    world.nodes["s04"].stop(forget=True)
    world.run(0.5)
    world.nodes["s04"].start()
    world.cut(some.link)
    world.run(1.5)
    assert world.disagreements() == []
    assert world.nodes["s04"].flooder.incarnation == 2
    assert all(node.problems == {} for node in world.nodes.values())


def test_a_site_of_another_ca_is_refused(world: World, tmp_path: Path) -> None:
    stranger = world.nodes["s05"]
    stranger.signer = identity_of(Authority(NETWORK), tmp_path / "stranger", "s05")
    world.start()
    world.run(2)
    for name, node in world.nodes.items():
        if name != "s05":
            assert node.flooder.database.get(Key("s05", Kind.LINKS)) is None
    for link in world.wires_of["s05"]:
        assert world.nodes[link.link.far_end("s05")].problems[Reason.BAD_SIGNATURE] >= 1
