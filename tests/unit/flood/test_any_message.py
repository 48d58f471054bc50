"""Whatever a neighbour sends, in whatever order: reasons, never exceptions, and a bounded queue."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from skedge.core.linkstate.database import Limits
from skedge.core.linkstate.messages import (
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
from skedge.core.model import LinkId
from skedge.core.records import Version
from tests.unit.flood.rig import NETWORK, drain, flooder, links_body, services_body, signed

names = st.sampled_from(["a", "b", "c", "z", "", "x/y", "\ud800", "a b", "n" * 300]) | st.text(max_size=5)
numbers = st.sampled_from([0, 1, 2, 50, 2**63 - 1, 2**63, -1])
kinds = st.sampled_from(list(Kind))
versions = st.builds(Version, numbers, numbers)
keys = st.builds(Key, names, kinds)
forged = st.builds(
    SignedRecord, names, kinds, versions, st.binary(max_size=9), st.binary(max_size=9), st.binary(max_size=9)
)
genuine = st.builds(
    signed,
    st.sampled_from(["a", "b", "c", "z"]),
    st.integers(0, 99),
    incarnation=st.integers(0, 3),
    kind=kinds,
    key=st.sampled_from(["", "other"]),
    body=st.none() | st.binary(max_size=9),
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, names, st.sampled_from([NETWORK, "other"]), st.sampled_from(["main", ""]), numbers),
    st.builds(Digests, st.lists(st.builds(Digest, keys, versions, st.binary(max_size=9))).map(tuple)),
    st.builds(Pull, st.lists(keys).map(tuple)),
    st.builds(Records, st.lists(st.builds(AgedRecord, forged | genuine, numbers)).map(tuple)),
)


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(st.lists(st.tuples(messages, st.sampled_from([0.0, 0.1, 40.0, 900.0])), max_size=12))
def test_reasons_never_exceptions(received: list[tuple[Message, float]]) -> None:
    a = flooder("a", limits=Limits(sites=3))
    link, other = LinkId.between("a", "b"), LinkId.between("a", "c")
    now = 0.0
    a.originate(now, links_body("a", "b"), services_body("a"))
    for neighbour in (link, other):
        a.adjacency_up(now, neighbour, neighbour.far_end("a"))
        a.receive(now, neighbour, Hello(neighbour.far_end("a"), NETWORK, "main", 1))
    for message, wait in received:
        now += wait
        a.tick(now)
        output = a.receive(now, link, message)
        assert all(text and text.isprintable() for _, text in output.problems)
        if output.reset:
            a.adjacency_up(now, link, "b")
            a.receive(now, link, Hello("b", NETWORK, "main", 1))
        drain(a, now, other)
    assert {key.site for key in a.database} - {"a"} <= {"b", "c", "z"}  # only whose signature was good
    end = now + 5000
    for _ in range(1000):  # once nothing comes in, only slow timers are left
        now = max(now, a.next_deadline(now))
        a.tick(now)
        if now > end:
            break
    else:
        raise AssertionError(f"a busy loop at {now}")
