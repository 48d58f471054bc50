"""Load reports: when they are sent, within which rates, and what is believed of those that come."""

from __future__ import annotations

import random
from math import inf

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from skedge.control.loads.exchange import DATAGRAM_MAX, decode, encode
from skedge.control.loads.schedule import LoadBook, LoadSchedule
from skedge.control.streams.frames import BadFrame
from skedge.core.model import WorkloadId
from skedge.core.reasons import Reason
from skedge.core.records import Version

W = WorkloadId("edge-b", "backend")
V = WorkloadId("edge-c", "reports")


class Clock:
    """Runs a schedule and notes what it sends."""

    def __init__(self, sites: dict[str, set[str]], parts: int = 1) -> None:
        self.now, self.parts = 100.0, parts
        self.schedule = LoadSchedule()
        self.schedule.set_sites(sites)
        self.log: list[tuple[float, str, dict[WorkloadId, int]]] = []

    def count(self, **loads: dict[WorkloadId, int]) -> None:
        self.schedule.set_counts(loads)
        self.pump()

    def pump(self) -> None:
        for site in self.schedule.due(self.now):
            self.log.append((self.now, site, self.schedule.content(site)))
            self.schedule.sent(site, self.now, self.parts)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(1_000_000):
            at = self.schedule.wake_at(self.now)
            if at > end:
                self.now = end
                return
            self.now = max(self.now, at) + 1e-6
            self.pump()
        pytest.fail("the schedule spins")


def test_a_site_is_told_of_nothing_open_at_first_and_then_left_alone() -> None:
    """It may still count what this site had open in an earlier life."""
    clock = Clock({"edge-b": {"backend"}})
    clock.run(1000)
    assert [content for _, _, content in clock.log] == [{}] * 6
    assert clock.log[-1][0] - clock.log[0][0] == pytest.approx(5, abs=0.1)
    assert clock.schedule.wake_at(clock.now) == inf


def test_the_first_change_is_told_at_once_and_only_to_those_who_listen() -> None:
    clock = Clock({"edge-b": {"backend"}, "edge-c": {"reports"}, "edge-d": {"backend", "reports"}})
    clock.run(1000)
    clock.log.clear()
    clock.count(backend={W: 1})
    assert clock.log == [(clock.now, "edge-b", {W: 1}), (clock.now, "edge-d", {W: 1})]
    clock.run(0.3)
    clock.log.clear()
    clock.count(backend={W: 1}, reports={V: 2})
    assert clock.log == [(clock.now, "edge-c", {V: 2}), (clock.now, "edge-d", {W: 1, V: 2})]


def test_a_burst_is_told_five_times_a_second_and_ends_with_the_truth() -> None:
    clock = Clock({"edge-b": {"backend"}})
    for n in range(1, 1001):
        clock.count(backend={W: n})
        clock.run(0.001)
    clock.run(0.25)
    assert len([at for at, _, _ in clock.log if at < 101.0]) == 5
    assert clock.log[-1][2] == {W: 1000}


def test_open_connections_are_repeated_every_second_and_closed_ones_for_a_while() -> None:
    clock = Clock({"edge-b": {"backend"}})
    clock.count(backend={W: 1})
    clock.run(10.5)
    assert len(clock.log) == 11
    clock.log.clear()
    clock.count()
    clock.run(65.9)
    assert all(content == {} for _, _, content in clock.log)
    times = [at for at, _, _ in clock.log]
    assert len([at for at in times if at - times[0] < 5.5]) == 6  # the news and five repeats
    assert times[-1] - times[-2] == pytest.approx(30, abs=0.1)


def test_two_hundred_datagrams_a_second_in_all_and_nobody_starves() -> None:
    clock = Clock({f"s{i}": {"backend"} for i in range(400)})
    rnd = random.Random(1)
    for n in range(1, 100):
        clock.count(backend={W: n})
        clock.run(rnd.uniform(0, 0.1))
    times = [at for at, _, _ in clock.log]
    assert max(sum(1 for at in times if start <= at < start + 1) for start in times) <= 200
    clock.log.clear()
    clock.run(4)
    assert {site for _, site, _ in clock.log} == {f"s{i}" for i in range(400)}


def test_long_reports_count_by_their_datagrams() -> None:
    many = {WorkloadId(f"edge-{i}", "backend"): 1 for i in range(200)}
    parts = len(encode("demo", "edge-a", "edge-b", Version(1, 1), many, KEY.sign))
    assert parts >= 4
    clock = Clock({f"s{i}": {"backend"} for i in range(100)}, parts)
    for n in range(1, 50):
        clock.count(backend={**many, W: n})
        clock.run(0.1)
    times = [at for at, _, _ in clock.log]
    assert max(sum(parts for at in times if start <= at < start + 1) for start in times) <= 200


