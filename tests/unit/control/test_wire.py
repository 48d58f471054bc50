"""The wire: everything that can be said survives it, everything else is one kind of error."""

from __future__ import annotations

import asyncio
import string
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from skedge.control.streams.frames import BadFrame, decode_message, encode_message, frame, read_frame
from skedge.control.streams.record_codec import BodyCodec, workload_twin
from skedge.core.errors import PeerError
from skedge.core.linkstate.messages import (
    FRAME_MAX,
    MESSAGE_TYPES,
    VERSION_MAX,
    AgedRecord,
    Body,
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
from skedge.core.model import TERMS, Protocol, Term
from skedge.core.reasons import Reason
from skedge.core.records import LinksRecord, LinkState, ServicesRecord, Version, WorkloadState

names = st.text(string.ascii_letters + string.digits + "-._é", min_size=1, max_size=20)
counters = st.integers(0, VERSION_MAX)
versions = st.builds(Version, counters, counters)
kinds = st.sampled_from(Kind)
keys = st.builds(Key, names, kinds)
costs = st.integers(1, 65535)
digests = st.builds(Digest, keys, versions, st.binary(min_size=8, max_size=8))
records = st.builds(
    SignedRecord,
    names,
    kinds,
    versions,
    st.binary(max_size=200),
    st.binary(max_size=50),
    st.binary(min_size=64, max_size=64),
)
messages = st.one_of(
    st.builds(Hello, names, names, names, counters, st.integers(1, 65535)),
    st.builds(Digests, st.lists(digests, max_size=5).map(tuple)),
    st.builds(Pull, st.lists(keys, max_size=5).map(tuple)),
    st.builds(Records, st.lists(st.builds(AgedRecord, records, counters), max_size=4).map(tuple)),
)
links = st.builds(
    LinkState, names, names, costs, st.booleans(), st.integers(0, 1 << 40), st.dictionaries(names, costs, max_size=4)
)
workloads = st.builds(
    WorkloadState, names, names, costs, st.sampled_from(Protocol), *[st.booleans() for _ in range(4)], capacity=costs
)
bodies = st.one_of(
    st.builds(
        LinksRecord,
        names,
        st.just("100.64.0.1"),
        st.just("fd00::1"),
        st.lists(links, max_size=4).map(tuple),
        st.booleans(),
        st.booleans(),
        st.just(("10.0.0.0/8",)),
        st.text(max_size=20),
        st.sampled_from([(), ("10.1.0.0/16", "fd01::/48")]),
    ),
    st.builds(
        ServicesRecord, names, st.lists(workloads, max_size=4).map(tuple), st.lists(names, max_size=4).map(tuple)
    ),
)
HELLO = ["hello", "a", "demo", "main", 1, 1]
RECORD = ["a", "links", 1, 2, b"body", b"cert", bytes(64), 5]
raw = msgspec.msgpack.encode


@given(messages)
def test_messages_survive_the_wire(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


@given(bodies)
def test_bodies_survive_the_wire(body: Body) -> None:
    kind = Kind.LINKS if isinstance(body, LinksRecord) else Kind.SERVICES
    encoded = BodyCodec().encode(body)
    assert BodyCodec().decode(kind, encoded) == body


def test_equal_bodies_give_equal_bytes() -> None:
    one = LinksRecord("a", "1.2.3.4", "fd00::1", (LinkState("b", "main", 1, True, 5, {"x": 1, "y": 2}),))
    other = LinksRecord("a", "1.2.3.4", "fd00::1", (LinkState("b", "main", 1, True, 5, {"y": 2, "x": 1}),))
    assert one == other
    assert BodyCodec().encode(one) == BodyCodec().encode(other)


def test_a_version_that_refuses_no_prefix_is_understood_and_understands() -> None:
    older = ["a", "1.2.3.4", "fd00::1", [], False, False, [], "skedge 0"]
    assert BodyCodec().decode(Kind.LINKS, msgspec.msgpack.encode(older)) == LinksRecord(
        "a", "1.2.3.4", "fd00::1", software="skedge 0"
    )


def test_a_term_that_came_later_is_appended_and_may_be_missing() -> None:
    twin = workload_twin((*TERMS, Term("priority", 2, 0, 15)))
    older = ["web", "web", 61000, "tcp", 4, True, False, True, False]
    assert (
        BodyCodec().decode(Kind.SERVICES, msgspec.msgpack.encode(["a", [[*older, 9]], []])).workloads[0].capacity == 4
    )
    assert msgspec.convert(older, twin).priority == 2  # type: ignore[attr-defined]
    assert msgspec.to_builtins(msgspec.convert([*older, 9], twin)) == [*older, 9]
    for wrong in ([*older, 16], [*older, -1], older[:-1]):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, twin)


def test_a_body_that_others_would_refuse_is_not_made() -> None:
    with pytest.raises(ValueError, match="65535"):
        BodyCodec().encode(LinksRecord("a", "1.2.3.4", "fd00::1", (LinkState("b", "main", 70000, True),)))


@given(st.binary(max_size=400))
@example(b"")
@example(b"\x91" * 400)  # arrays in arrays
@example(b"\xdf\xff\xff\xff\xff")  # a map of 4 G entries, not there
@example(b"\xdd\xff\xff\xff\xff")  # an array of 4 G entries, not there
@example(b"\xc6\xff\xff\xff\xff")  # 4 GB of bytes, not there
def test_any_bytes_give_a_message_or_a_bad_frame(payload: bytes) -> None:
    decoders: list[Callable[[bytes], Any]] = [decode_message, *(lambda b, k=k: BodyCodec().decode(k, b) for k in Kind)]
    for decode in decoders:
        try:
            decode(payload)
        except BadFrame:
            continue


def test_a_bad_frame_is_a_peers_error_with_its_reason() -> None:
    with pytest.raises(PeerError) as caught:
        decode_message(b"")
    assert isinstance(caught.value, BadFrame)
    assert caught.value.reason is Reason.BAD_FRAME


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_one_changed_byte_never_raises_anything_else(data: st.DataObject) -> None:
    payload = bytearray(encode_message(data.draw(messages)))
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] = data.draw(st.integers(0, 255))
    try:
        message = decode_message(bytes(payload))
    except BadFrame:
        return
    assert type(message) in MESSAGE_TYPES.values()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    st.sampled_from(sorted(MESSAGE_TYPES)),
)
def test_well_formed_nonsense_under_a_good_name(nonsense: Any, name: str) -> None:
    parts = nonsense if isinstance(nonsense, list) else [nonsense]
    try:
        message = decode_message(raw([name, *parts]))
    except BadFrame:
        return
    assert isinstance(message, MESSAGE_TYPES[name])


