"""A neighbour of another version: bytes recorded from the version before (commit 7b0c905) are still ours, both ways.

Records are signed and compared as bytes, so the same body must not only be understood, but be the same bytes.
"""

from __future__ import annotations

import msgspec
import pytest

from skedge.control.streams.frames import decode_message, encode_message
from skedge.control.streams.record_codec import BodyCodec
from skedge.core.linkstate.messages import (
    AgedRecord,
    Digest,
    Digests,
    Hello,
    Key,
    Kind,
    Pull,
    Records,
    SignedRecord,
)
from skedge.core.model import Protocol
from skedge.core.records import LinksRecord, LinkState, ServicesRecord, Version, WorkloadState

MESSAGES = {
    "hello": Hello("edge-a", "demo", "main", 1700000000, 1),
    "digests": Digests(
        (
            Digest(Key("edge-a", Kind.LINKS), Version(1700000000, 3), bytes(range(8))),
            Digest(Key("édge", Kind.SERVICES), Version(0, (1 << 63) - 1), b"\xff" * 8),
        )
    ),
    "pull": Pull((Key("edge-a", Kind.LINKS), Key("edge-b", Kind.SERVICES))),
    "records": Records(
        (AgedRecord(SignedRecord("edge-a", Kind.LINKS, Version(7, 8), b"body", b"cert", b"s" * 64), 65536),)
    ),
}
BODIES = {
    "links": LinksRecord(
        "edge-a",
        "100.64.0.1",
        "fd00::1",
        (
            LinkState("edge-b", "main", 10, True, 1234, {"web": 5, "é": 7, "a": 65535, "aa": 1}),
            LinkState("edge-c", "second", 65535, False),
        ),
        True,
        False,
        ("10.0.0.0/8", "fd01::/48"),
        "skedge 0.1.0",
        ("192.168.0.0/16",),
    ),
    "links, nothing more than must be": LinksRecord("a", "", ""),
    "services": ServicesRecord(
        "edge-a",
        (
            WorkloadState("web", "web", 61000),
            WorkloadState(
                "dns", "dns", 62999, Protocol.UDP, capacity=65535, healthy=False, drain=True, ipv4=False, ipv6=True
            ),
        ),
        ("web", "dns"),
    ),
    "services, none": ServicesRecord("edge-a"),
}
RECORDED = {
    "hello": "96a568656c6c6fa6656467652d61a464656d6fa46d61696ece6553f10001",
    "digests": (
        "92a7646967657374739295a6656467652d61a56c696e6b73ce6553f10003c408000102030405060795a5c3a9646765a8"
        "736572766963657300cf7fffffffffffffffc408ffffffffffffffff"
    ),
    "pull": "92a470756c6c9292a6656467652d61a56c696e6b7392a6656467652d62a87365727669636573",
    "records": (
        "92a77265636f7264739198a6656467652d61a56c696e6b730708c404626f6479c40463657274c4407373737373737373"
        "737373737373737373737373737373737373737373737373737373737373737373737373737373737373737373737373"
        "7373737373737373ce00010000"
    ),
    "links": (
        "99a6656467652d61aa3130302e36342e302e31a7666430303a3a319296a6656467652d62a46d61696e0ac3cd04d284a1"
        "61cdffffa2616101a377656205a2c3a90796a6656467652d63a67365636f6e64cdffffc20080c3c292aa31302e302e30"
        "2e302f38a9666430313a3a2f3438ac736b6564676520302e312e3091ae3139322e3136382e302e302f3136"
    ),
    "links, nothing more than must be": "99a161a0a090c2c290a090",
    "services": (
        "93a6656467652d619299a3776562a3776562cdee48a374637001c3c2c3c399a3646e73a3646e73cdf617a3756470cdff"
        "ffc2c3c2c392a3776562a3646e73"
    ),
    "services, none": "93a6656467652d619090",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_are_those_of_the_version_before(name: str) -> None:
    recorded = bytes.fromhex(RECORDED[name])
    assert encode_message(MESSAGES[name]) == recorded
    assert decode_message(recorded) == MESSAGES[name]


@pytest.mark.parametrize("name", BODIES)
def test_bodies_are_those_of_the_version_before(name: str) -> None:
    recorded, body = bytes.fromhex(RECORDED[name]), BODIES[name]
    kind = Kind.LINKS if isinstance(body, LinksRecord) else Kind.SERVICES
    assert without_later_fields(BodyCodec().encode(body)) == recorded
    assert BodyCodec().decode(kind, recorded) == body


LATER = 4  # of links: nat4, nat6, boot, boot_age_ms


def without_later_fields(body: bytes) -> bytes:
    """Return what the version before reads of a body: it passes over fields that follow those which it knows."""
    fields = msgspec.msgpack.decode(body)
    later = LATER if len(fields) > 9 else 0
    return msgspec.msgpack.encode(fields[: len(fields) - later])