def test_a_site_that_begins_to_listen_is_told() -> None:
    clock = Clock({"edge-b": set()})
    clock.count(backend={W: 3})
    assert [content for _, _, content in clock.log] == [{}]
    clock.schedule.set_sites({"edge-b": {"backend"}})
    clock.run(0.3)
    assert clock.log[1][2] == {W: 3}


# ---- what is believed -------------------------------------------------------------------------------------------


def test_the_last_word_holds_until_the_site_is_gone() -> None:
    book = LoadBook()
    assert book.part("edge-b", Version(1, 1), 0, 1, {W: 4}, 10.0) is Reason.NONE
    assert book.age("edge-b", 500.0) == 490.0
    assert book.reports()["edge-b"].open == {W: 4}
    assert book.forget("edge-b")
    assert "edge-b" not in book.reports()
    assert book.age("edge-b", 501.0) is None
    assert book.part("edge-b", Version(1, 1), 0, 1, {W: 4}, 502.0) is Reason.STALE


@pytest.mark.parametrize("old", [Version(2, 5), Version(2, 4), Version(1, 99)])
def test_older_and_repeated_reports_are_stale(old: Version) -> None:
    book = LoadBook()
    book.part("edge-b", Version(2, 5), 0, 1, {W: 4}, 10.0)
    assert book.part("edge-b", old, 0, 1, {W: 9}, 11.0) is Reason.STALE
    assert book.reports()["edge-b"].open == {W: 4}


def test_a_report_in_parts_counts_when_complete_in_any_order() -> None:
    book = LoadBook()
    book.part("edge-b", Version(1, 1), 0, 1, {W: 1, V: 1}, 10.0)
    assert book.part("edge-b", Version(1, 2), 1, 2, {V: 7}, 11.0) is Reason.NONE
    assert book.part("edge-b", Version(1, 2), 1, 2, {V: 7}, 11.0) is Reason.NONE
    assert book.open("edge-b") == {W: 1, V: 1}
    book.part("edge-b", Version(1, 2), 0, 2, {W: 6}, 12.0)
    assert book.open("edge-b") == {W: 6, V: 7}


def test_parts_of_a_newer_report_replace_those_of_an_incomplete_one() -> None:
    book = LoadBook()
    book.part("edge-b", Version(1, 1), 0, 2, {W: 1}, 10.0)
    book.part("edge-b", Version(1, 2), 0, 2, {W: 2}, 11.0)
    assert book.part("edge-b", Version(1, 1), 1, 2, {V: 1}, 11.5) is Reason.STALE
    book.part("edge-b", Version(1, 2), 1, 2, {V: 2}, 12.0)
    assert book.open("edge-b") == {W: 2, V: 2}
    assert book.part("edge-b", Version(1, 3), 2, 2, {}, 13.0) is Reason.BAD_FRAME


# ---- datagrams --------------------------------------------------------------------------------------------------

KEY = Ed25519PrivateKey.generate()
names = st.text("abcdefgh-", min_size=1, max_size=30)
loads = st.dictionaries(st.builds(WorkloadId, names, names), st.integers(1, 2**31 - 1), max_size=200)


@given(loads)
def test_datagrams_are_small_signed_and_whole(open_: dict[WorkloadId, int]) -> None:
    datagrams = encode("demo", "edge-a", "edge-b", Version(2**63 - 1, 2**63 - 1), open_, KEY.sign)
    book = LoadBook()
    for datagram in reversed(datagrams):
        assert len(datagram) <= DATAGRAM_MAX
        said, payload, signature = decode(datagram)
        KEY.public_key().verify(signature, payload)
        assert (said.network, said.site, said.to, said.parts) == ("demo", "edge-a", "edge-b", len(datagrams))
        part = {WorkloadId(entry.site, entry.connector): entry.open for entry in said.entries}
        book.part(said.site, Version(said.incarnation, said.sequence), said.part, said.parts, part, 1.0)
    assert book.open("edge-a") == open_


def test_forty_workloads_fit_into_one_datagram() -> None:
    open_ = {WorkloadId(f"edge-{i}", "backend"): 1000 for i in range(40)}
    assert len(encode("demo", "edge-a", "edge-b", Version(1, 1), open_, KEY.sign)) == 1


@given(st.binary(max_size=200))
def test_any_bytes_give_a_report_or_a_bad_frame(datagram: bytes) -> None:
    with pytest.raises(BadFrame):
        decode(datagram)
