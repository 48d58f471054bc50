"""Which sites came back without their connections, by the boots that their records say."""

from __future__ import annotations

import msgspec
import pytest

from skedge.control.streams.record_codec import BodyCodec
from skedge.core.linkstate.boots import Boot, Returned, learnt, returned
from skedge.core.linkstate.messages import Kind, SignedRecord
from skedge.core.linkstate.record_checks import check_body
from skedge.core.records import LinksRecord, Version
from skedge.dataplane.host.boot import digest


def says(boot: str, age_ms: int = 0) -> LinksRecord:
    return LinksRecord("b", "", "", boot=boot, boot_age_ms=age_ms)


def test_another_boot_is_a_return_and_its_beginning_is_told() -> None:
    assert list(returned({"b": "one"}, {"b": (says("two", 1500), 100.0)})) == [Returned("b", 98.5)]


def test_the_same_boot_a_new_site_and_one_that_says_none_are_none() -> None:
    assert list(returned({"b": "one"}, {"b": (says("one", 1500), 100.0)})) == []
    assert list(returned({}, {"b": (says("one"), 100.0)})) == []
    assert list(returned({"b": "one"}, {"b": (says(""), 100.0)})) == []


def test_a_site_that_is_away_is_remembered_one_of_an_older_version_is_not() -> None:
    assert learnt({"b": "one", "c": "x"}, {"b": (says("two"), 1.0)}) == {"b": "two", "c": "x"}
    assert learnt({"b": "one"}, {"b": (says(""), 1.0)}) == {}


def test_the_age_of_a_boot() -> None:
    assert Boot("x", 10.0).age_ms(11.5) == 1500
    assert Boot("x", 10.0).age_ms(9.0) == 0
    assert Boot().age_ms(5.0) == 0


@pytest.mark.parametrize(("boot", "age_ms"), [("x" * 65, 0), ("a b", 0), ("a\n", 0), ("x", -1), ("x", (1 << 53) + 1)])
def test_what_no_site_says_is_refused(boot: str, age_ms: int) -> None:
    record = SignedRecord("b", Kind.LINKS, Version(1, 1), b"", b"", b"")
    check_body(record, says("0123456789abcdef", 5000))
    check_body(record, says(""))
    with pytest.raises(ValueError, match="boot"):
        check_body(record, says(boot, age_ms))


def test_a_later_version_names_the_same_life_the_same() -> None:
    assert digest("3f2c9a52-1d0b-4a3e-9b57-0d6f6c1f2a11", "4097") == "d1057d426771c65bd71d76449c06a6b6"


def test_it_goes_over_the_wire_and_may_be_missing() -> None:
    said = says("0123456789abcdef", 5000)
    encoded = BodyCodec().encode(said)
    assert BodyCodec().decode(Kind.LINKS, encoded) == said
    earlier = msgspec.msgpack.encode(msgspec.msgpack.decode(encoded)[:-2])
    assert BodyCodec().decode(Kind.LINKS, earlier) == says("")
