"""What neighbours say to each other on a control stream, and the seams to signing, encoding and the wire.

Pure values. On the wire a message is ``[name, body]`` with the name from `MESSAGE_TYPES`, one message a frame of at
most `FRAME_MAX` bytes. Order on a stream: `Hello` first, then anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from skedge.core.model import LinkId
from skedge.core.reasons import Reason
from skedge.core.records import LinksRecord, ServicesRecord, Version

PROTOCOL = 1  # raised when an older controller could no longer understand us
FRAME_MAX = 1 << 20  # bytes of one frame on the wire
RECORD_MAX = FRAME_MAX - (1 << 14)  # bytes of body, certificate and signature of one record: it must fit in a frame
VERSION_MAX = (1 << 63) - 1  # of incarnation and sequence
HASH_BYTES = 8


class Kind(StrEnum):
    """The two records of a site: news of a failure (links) stays small whatever the site serves."""

    LINKS = "links"
    SERVICES = "services"


Body = LinksRecord | ServicesRecord


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Names one record of the database."""

    site: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """A record as its site made it; stored and passed on unchanged.

    ``body`` is the encoded LinksRecord or ServicesRecord, ``certificate`` the site's (DER), ``signature`` Ed25519
    over `signed_bytes`.
    """

    site: str
    kind: Kind
    version: Version
    body: bytes
    certificate: bytes
    signature: bytes

    @property
    def key(self) -> Key:
        """The record's place in the database."""
        return Key(self.site, self.kind)

    @property
    def size(self) -> int:
        """Bytes that count against `RECORD_MAX`."""
        return len(self.body) + len(self.certificate) + len(self.signature)


def signed_bytes(network: str, record: SignedRecord) -> bytes:
    """Return what the signature covers: network, site, kind, version and body, separated unambiguously."""
    parts = [
        b"skedge record 1",
        network.encode(),
        record.site.encode(),
        record.kind.encode(),
        record.version.incarnation.to_bytes(8),
        record.version.sequence.to_bytes(8),
        record.body,
    ]
    return b"".join(len(part).to_bytes(4) + part for part in parts)


def short_hash(record: SignedRecord) -> bytes:
    """Return 8 bytes that tell two records of one version apart.

    Certificate and signature are left out, so a renewed certificate alone is no difference.
    """
    return hashlib.sha256(signed_bytes("", record)).digest()[:HASH_BYTES]


# ---- messages ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """First message on a stream, in both directions: who speaks, and on which link."""

    site: str
    network: str
    link: str  # the link's name
    incarnation: int
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class Digest:
    """One record that the sender holds."""

    key: Key
    version: Version
    hash: bytes


@dataclass(frozen=True, slots=True)
class Digests:
    """Everything that the sender holds."""

    entries: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class Pull:
    """Please send these records, as new as you have them."""

    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class AgedRecord:
    """A record with its age in milliseconds since its site made it, as far as the sender knows (not signed)."""

    record: SignedRecord
    age_ms: int


@dataclass(frozen=True, slots=True)
class Records:
    """Records, pulled or news."""

    records: tuple[AgedRecord, ...]


Message = Hello | Digests | Pull | Records

MESSAGE_TYPES: Mapping[str, type[Message]] = MappingProxyType(
    {"hello": Hello, "digests": Digests, "pull": Pull, "records": Records}
)
MESSAGE_NAMES: Mapping[type[Message], str] = MappingProxyType({kind: name for name, kind in MESSAGE_TYPES.items()})


# ---- seams ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of a verification: ``reason`` NONE is good; ``fingerprint`` names the public key (hex, may be "")."""

    reason: Reason
    fingerprint: str = ""


class Signer(Protocol):
    """This site's identity."""

    @property
    def certificate(self) -> bytes:
        """The site's certificate as carried in its records; may change when it is renewed."""
        ...

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the site's public key, as a Verifier gives it."""
        ...

    def sign(self, data: bytes) -> bytes:
        """Return the signature over ``data``; equal data give equal signatures."""
        ...


class Verifier(Protocol):
    """Judges records against the network's CA, the revocation list and the wall clock. Never raises."""

    def verify(self, record: SignedRecord) -> Verdict:
        """Return NONE, or BAD_SIGNATURE (also: the certificate names another site or network), REVOKED, EXPIRED."""
        ...


class Codec(Protocol):
    """Encodes bodies. Equal bodies give equal bytes."""

    def encode(self, body: Body) -> bytes:
        """Return the body's bytes."""
        ...

    def decode(self, kind: Kind, body: bytes) -> Body:
        """Return the body. Raises ValueError (or a subclass) when the bytes are not a body of that kind."""
        ...


class Bus(Protocol):
    """The streams to the neighbours: the only seam between the flooder and the wire.

    The wire calls `Flooder.adjacency_up`, `receive` and `adjacency_down`; the simulation is one implementation,
    TLS streams are the other.
    """

    def wake(self, link: LinkId) -> None:
        """Say that the flooder has something for this link: `Flooder.take` it whenever the stream is writable."""
        ...

    def reset(self, link: LinkId, reason: Reason) -> None:
        """Close the link's stream (then report `adjacency_down`); it is dialled again after a delay."""
        ...
