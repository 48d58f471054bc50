"""What the database takes, refuses, keeps and drops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from skedge.core.linkstate.database import MAX_AGE_S, Database, Limits, Outcome, versions
from skedge.core.linkstate.messages import (
    RECORD_MAX,
    VERSION_MAX,
    Body,
    Digest,
    Digests,
    Key,
    Kind,
    SignedRecord,
    short_hash,
)
from skedge.core.reasons import Reason
from skedge.core.records import LinksRecord, LinkState, ServicesRecord, Version, WorkloadState
from tests.sim.doubles import FakeSigner, FakeVerifier
from tests.unit.flood.rig import CODEC, NETWORK, links_body, services_body, signed

KEY = Key("b", Kind.SERVICES)


@pytest.fixture
def verifier() -> FakeVerifier:
    return FakeVerifier(NETWORK)


@pytest.fixture
def database(verifier: FakeVerifier) -> Database:
    return Database("a", FakeSigner("a").fingerprint, verifier, CODEC)


def held_port(database: Database) -> int:
    return database.network_map().services["b"].workloads[0].port


def test_newer_wins_older_is_refused_in_either_order(database: Database) -> None:
    assert database.install(signed("b", 5, port=61005), 0, 0).outcome is Outcome.NEWER
    assert database.install(signed("b", 4, port=61004), 0, 0).outcome is Outcome.OLDER
    assert database.install(signed("b", 9, incarnation=0, port=61009), 0, 0).outcome is Outcome.OLDER
    assert held_port(database) == 61005
    assert database.install(signed("b", 1, incarnation=2, port=61006), 0, 0).outcome is Outcome.NEWER
    assert held_port(database) == 61006


def test_what_is_held_or_older_costs_no_signature(database: Database, verifier: FakeVerifier) -> None:
    database.install(signed("b", 5), 0, 0)
    assert database.install(signed("b", 5), 0, 0).outcome is Outcome.SAME
    assert database.install(signed("b", 4), 0, 0).outcome is Outcome.OLDER
    assert verifier.calls == 1


def test_a_refresh_with_the_same_content_is_no_change(database: Database) -> None:
    assert database.install(signed("b", 1), 0, 0).changed
    assert not database.install(signed("b", 2), 0, 0).changed
    assert database.install(signed("b", 3, port=62000), 0, 0).changed


def test_two_records_of_one_version_end_the_same_everywhere(verifier: FakeVerifier) -> None:
    one, other = signed("b", 1, port=61001), signed("b", 1, port=61002)
    ends = []
    for order in ((one, other), (other, one)):
        database = Database("a", "", verifier, CODEC)
        for record in order:
            database.install(record, 0, 0)
        ends.append(versions(database))
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (lambda: replace(signed("b"), signature=b"x" * 64), Reason.BAD_SIGNATURE),
        (lambda: replace(signed("b"), version=Version(1, 2)), Reason.BAD_SIGNATURE),
        (lambda: replace(signed("b"), kind=Kind.LINKS), Reason.BAD_SIGNATURE),
        (lambda: replace(signed("b"), certificate=FakeSigner("c").certificate), Reason.BAD_SIGNATURE),
        (lambda: signed("b", network="another"), Reason.BAD_SIGNATURE),
        (lambda: replace(signed("b"), version=Version(1, -1)), Reason.BAD_FRAME),
        (lambda: replace(signed("b"), version=Version(VERSION_MAX + 1, 1)), Reason.BAD_FRAME),
        (lambda: signed("b", body=b"\xc1garbage"), Reason.BAD_FRAME),
        (lambda: signed("b", kind=Kind.LINKS, body=CODEC.encode(services_body("b"))), Reason.BAD_FRAME),
        (lambda: signed("b", body=bytes(RECORD_MAX)), Reason.BAD_FRAME),
        (lambda: signed("b/c"), Reason.BAD_FRAME),
        (lambda: signed("b c"), Reason.BAD_FRAME),
        (lambda: signed("b\n"), Reason.BAD_FRAME),
        (lambda: signed(""), Reason.BAD_FRAME),
        (lambda: signed("b" * 254), Reason.BAD_FRAME),
    ],
)
def test_refused_with_its_reason_and_nothing_changes(
    database: Database, record: Callable[[], SignedRecord], reason: Reason
) -> None:
    result = database.install(record(), 0, 0)
    assert (result.outcome, result.reason) == (Outcome.REFUSED, reason)
    assert result.text
    assert len(database) == 0


LINK = LinkState("n", "main", 1, True)
LOAD = WorkloadState("web", "web", 61000)


@pytest.mark.parametrize(
    "body",
    [
        links_body("c", "n"),  # b speaks for c
        links_body("b", "b"),
        links_body("b", "n", "n"),
        LinksRecord("b", "100.64.0.1.7", "fd00::1"),
        LinksRecord("b", "100.64.0.1", "fd00::g"),
        LinksRecord("b", "100.64.0.1", "fd00::1", prefixes=("10.0.0.0/33",)),
        LinksRecord("b", "100.64.0.1", "fd00::1", prefixes=("0.0.0.0/0",)),
        LinksRecord("b", "100.64.0.1", "fd00::1", prefixes=("10.1.0.0/16", "10.1.0.0/16")),
        LinksRecord("b", "100.64.0.1", "fd00::1", prefixes=tuple(f"10.{n}.0.0/16" for n in range(17))),
        LinksRecord("b", "100.64.0.1", "fd00::1", refused=("nonsense",)),
        LinksRecord("b", "", "", (replace(LINK, cost=0),)),
        LinksRecord("b", "", "", (replace(LINK, cost=65536),)),
        LinksRecord("b", "", "", (replace(LINK, service_costs={"web": 0}),)),
        LinksRecord("b", "", "", (replace(LINK, rtt_us=-1),)),
        LinksRecord("b", "", "", (replace(LINK, name=""),)),
        LinksRecord("b", "", "", (replace(LINK, to="x/y"),)),
        ServicesRecord("b", (replace(LOAD, capacity=0),)),
        ServicesRecord("b", (replace(LOAD, capacity=65536),)),
        ServicesRecord("b", (replace(LOAD, port=0),)),
        ServicesRecord("b", (replace(LOAD, port=65536),)),
        ServicesRecord("b", (LOAD, replace(LOAD, port=61001))),
        ServicesRecord("b", (LOAD, replace(LOAD, connector="web2"))),
        ServicesRecord("b", (replace(LOAD, connector="a/b"),)),
        ServicesRecord("b", (), ("with space",)),
    ],
)
def test_a_good_signature_does_not_excuse_nonsense(database: Database, body: Body) -> None:
    kind = Kind.LINKS if isinstance(body, LinksRecord) else Kind.SERVICES
    result = database.install(signed("b", kind=kind, body=CODEC.encode(body)), 0, 0)
    assert (result.outcome, result.reason) == (Outcome.REFUSED, Reason.BAD_FRAME)


def test_a_second_host_with_the_same_name_is_refused_and_both_keys_named(database: Database) -> None:
    database.install(signed("b", 1), 0, 0)
    for record in (
        signed("b", 9, key="other"),
        signed("b", 1, key="other", kind=Kind.LINKS),
        signed("b", 0, key="other"),
    ):
        result = database.install(record, 0, 0)
        assert (result.outcome, result.reason) == (Outcome.REFUSED, Reason.DUPLICATE_SITE)
        assert FakeSigner("b").fingerprint[:16] in result.text
        assert FakeSigner("b", "other").fingerprint[:16] in result.text
    assert database.get(KEY).record == signed("b", 1)


def test_a_replaced_host_takes_the_name_when_the_old_certificate_is_revoked(
    database: Database, verifier: FakeVerifier
) -> None:
    database.install(signed("b", 77, incarnation=5), 0, 0)
    database.install(signed("b", 77, incarnation=5, kind=Kind.LINKS), 0, 0)
    verifier.revoked.add(FakeSigner("b").certificate)
    result = database.install(signed("b", 1, key="new host"), 0, 0)
    assert result.outcome is Outcome.NEWER
    assert set(result.evicted) == {KEY, Key("b", Kind.LINKS)}
    assert versions(database).keys() == {KEY}


def test_a_revoked_site_is_dropped_on_recheck(database: Database, verifier: FakeVerifier) -> None:
    database.install(signed("b"), 0, 0)
    database.install(signed("c"), 0, 0)
    verifier.revoked.add(FakeSigner("b").certificate)
    assert database.recheck() == [(KEY, Reason.REVOKED)]
    assert list(database) == [Key("c", Kind.SERVICES)]
    assert database.install(signed("b", 2), 0, 0).reason is Reason.REVOKED


def test_own_records_of_an_older_life_are_told_and_never_installed(database: Database) -> None:
    assert database.install(signed("a", 7), 0, 0).outcome is Outcome.OWN
    assert len(database) == 0
    assert database.install(signed("a", 7, key="other"), 0, 0).reason is Reason.DUPLICATE_SITE


def test_records_age_from_when_they_were_made_not_from_when_they_came(database: Database) -> None:
    database.install(signed("b"), MAX_AGE_S - 10, 1000)
    assert database.deadline == 1010
    assert database.expire(1009) == []
    assert database.expire(1010) == [KEY]
    assert database.install(signed("b"), MAX_AGE_S, 1010).reason is Reason.STALE


def test_the_youngest_age_told_counts(database: Database) -> None:
    database.install(signed("b"), MAX_AGE_S - 10, 0)  # a liar cannot make others drop what is young
    assert database.install(signed("b"), 5, 0).outcome is Outcome.SAME
    assert database.expire(20) == []
    assert database.deadline == MAX_AGE_S - 5
    assert database.install(signed("b"), 100, 20).outcome is Outcome.SAME
    assert database.deadline == MAX_AGE_S - 5


def test_an_origin_that_floods_is_slowed_and_told_when_to_come_again(database: Database) -> None:
    outcomes = [database.install(signed("b", number), 0, 50.0) for number in range(1, 101)]
    assert [result.outcome for result in outcomes].count(Outcome.NEWER) == 20
    last = outcomes[-1]
    assert last.reason is Reason.RATE_LIMITED
    assert database.install(signed("b", 100), 0, last.retry_at).outcome is Outcome.NEWER
    assert database.install(signed("c", 1), 0, 50.0).outcome is Outcome.NEWER  # others do not pay


def test_forgers_do_not_use_up_the_rate_of_the_site_they_name(database: Database) -> None:
    for number in range(100):
        forged = replace(signed("b", number), signature=b"x" * 64)
        assert database.install(forged, 0, 0).reason is Reason.BAD_SIGNATURE
    assert database.install(signed("b", 1), 0, 0).outcome is Outcome.NEWER


def test_a_full_database_refuses_new_sites_but_hears_known_ones(verifier: FakeVerifier) -> None:
    database = Database("a", "", verifier, CODEC, Limits(sites=2))
    database.install(signed("b", 1), 0, 0)
    database.install(signed("c", 1), 0, 0)
    assert database.install(signed("d", 1), 0, 0).reason is Reason.DATABASE_FULL
    assert database.install(signed("b", 2), 0, 0).outcome is Outcome.NEWER
    assert database.install(signed("b", 1, kind=Kind.LINKS), 0, 0).outcome is Outcome.NEWER
    database.expire(MAX_AGE_S + 1)
    assert database.install(signed("d", 1), 0, MAX_AGE_S + 1).outcome is Outcome.NEWER


def test_bytes_are_bounded_and_given_back(verifier: FakeVerifier) -> None:
    size = signed("b").size
    database = Database("a", "", verifier, CODEC, Limits(total_bytes=2 * size))
    for sequence in range(1, 15):
        assert database.install(signed("b", sequence), 0, 0).outcome is Outcome.NEWER
    assert database.install(signed("c"), 0, 0).outcome is Outcome.NEWER
    assert database.install(signed("d"), 0, 0).reason is Reason.DATABASE_FULL


def test_digests_tell_what_is_missing_newer_or_different(database: Database) -> None:
    for name, sequence in (("b", 3), ("c", 3), ("d", 3), ("e", 3)):
        database.install(signed(name, sequence), 0, 0)
    theirs = [signed("b", 4), signed("c", 3), signed("d", 2), signed("e", 3, port=62000), signed("f", 1)]
    digests = Digests(tuple(Digest(record.key, record.version, short_hash(record)) for record in theirs))
    assert {key.site for key in database.wanted(digests)} == {"b", "e", "f"}
    assert {key.site for key in database.unknown_to(digests)} == {"d"}
    assert database.wanted(database.digests()) == []
    assert database.unknown_to(Digests()) == list(database)


def test_a_certificate_alone_makes_no_difference() -> None:
    one = signed("b")
    assert short_hash(one) == short_hash(replace(one, certificate=b"renewed", signature=b"other"))
    assert short_hash(one) != short_hash(signed("b", port=1))