@pytest.mark.parametrize(
    "wrong",
    [
        ["goodbye"],
        [1, "a"],
        {"type": "hello"},
        HELLO[:-1],
        ["hello", "", "demo", "main", 1, 1],
        ["hello", "a" * 254, "demo", "main", 1, 1],
        ["hello", "a", "demo", "main", -1, 1],
        ["hello", "a", "demo", "main", 2**63, 1],
        ["hello", "a", "demo", "main", 1.0, 1],
        ["hello", "a", "demo", "main", "1", 1],
        ["hello", "a", "demo", "main", True, 1],
        ["hello", b"a", "demo", "main", 1, 1],
        ["digests", [["a", "links", 1, 2, b"1234567"]]],
        ["digests", [["a", "loads", 1, 2, b"12345678"]]],
        ["pull", "links"],
        ["pull", [["a", "links"]] * 20_001],
        ["records", [[*RECORD[:-2], bytes(63), 5]]],
        ["records", [[*RECORD[:5], bytes(8193), bytes(64), 5]]],
        ["records", [[*RECORD[:-1], -1]]],
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_refused(wrong: Any) -> None:
    with pytest.raises(BadFrame, match=r"a frame that is no message"):
        decode_message(raw(wrong))


def test_the_refused_ones_are_near_good_ones() -> None:
    assert decode_message(raw(HELLO)) == Hello("a", "demo", "main", 1, 1)
    assert decode_message(raw(["records", [RECORD]]))
    assert decode_message(raw(["pull", [["a", "links"]] * 20_000]))


def test_a_newer_controller_may_append_fields() -> None:
    assert decode_message(raw([*HELLO, {"future": True}])) == Hello("a", "demo", "main", 1, 1)


# ---- frames -----------------------------------------------------------------------------------------------------


def read(*chunks: bytes, end: bool = True, rest_s: float = 0.2) -> bytes | None:
    async def work() -> bytes | None:
        reader = asyncio.StreamReader()
        for chunk in chunks:
            reader.feed_data(chunk)
        if end:
            reader.feed_eof()
        return await read_frame(reader, rest_s)

    return asyncio.run(work())


def test_frames() -> None:
    hello = Hello("a", "demo", "main", 1)
    data = frame(hello)
    assert int.from_bytes(data[:4]) == len(data) - 4
    assert decode_message(read(data) or b"") == hello
    assert read(data[:3], data[3:9], data[9:]) == data[4:]
    assert read() is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0", "ended inside a frame"),
        (b"\0\0\0\x05abcd", "ended inside a frame"),
        (b"\0\0\0\0", "0 bytes is not in 1"),
        ((FRAME_MAX + 1).to_bytes(4) + b"x", "bytes is not in 1"),
        (b"\xff\xff\xff\xff", "bytes is not in 1"),
    ],
)
def test_bad_frames(data: bytes, message: str) -> None:
    with pytest.raises(BadFrame, match=message):
        read(data)


def test_a_frame_that_never_ends_is_given_up() -> None:
    with pytest.raises(BadFrame, match=r"not complete after 0\.2 s"):
        read(b"\0\0\0\x05ab", end=False)


def test_the_largest_frame_passes_and_a_larger_one_is_not_made() -> None:
    def records_of(size: int) -> Records:
        record = SignedRecord("a", Kind.LINKS, Version(1, 1), bytes(size), b"", bytes(64))
        return Records((AgedRecord(record, 0),))

    size = FRAME_MAX - (1 << 14)
    assert decode_message(encode_message(records_of(size))) == records_of(size)
    two = Records(records_of(size).records * 2)
    with pytest.raises(BadFrame, match="larger than"):
        encode_message(two)
    with pytest.raises(BadFrame, match="larger than"):
        decode_message(bytes(FRAME_MAX + 1))
