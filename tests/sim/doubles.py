"""Test doubles for identity and encoding: a keyed hash in the place of Ed25519, msgpack without range checks.

They keep thousands of simulated sites cheap; tests/sim/test_real_identity.py runs the real ones.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import msgspec

from skedge.core.linkstate.messages import Body, Kind, SignedRecord, Verdict, signed_bytes
from skedge.core.reasons import Reason
from skedge.core.records import LinksRecord, ServicesRecord


def _mac(key: str, data: bytes) -> bytes:
    return hashlib.blake2b(data, key=key.encode()[:64], digest_size=64).digest()


@dataclass
class FakeSigner:
    """The "certificate" is the site's name and its key: everybody can check it, only the tests forge with it."""

    site: str
    key: str = ""

    def __post_init__(self) -> None:
        self.key = self.key or f"key of {self.site}"

    @property
    def certificate(self) -> bytes:
        return f"{self.site}|{self.key}".encode()

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.key.encode()).hexdigest()

    def sign(self, data: bytes) -> bytes:
        return _mac(self.key, data)


@dataclass
class FakeVerifier:
    network: str
    revoked: set[bytes] = field(default_factory=set)
    calls: int = 0

    def verify(self, record: SignedRecord) -> Verdict:
        self.calls += 1
        site, _, key = record.certificate.decode(errors="replace").partition("|")
        if record.certificate in self.revoked:
            return Verdict(Reason.REVOKED)
        if site != record.site or _mac(key or "?", signed_bytes(self.network, record)) != record.signature:
            return Verdict(Reason.BAD_SIGNATURE)
        return Verdict(Reason.NONE, hashlib.sha256(key.encode()).hexdigest())


class PlainCodec:
    _types = {Kind.LINKS: LinksRecord, Kind.SERVICES: ServicesRecord}  # noqa: RUF012
    _encoder = msgspec.msgpack.Encoder(enc_hook=dict)

    def encode(self, body: Body) -> bytes:
        return self._encoder.encode(body)

    def decode(self, kind: Kind, body: bytes) -> Body:
        return msgspec.msgpack.decode(body, type=self._types[kind])
