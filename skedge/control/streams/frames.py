"""How messages look as bytes: msgpack arrays, strictly typed, in length-prefixed frames.

A message is an array that begins with its name (``core.linkstate.messages.MESSAGE_TYPES``). Fields are told apart by
their place, so a newer controller may append some (an older one ignores them); names, types and ranges are checked
here, sense (``core.linkstate.record_checks``) and signatures elsewhere. Whatever is wrong is a PeerError; decoding
raises nothing else.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from skedge.core.errors import PeerError
from skedge.core.linkstate.messages import (
    FRAME_MAX,
    HASH_BYTES,
    RECORD_MAX,
    VERSION_MAX,
    AgedRecord,
    Digest,
    Digests,
    Hello,
    Key,
    Kind,
    Message,
    Pull,
    Records,
    SignedRecord,
)
from skedge.core.model import COST_MAX
from skedge.core.reasons import Reason
from skedge.core.records import Version

LENGTH_BYTES = 4  # big endian, before every frame; the length does not count itself
ENTRIES_MAX = 20_000  # digests, keys or records of one message
NAME_MAX = 253
CERTIFICATE_MAX = 8192
SIGNATURE_BYTES = 64
PORT_MAX = 65535

Name = Annotated[str, Meta(min_length=1, max_length=NAME_MAX)]
Cost = Annotated[int, Meta(ge=1, le=COST_MAX)]
Count = Annotated[int, Meta(ge=0, le=VERSION_MAX)]


class BadFrame(PeerError, ValueError):
    """Bytes that are not what they should be. A PeerError with the reason BAD_FRAME (and a ValueError for codecs)."""

    reason = Reason.BAD_FRAME


class Wire(Struct, array_like=True):
    """A msgpack array; fields are told apart by their place.

    Each is the twin of a dataclass of the core: msgspec writes those as maps only, and the core knows no limits of the
    wire. A key or a version inside of a message is no array of its own, so messages are converted field by field.
    """


class _Hello(Wire, tag="hello"):
    site: Name
    network: Name
    link: Name
    incarnation: Count
    protocol: Annotated[int, Meta(ge=1, le=PORT_MAX)]


class _Digest(Wire):
    site: Name
    kind: Kind
    incarnation: Count
    sequence: Count
    hash: Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]


class _Digests(Wire, tag="digests"):
    entries: Annotated[list[_Digest], Meta(max_length=ENTRIES_MAX)]


class _Key(Wire):
    site: Name
    kind: Kind


class _Pull(Wire, tag="pull"):
    keys: Annotated[list[_Key], Meta(max_length=ENTRIES_MAX)]


class _Record(Wire):
    site: Name
    kind: Kind
    incarnation: Count
    sequence: Count
    body: Annotated[bytes, Meta(max_length=RECORD_MAX)]
    certificate: Annotated[bytes, Meta(max_length=CERTIFICATE_MAX)]
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
    age_ms: Count


class _Records(Wire, tag="records"):
    records: Annotated[list[_Record], Meta(max_length=ENTRIES_MAX)]


_encoder = msgspec.msgpack.Encoder()
_message = msgspec.msgpack.Decoder(_Hello | _Digests | _Pull | _Records)

FAILURES = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)


# ---- messages ---------------------------------------------------------------------------------------------------


def encode_message(message: Message) -> bytes:
    """Return the message's bytes without the length. Raises BadFrame when it does not fit into a frame."""
    payload = _encoder.encode(_to_wire(message))
    if len(payload) > FRAME_MAX:
        raise BadFrame(f"a message of {len(payload)} bytes is larger than {FRAME_MAX}")
    return payload


def decode_message(payload: bytes) -> Message:
    """Return the message in a frame. Raises BadFrame."""
    if len(payload) > FRAME_MAX:
        raise BadFrame(f"a frame of {len(payload)} bytes is larger than {FRAME_MAX}")
    try:
        return _from_wire(_message.decode(payload))
    except FAILURES as error:
        raise BadFrame(f"a frame that is no message: {error}") from error


def frame(message: Message) -> bytes:
    """Return the message as it goes over a stream: length and payload. Raises BadFrame."""
    payload = encode_message(message)
    return len(payload).to_bytes(LENGTH_BYTES) + payload


async def read_frame(reader: asyncio.StreamReader, rest_s: float) -> bytes | None:
    """Return the next frame's payload, None at a clean end of the stream.

    Waits for ever for a frame to begin, ``rest_s`` seconds for its rest, and reserves nothing on the peer's word.

    Raises:
        BadFrame: too large, empty, cut off or not completed in time.
        OSError: the stream broke.
    """
    try:
        first = await reader.read(1)
        if not first:
            return None
        async with asyncio.timeout(rest_s):
            size = int.from_bytes(first + await reader.readexactly(LENGTH_BYTES - 1))
            if not 0 < size <= FRAME_MAX:
                raise BadFrame(f"a frame of {size} bytes is not in 1..{FRAME_MAX}")
            return await reader.readexactly(size)
    except asyncio.IncompleteReadError as error:
        raise BadFrame("the stream ended inside a frame") from error
    except TimeoutError as error:
        raise BadFrame(f"a frame was not complete after {rest_s:g} s") from error


def _to_wire(message: Message) -> Wire:
    match message:
        case Hello():
            return _Hello(message.site, message.network, message.link, message.incarnation, message.protocol)
        case Digests():
            return _Digests(
                [
                    _Digest(
                        entry.key.site, entry.key.kind, entry.version.incarnation, entry.version.sequence, entry.hash
                    )
                    for entry in message.entries
                ]
            )
        case Pull():
            return _Pull([_Key(key.site, key.kind) for key in message.keys])
        case Records():
            return _Records([_record_to_wire(aged) for aged in message.records])


def _record_to_wire(aged: AgedRecord) -> _Record:
    record = aged.record
    return _Record(
        record.site,
        record.kind,
        record.version.incarnation,
        record.version.sequence,
        record.body,
        record.certificate,
        record.signature,
        aged.age_ms,
    )


def _from_wire(wire: _Hello | _Digests | _Pull | _Records) -> Message:
    match wire:
        case _Hello():
            return Hello(wire.site, wire.network, wire.link, wire.incarnation, wire.protocol)
        case _Digests():
            return Digests(
                tuple(Digest(Key(e.site, e.kind), Version(e.incarnation, e.sequence), e.hash) for e in wire.entries)
            )
        case _Pull():
            return Pull(tuple(Key(key.site, key.kind) for key in wire.keys))
        case _Records():
            return Records(tuple(_record_from_wire(record) for record in wire.records))


def _record_from_wire(wire: _Record) -> AgedRecord:
    version = Version(wire.incarnation, wire.sequence)
    record = SignedRecord(wire.site, wire.kind, version, wire.body, wire.certificate, wire.signature)
    return AgedRecord(record, wire.age_ms)
