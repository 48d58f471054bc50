"""The flooder's rules, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skedge.core.linkstate.adjacency import FRAME_BUDGET, AdjacencyState, link_in_use
from skedge.core.linkstate.database import versions
from skedge.core.linkstate.flooding import DIGESTS_S
from skedge.core.linkstate.messages import PROTOCOL, Digests, Hello, Key, Kind, Pull, Records
from skedge.core.linkstate.origination import JUMP_RATE, REFRESH_S
from skedge.core.model import LinkId
from skedge.core.reasons import Reason
from skedge.core.records import ServicesRecord, WorkloadState
from tests.sim.doubles import FakeSigner, FakeVerifier
from tests.unit.flood.rig import (
    CODEC,
    NETWORK,
    Rig,
    drain,
    flooder,
    links_body,
    meet,
    reasons,
    records,
    services_body,
    signed,
)

B_SERVICES = Key("b", Kind.SERVICES)


def sites_in(messages: list[object]) -> list[str]:
    return [aged.record.site for message in messages if isinstance(message, Records) for aged in message.records]


# ---- adjacency ----------------------------------------------------------------------------------------------------


def test_two_sites_exchange_what_each_lacks_and_are_full() -> None:
    a, b, c = flooder("a"), flooder("b"), flooder("c")
    rig = Rig(a, b, c)
    for one in (a, b, c):
        one.originate(0, links_body(one.site, "x"), services_body(one.site))
    rig.join(a, b)
    link = rig.join(b, c)
    rig.settle()
    assert versions(a.database) == versions(b.database) == versions(c.database)
    assert len(a.database) == 6
    assert b.adjacencies(0)[link].state is AdjacencyState.FULL


def test_states_of_an_adjacency() -> None:
    a = flooder("a")
    link = LinkId.between("a", "b")
    a.configure(0, {link: "b"})
    assert a.adjacencies(0)[link].state is AdjacencyState.DOWN
    assert a.adjacency_up(1, link, "b").ready == (link,)
    assert a.adjacencies(1)[link].state is AdjacencyState.INIT
    a.receive(2, link, Hello("b", NETWORK, "main", 1))
    assert a.adjacencies(2)[link].state is AdjacencyState.EXCHANGE
    theirs = flooder("b")
    theirs.originate(2, services=services_body("b"))
    a.receive(3, link, theirs.database.digests())
    assert a.adjacencies(3)[link].state is AdjacencyState.EXCHANGE  # one is still missing
    assert Pull((B_SERVICES,)) in drain(a, 3, link)
    a.receive(4, link, records(theirs.database.get(B_SERVICES).record))
    assert a.adjacencies(4)[link].state is AdjacencyState.FULL
    a.adjacency_down(5, link)
    view = a.adjacencies(9)[link]
    assert (view.state, view.since, view.full_until, view.queued) == (AdjacencyState.DOWN, 5, 5, 0)
    assert a.database.get(B_SERVICES) is not None  # graceful: the records stay
    a.configure(10, {})
    assert a.adjacencies(10) == {}


def test_a_link_stays_in_use_for_the_hold_time_while_it_answers() -> None:
    a = flooder("a")
    link = LinkId.between("a", "b")
    a.configure(0, {link: "b"})

    def used(now: float, answers: bool = True) -> bool:
        return link_in_use(a.adjacencies(now)[link], answers=answers, now=now, hold_s=120)

    assert used(119)  # from the controller's own start on
    assert not used(120)
    a.adjacency_up(200, link, "b")
    assert not used(200)
    a.receive(200, link, Hello("b", NETWORK, "main", 1))
    a.receive(200, link, Digests())
    assert used(5000)
    assert not used(5000, answers=False)
    a.adjacency_down(5000, link)
    for at in (5030, 5060, 5090):  # streams that come and go without getting full do not prolong it
        a.adjacency_up(at, link, "b")
        a.adjacency_down(at, link)
    assert used(5119)
    assert not used(5120)


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (Hello("c", NETWORK, "main", 1), Reason.WRONG_PEER),
        (Hello("b", "other", "main", 1), Reason.WRONG_PEER),
        (Hello("b", NETWORK, "second", 1), Reason.WRONG_PEER),
        (Hello("b", NETWORK, "main", 1, PROTOCOL + 1), Reason.BAD_FRAME),
        (Digests(), Reason.BAD_FRAME),
        (Pull(()), Reason.BAD_FRAME),
        (Records(()), Reason.BAD_FRAME),
    ],
)
def test_a_wrong_first_message_ends_the_stream(hello: Hello, reason: Reason) -> None:
    a = flooder("a")
    link = LinkId.between("a", "b")
    a.adjacency_up(0, link, "b")
    output = a.receive(0, link, hello)
    assert output.reset == ((link, reason),)
    assert reasons(output) == [reason]
    assert a.adjacencies(0)[link].state is AdjacencyState.DOWN
    assert drain(a, 0, link) == []
    assert a.receive(0, link, Hello("b", NETWORK, "main", 1)).reset == ()  # late frames of that stream: nothing


def test_hostile_frames_after_the_hello_end_the_stream() -> None:
    many = tuple(Key(f"s{number}", Kind.LINKS) for number in range(9000))
    for message in (Hello("b", NETWORK, "main", 1), Pull(many), "nonsense"):
        a = flooder("a")
        link = meet(a, 0, "b")
        output = a.receive(0, link, message)
        assert output.reset == ((link, Reason.BAD_FRAME),)


def test_messages_for_unknown_links_are_nothing() -> None:
    a = flooder("a")
    link = LinkId.between("a", "b")
    assert a.receive(0, link, Digests()).problems == ()
    assert a.adjacency_down(0, link).ready == ()
    assert a.take(0, link) is None


# ---- flooding -----------------------------------------------------------------------------------------------------


def test_news_goes_to_all_but_the_one_it_came_from() -> None:
    a = flooder("a")
    b, c, d = meet(a, 0, "b"), meet(a, 0, "c"), meet(a, 0, "d")
    output = a.receive(0, b, records(signed("z", 1)))
    assert set(output.ready) == {c, d}
    assert output.changed == (Key("z", Kind.SERVICES),)
    assert drain(a, 0, b) == []
    for link in (c, d):
        (message,) = drain(a, 0, link)
        assert message.records[0].record == signed("z", 1)  # unchanged, as received


def test_an_older_record_is_answered_with_the_newer() -> None:
    a = flooder("a")
    b, c = meet(a, 0, "b"), meet(a, 0, "c")
    a.receive(0, b, records(signed("z", 7)))
    drain(a, 0, c)
    output = a.receive(0, c, records(signed("z", 3)))
    assert output.changed == ()
    assert drain(a, 0, c) == [records(signed("z", 7), age_ms=1)]
    assert drain(a, 0, b) == []


def test_the_queue_keeps_only_the_newest_of_each_record() -> None:
    a = flooder("a")
    b, c = meet(a, 0, "b"), meet(a, 0, "c")
    for sequence in range(1, 16):
        a.receive(0, b, records(signed("z", sequence)))
    assert a.adjacencies(0)[c].queued == 1
    assert drain(a, 0, c) == [records(signed("z", 15), age_ms=1)]


def test_what_the_neighbour_has_by_itself_is_not_sent() -> None:
    a = flooder("a")
    b, c = meet(a, 0, "b"), meet(a, 0, "c")
    a.receive(0, b, records(signed("z", 1)))
    a.receive(0, c, records(signed("z", 1)))
    assert drain(a, 0, c) == []


def test_news_of_links_goes_before_services_and_frames_stay_small() -> None:
    a = flooder("a")
    b, c = meet(a, 0, "b"), meet(a, 0, "c")
    big = ServicesRecord("z", tuple(WorkloadState(f"w{n:04}" + "x" * 200, "web", n) for n in range(1, 900)))
    for name in ("x", "y", "z"):
        a.receive(0, b, records(signed(name, body=CODEC.encode(replace(big, site=name)))))
        a.receive(0, b, records(signed(name, kind=Kind.LINKS)))
    messages = drain(a, 0, c)
    sent = [aged.record for message in messages for aged in message.records]
    assert [record.kind for record in sent] == [Kind.LINKS] * 3 + [Kind.SERVICES] * 3
    assert len(messages) > 1
    for message in messages:
        assert len(message.records) == 1 or sum(aged.record.size for aged in message.records) <= FRAME_BUDGET


def test_ages_travel_with_records() -> None:
    a = flooder("a")
    b, c = meet(a, 100, "b"), meet(a, 100, "c")
    a.receive(100, b, records(signed("z"), age_ms=5000))
    (message,) = drain(a, 102, c)
    assert message.records[0].age_ms == 7001
    assert a.receive(102, b, records(signed("y"), age_ms=-(10**12))).changed  # a lie makes it no younger than now
    assert drain(a, 102, c)[0].records[0].age_ms == 1


# ---- anti-entropy -------------------------------------------------------------------------------------------------


def test_digests_every_half_minute_heal_a_lost_frame() -> None:
    a, b = flooder("a"), flooder("b")
    rig = Rig(a, b)
    link = rig.join(a, b)
    rig.settle()
    a.originate(rig.now, services=services_body("a"))
    lost = drain(a, rig.now, link)
    assert sites_in(lost) == ["a"]
    rig.run(DIGESTS_S * 0.7)
    assert len(b.database) == 0
    rig.run(DIGESTS_S * 0.6)
    assert versions(a.database) == versions(b.database)


def test_later_digests_are_answered_with_what_the_neighbour_lacks() -> None:
    a = flooder("a")
    b, c = meet(a, 0, "b"), meet(a, 0, "c")
    a.receive(0, c, records(signed("z", 3)))
    assert sites_in(drain(a, 0, b)) == ["z"]
    a.receive(0, b, Digests())  # the first of a stream: the neighbour asks by itself
    assert drain(a, 0, b) == []
    a.receive(30, b, Digests())
    assert sites_in(drain(a, 30, b)) == ["z"]
    a.receive(60, b, a.database.digests())
    assert drain(a, 60, b) == []


def test_digests_come_with_jitter() -> None:
    a = flooder("a")
    firsts = set()
    for neighbour in "bcdefgh":
        meet(a, 0, neighbour)
        firsts.add(a.next_deadline(0))
    assert all(0.75 * DIGESTS_S <= at <= 1.25 * DIGESTS_S for at in firsts)
    assert len(firsts) > 1


# ---- own records --------------------------------------------------------------------------------------------------


def own(one: object, kind: Kind = Kind.SERVICES) -> tuple[int, int]:
    version = one.database.get(Key(one.site, kind)).record.version
    return version.incarnation, version.sequence


def test_saying_the_same_again_sends_nothing() -> None:
    a = flooder("a")
    link = meet(a, 0, "b")
    assert a.originate(0, links_body("a", "b"), services_body("a")).changed
    drain(a, 0, link)
    output = a.originate(5, links_body("a", "b", rtt_us=1234), services_body("a"))
    assert (output.changed, output.ready) == ((), ())


def test_a_burst_is_paced_and_its_last_word_goes_out() -> None:
    a = flooder("a")
    a.originate(0, services=services_body("a", 1))
    assert own(a) == (1, 1)
    for port in range(2, 50):
        a.originate(0.01, services=services_body("a", port))
    assert own(a) == (1, 1)
    assert a.next_deadline(0.01) == pytest.approx(0.06)
    a.tick(a.next_deadline(0.01))
    assert own(a) == (1, 2)
    assert a.network_map().services["a"].workloads[0].port == 49


def test_links_are_not_held_up_by_services() -> None:
    a = flooder("a")
    for port in range(1, 5):
        a.originate(0, services=services_body("a", port))
    assert a.originate(0.01, links=links_body("a", "b")).changed == (Key("a", Kind.LINKS),)


def test_own_records_are_refreshed_before_they_age() -> None:
    a = flooder("a")
    a.originate(0, links_body("a", "b"), services_body("a"))
    times = [0.0]
    for _ in range(10):
        times.append(a.next_deadline(times[-1]))
        assert a.tick(times[-1]).changed == ()  # no change of content
    assert max(own(a), own(a, Kind.LINKS)) == (1, 12)
    assert 4 * REFRESH_S <= times[-1] <= 5 * REFRESH_S  # both kinds, each up to a fifth early
    assert len(set(times)) > 6  # not all at the same moment


def test_a_restarted_site_jumps_past_its_older_life() -> None:
    a = flooder("a", incarnation=1)
    link = meet(a, 0, "b")
    a.originate(0, links_body("a", "b"), services_body("a"))
    output = a.receive(
        1, link, records(signed("a", 50, incarnation=7), signed("a", 49, incarnation=7, kind=Kind.LINKS))
    )
    output = a.tick(1.3)
    assert own(a) > (7, 50)
    assert own(a, Kind.LINKS) > (7, 49)
    assert a.incarnation == 8  # once for both records
    assert output.problems == ()
    assert sorted(sites_in(drain(a, 1.3, link))) == ["a", "a"]


def test_equal_version_with_other_content_is_an_older_life_too() -> None:
    a = flooder("a", incarnation=3)
    link = meet(a, 0, "b")
    a.originate(0, services=services_body("a", 61000))
    assert own(a) == (3, 1)
    a.receive(9, link, records(signed("a", 1, incarnation=3, port=999)))
    assert own(a) > (3, 1)
    assert a.incarnation == 4


def test_a_life_that_has_nothing_to_say_yet_still_learns_what_to_pass() -> None:
    a = flooder("a", incarnation=1)
    link = meet(a, 0, "b")
    a.receive(0, link, records(signed("a", 50, incarnation=7)))
    assert len(a.database) == 0
    a.originate(1, services=services_body("a"))
    assert own(a)[0] == 8


def test_own_name_with_another_key_is_named_and_not_passed_on() -> None:
    a = flooder("a")
    b, c = meet(a, 0, "b"), meet(a, 0, "c")
    a.originate(0, services=services_body("a"))
    drain(a, 0, c)
    output = a.receive(0, b, records(signed("a", 99, key="other host")))
    assert reasons(output) == [Reason.DUPLICATE_SITE]
    assert own(a) == (1, 1)
    assert drain(a, 0, c) == []


def test_two_clones_of_one_machine_are_named_and_do_not_race() -> None:
    one, two, between = flooder("a"), flooder("a"), flooder("b")
    rig = Rig(one, two, between)
    rig.join(one, between, "main")
    rig.join(two, between, "second")
    one.originate(0, services=services_body("a", 1))
    two.originate(0, services=services_body("a", 2))
    rig.run(60)
    assert Reason.DUPLICATE_SITE in rig.reasons(one) + rig.reasons(two)
    turns = max(one.incarnation, two.incarnation)
    assert turns < 40
    rig.run(900)
    assert max(one.incarnation, two.incarnation) - turns <= 2 * 900 * JUMP_RATE + 1, "others see it change that rarely"


def test_a_record_that_others_would_refuse_is_not_sent_and_said() -> None:
    a = flooder("a")
    a.originate(0, services=services_body("a", 61000))
    output = a.originate(10, services=services_body("a", 70000))
    assert reasons(output) == [Reason.BAD_FRAME]
    assert "70000" in output.problems[0][1]
    assert a.network_map().services["a"].workloads[0].port == 61000
    assert a.originate(20, services=services_body("a", 62000)).changed


def test_a_renewed_certificate_goes_out_at_once() -> None:
    a = flooder("a")
    link = meet(a, 0, "b")
    a.originate(0, services=services_body("a"))
    drain(a, 0, link)
    a._originator.signer.key = "the new key"
    output = a.recheck(10)
    assert output.changed == ()
    assert drain(a, 10, link)[0].records[0].record.certificate == FakeSigner("a", "the new key").certificate
    assert a.recheck(20).ready == ()


def test_recheck_drops_revoked_sites_and_says_so() -> None:
    verifier = FakeVerifier(NETWORK)
    a = flooder("a", verifier=verifier)
    link = meet(a, 0, "b")
    a.receive(0, link, records(signed("z")))
    verifier.revoked.add(FakeSigner("z").certificate)
    output = a.recheck(1)
    assert output.changed == (Key("z", Kind.SERVICES),)
    assert reasons(output) == [Reason.REVOKED]


# ---- rates --------------------------------------------------------------------------------------------------------


def test_a_flooding_origin_is_slowed_and_its_newest_arrives_in_the_end() -> None:
    a = flooder("a")
    link = meet(a, 0, "b")
    now, sequence = 0.0, 0
    limited = 0
    while now < 5:
        now, sequence = now + 0.001, sequence + 1
        output = a.receive(now, link, records(signed("z", sequence)))
        limited += reasons(output).count(Reason.RATE_LIMITED)
        a.tick(now)
        drain(a, now, link)
    assert limited > 4800
    held = a.database.get(Key("z", Kind.SERVICES)).record.version.sequence
    assert held < sequence
    now = a.next_deadline(now)
    a.tick(now)
    assert a.next_deadline(now) > now
    assert drain(a, now, link)[0] == Pull((Key("z", Kind.SERVICES),))
    a.receive(now, link, records(signed("z", sequence)))
    assert a.database.get(Key("z", Kind.SERVICES)).record.version.sequence == sequence


def test_a_neighbour_that_sends_forgeries_is_slowed_others_are_not() -> None:
    verifier = FakeVerifier(NETWORK)
    a = flooder("a", verifier=verifier)
    b, c = meet(a, 0, "b"), meet(a, 0, "c")
    for number in range(5000):
        a.receive(number * 0.001, b, records(signed("z", number, network="forged")))
    assert verifier.calls < 1000
    assert reasons(a.receive(5, b, records(signed("y", 1)))) == [Reason.RATE_LIMITED]
    assert a.receive(5, c, records(signed("y", 1))).changed
    a.tick(200)
    assert any(isinstance(message, Pull) for message in drain(a, 200, b))  # and asked again later


def test_memory_stays_bounded_whatever_a_neighbour_sends() -> None:
    a = flooder("a")
    link = meet(a, 0, "b")
    for number in range(20_000):
        a.receive(0, link, records(signed(f"z{number}", network="forged")))
    adjacency = a._adjacencies[link]
    assert len(adjacency.retry) <= 8192
    a.tick(1000)
    assert adjacency.queued <= 8192 + 3
    for _ in range(10_000):
        a.receive(1000, link, Pull((Key("a", Kind.LINKS), Key("nobody", Kind.LINKS))))
    assert adjacency.queued <= 8192 + 4


def test_questions_and_digests_count_too() -> None:
    a = flooder("a")
    link = meet(a, 0, "b")
    outputs = [a.receive(0, link, Digests()) for _ in range(3000)]
    assert reasons(outputs[0]) == []
    assert reasons(outputs[-1]) == [Reason.RATE_LIMITED]
