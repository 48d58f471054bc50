"""An unanswered flow is an attempt: where it goes, what it says of its workload, how many there may be. As packets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.lan.layout_flow import NatConfig
from tests.integration.links.packets import ACK, FIN, L4, RST, SYN, ip, tcp, udp
from tests.kit.rows import configure_nat

from ..kit import CLIENT, HOST, LISTEN, MACHINE, PORTS, REDIRECT, SHOT, UNSPEC, Bench, far_overlay, remote

BOTH = pytest.mark.parametrize("v", [4, 6])
FAR_PORT = 61005
ROOM = (PORTS[1] - PORTS[0] + 1) * 7 // 8 // 2
PATIENCE_S = 2.6
SETTLED_S = 0.02  # the programs' clock is coarse


class Attempt:
    """One connect of a LAN client, as its packets are seen; `at` is the far port that the last SYN went to."""

    def __init__(self, bench: Bench, client_port: int = 40000, v: int = 4, client: str = "") -> None:
        self.bench, self.v, self.client_port, self.source = bench, v, client_port, client or CLIENT[v]
        assert self.syn() == REDIRECT

    def syn(self) -> int:
        verdict, out = self.client(SYN)
        at = 20 if self.v == 4 else 40
        self.port, self.at = int.from_bytes(out[at : at + 2]), int.from_bytes(out[at + 2 : at + 4])
        return verdict

    def client(self, flags: int) -> tuple[int, bytes]:
        return self.bench.lan(ip(self.source, HOST[self.v], tcp(self.client_port, LISTEN, flags)))

    def workload(self, flags: int) -> int:
        far, own = far_overlay()[self.v], self.bench.site.overlay(self.v)
        return self.bench.link(ip(far, own, tcp(self.at, self.port, flags)))[0]

    def establish(self) -> None:
        assert self.workload(SYN | ACK) == REDIRECT
        assert self.client(ACK)[0] == REDIRECT


def two_far(bench: Bench, out: Reason = Reason.NONE, v: int = 4, first: bool = True, second: bool = True) -> None:
    """Workload `a`, the cheaper one, and `b`."""
    far = far_overlay()[v]
    table = [remote("a", 0, (far, FAR_PORT), out=out)] * first + [remote("b", 9, (far, FAR_PORT + 1))] * second
    bench.site.service(table, (HOST[v], LISTEN))


def suspended(bench: Bench) -> list[str]:
    return sorted(workload.site for _, workload in bench.site.engine.suspended())


def opens(bench: Bench) -> tuple[int, int]:
    return bench.site.open("a"), bench.site.open("b")


def sweep(bench: Bench) -> None:
    """Let the half-open flows be idle for too long, and no other."""
    configure_nat(bench.site, NatConfig(ports=PORTS, syn_s=0))
    time.sleep(SETTLED_S)
    bench.site.flows.sweep()
    configure_nat(bench.site, NatConfig(ports=PORTS))


@pytest.fixture
def limits(bench: Bench) -> Iterator[Bench]:
    """The site, whose limits the test may set."""
    yield bench
    configure_nat(bench.site, NatConfig(ports=PORTS))


# ---- an attempt may be moved ------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("out", [Reason.UNHEALTHY, Reason.UNREACHABLE, Reason.DRAINED, None], ids=str)
def test_an_attempt_leaves_a_workload_that_takes_nothing_new(bench: Bench, v: int, out: Reason | None) -> None:
    two_far(bench, v=v)
    waiting, answered, served = (Attempt(bench, 40000 + n, v) for n in range(3))
    assert answered.workload(SYN | ACK) == REDIRECT
    served.establish()
    assert [one.at for one in (waiting, answered, served)] == [FAR_PORT] * 3
    two_far(bench, out or Reason.NONE, v, first=out is not None)
    assert [one.syn() for one in (waiting, answered, served)] == [REDIRECT] * 3
    assert [one.at for one in (waiting, answered, served)] == [FAR_PORT + 1, FAR_PORT, FAR_PORT]
    assert opens(bench) == (2, 1)
    waiting.establish()
    assert bench.site.engine.reconcile_counts() == 0
    assert suspended(bench) == []


def test_an_attempt_leaves_a_workload_that_was_suspended(bench: Bench) -> None:
    two_far(bench)
    waiting, refused = Attempt(bench), Attempt(bench, 40001)
    assert refused.workload(RST | ACK) == REDIRECT
    assert suspended(bench) == ["a"]
    waiting.syn()
    assert (waiting.at, opens(bench)) == (FAR_PORT + 1, (0, 1))
    assert bench.site.engine.reconcile_counts() == 0


def test_an_attempt_that_is_not_answered_for_long_goes_elsewhere(bench: Bench) -> None:
    two_far(bench)
    waiting, answered = Attempt(bench), Attempt(bench, 40001)
    assert answered.workload(SYN | ACK) == REDIRECT
    waiting.syn()
    assert waiting.at == FAR_PORT, "one SYN may be lost"
    time.sleep(PATIENCE_S)
    waiting.syn()
    answered.syn()
    assert (waiting.at, answered.at, opens(bench)) == (FAR_PORT + 1, FAR_PORT, (1, 1))
    assert suspended(bench) == [], "one attempt is no proof"
    assert Attempt(bench, 40002).at == FAR_PORT
    assert bench.site.engine.reconcile_counts() == 0


def test_two_attempts_that_are_not_answered_suspend_unless_one_is_answered_in_between(bench: Bench) -> None:
    two_far(bench)
    first, second, third = (Attempt(bench, 40000 + n) for n in range(3))
    time.sleep(PATIENCE_S)
    first.syn()
    served = Attempt(bench, 40005)
    served.establish()
    second.syn()
    assert (first.at, served.at, second.at, suspended(bench)) == (FAR_PORT + 1, FAR_PORT, FAR_PORT + 1, [])
    third.syn()
    assert (third.at, suspended(bench)) == (FAR_PORT + 1, ["a"])
    assert opens(bench) == (1, 3)
    assert bench.site.engine.reconcile_counts() == 0


def test_an_attempt_with_nowhere_else_to_go_stays_and_one_with_nobody_is_refused(bench: Bench) -> None:
    two_far(bench, second=False)
    waiting = Attempt(bench)
    time.sleep(PATIENCE_S)
    for _ in range(2):
        assert waiting.syn() == REDIRECT
        assert (waiting.at, opens(bench), suspended(bench)) == (FAR_PORT, (1, 0), [])
    two_far(bench, Reason.UNHEALTHY, second=False)
    assert waiting.client(SYN)[0] == UNSPEC, "the stack refuses it"
    assert (bench.site.open(), list(bench.site.flows.records())) == (0, [])
    assert bench.site.engine.reconcile_counts() == 0


# ---- what silence says ------------------------------------------------------------------------------------------


def test_a_client_that_falls_silent_says_nothing_of_the_workload(bench: Bench) -> None:
    two_far(bench)
    for number in range(4):
        half_open, lost = Attempt(bench, 40000 + number), Attempt(bench, 41000 + number)
        half_open.workload(SYN | ACK)
        half_open.syn()
        assert lost.at == FAR_PORT
    sweep(bench)
    assert (opens(bench), suspended(bench)) == ((0, 0), [])


def test_syns_sent_again_and_never_answered_suspend_when_two_attempts_say_so(bench: Bench) -> None:
    two_far(bench)
    for number, then in enumerate(([], ["a"])):
        Attempt(bench, 40000 + number).syn()
        sweep(bench)
        assert suspended(bench) == then
    assert opens(bench) == (0, 0)


def test_a_reset_that_answers_more_than_the_syn_is_no_refusal(bench: Bench) -> None:
    """A SYN that the workload does not understand, and an acknowledgement of nothing."""
    two_far(bench)
    forged = Attempt(bench)
    forged.client(ACK)
    assert forged.workload(RST) == REDIRECT
    assert (opens(bench), suspended(bench)) == ((0, 0), [])


def test_one_reset_is_no_proof_while_half_open_flows_make_room(bench: Bench) -> None:
    """Their NAT ports are used again while the workload's host still remembers them."""
    two_far(bench, second=False)
    for number in range(ROOM + 1):
        Attempt(bench, 41000 + number)
    for number, then in enumerate(([], ["a"])):
        refused = Attempt(bench, 40000 + number)
        assert refused.workload(RST | ACK) == REDIRECT
        assert suspended(bench) == then
        time.sleep(1.1 * (not then))


def joining(sport: int, subtype: int) -> L4:
    """A SYN with the options of MP_JOIN (1) or MP_CAPABLE (0), as Linux writes them."""
    multipath = bytes([30, 12, subtype << 4, 1]) + bytes(8) if subtype else bytes([30, 4, 1, 1])
    options = bytes([2, 4, 5, 0xB4, 4, 2, 8, 10]) + bytes(8) + bytes([1, 3, 3, 7]) + multipath
    data = tcp(sport, LISTEN).data
    return L4(6, data[:12] + bytes([(20 + len(options)) // 4 << 4]) + data[13:20] + options, 16)


@BOTH
def test_a_subflow_that_joins_a_connection_is_not_placed(bench: Bench, v: int) -> None:
    two_far(bench, v=v)
    assert bench.lan(ip(CLIENT[v], HOST[v], joining(40000, 0)))[0] == REDIRECT
    before = bench.site.drops().get(Reason.NO_SOCKET, 0)
    packet = ip(CLIENT[v], HOST[v], joining(40001, 1))
    assert bench.lan(packet) == (UNSPEC, packet), "the stack resets it"
    assert bench.site.drops()[Reason.NO_SOCKET] == before + 1
    assert (bench.site.open(), suspended(bench)) == (1, [])


# ---- how many there may be --------------------------------------------------------------------------------------


def test_half_open_flows_have_a_room_of_their_own(bench: Bench) -> None:
    two_far(bench)
    held = [Attempt(bench, 30000 + n) for n in range(5)]
    for one in held:
        one.establish()
    before = bench.site.drops().get(Reason.HALF_OPEN, 0)
    for number in range(200):
        flood = Attempt(bench, 40000 + number, client=f"10.55.0.{100 + number % 100}")
        if number % 2:
            flood.workload(SYN | ACK)
        assert bench.site.open() <= 5 + ROOM
    assert bench.site.open() == 5 + ROOM
    assert len(list(bench.site.flows.records())) == 5 + ROOM
    assert bench.site.drops()[Reason.HALF_OPEN] == before + 200 - ROOM
    assert [one.client(ACK)[0] for one in held] == [REDIRECT] * 5
    assert bench.site.engine.reconcile_counts() == 0
    assert suspended(bench) == []


def test_what_was_reset_before_it_was_established_leaves_too(bench: Bench) -> None:
    """Spoofed senders that exist answer the workload's answer by a reset."""
    two_far(bench)
    for number in range(100):
        reset = Attempt(bench, 40000 + number)
        reset.workload(SYN | ACK)
        reset.client(RST)
    assert bench.site.open() == 0
    assert len(list(bench.site.flows.records())) <= ROOM


def test_unanswered_datagrams_have_a_room_too(bench: Bench) -> None:
    far = far_overlay()[4]
    bench.site.service([remote("a", 0, (far, FAR_PORT))], (HOST[4], LISTEN), protocol=Protocol.UDP)
    verdict, out = bench.lan(ip(CLIENT[4], HOST[4], udp(30000, LISTEN)))
    port = int.from_bytes(out[20:22])
    assert bench.link(ip(far, bench.site.overlay4, udp(FAR_PORT, port)))[0] == REDIRECT
    for number in range(100):
        assert bench.lan(ip(CLIENT[4], HOST[4], udp(40000 + number, LISTEN)))[0] == REDIRECT
    assert bench.site.open() == 1 + ROOM
    verdict, again = bench.lan(ip(CLIENT[4], HOST[4], udp(30000, LISTEN)))
    assert (verdict, int.from_bytes(again[20:22])) == (REDIRECT, port), "the one that is answered stays"
    assert bench.lan(ip(CLIENT[4], HOST[4], udp(40000, LISTEN)))[0] == REDIRECT, "one that left is placed again"
    assert bench.site.open() == 1 + ROOM
    assert bench.site.engine.reconcile_counts() == 0


@BOTH
def test_a_source_opens_so_many_flows_a_second(limits: Bench, v: int) -> None:
    bench = limits
    two_far(bench, v=v)
    configure_nat(bench.site, NatConfig(ports=PORTS, source_rate=10))
    before = bench.site.drops().get(Reason.SOURCE_LIMIT, 0)
    began = time.monotonic()
    for number in range(10):
        Attempt(bench, 20000 + number, v)
    sent = 0
    while bench.lan(ip(CLIENT[v], HOST[v], tcp(21000 + sent, LISTEN)))[0] == REDIRECT:
        sent += 1
    assert sent <= 10 * (time.monotonic() - began) + 2
    assert bench.site.drops()[Reason.SOURCE_LIMIT] == before + 1
    other = {4: "10.55.0.77", 6: "fd55::77"}[v]
    Attempt(bench, 20000, v, other).establish()
    time.sleep(0.3)
    Attempt(bench, 22000, v)


def test_a_site_opens_so_many_flows_a_second_to_a_machine_of_the_lan(limits: Bench) -> None:
    bench, far = limits, far_overlay()[4]
    key = EndpointKey(61200)
    configure_nat(bench.site, NatConfig(ports=PORTS, source_rate=10))
    bench.site.endpoints.put(key, Endpoint(WorkloadId("edge", "m"), MACHINE[4], 9000, off_host=True))
    try:
        before = bench.site.drops().get(Reason.SOURCE_LIMIT, 0)
        verdicts = [bench.link(ip(far, bench.site.overlay4, tcp(41000 + n, 61200)))[0] for n in range(40)]
        assert verdicts[:10] == [REDIRECT] * 10
        assert verdicts[-5:] == [SHOT] * 5
        assert bench.site.drops()[Reason.SOURCE_LIMIT] == before + verdicts.count(SHOT)
        configure_nat(bench.site, NatConfig(ports=PORTS))
        time.sleep(0.3)
        for n in range(100):
            assert bench.link(ip(far, bench.site.overlay4, tcp(42000 + n, 61200)))[0] == REDIRECT
        assert len(list(bench.site.flows.records())) <= ROOM
    finally:
        bench.site.endpoints.delete(key)


def test_the_room_is_set_by_the_controller(limits: Bench) -> None:
    bench = limits
    two_far(bench)
    configure_nat(bench.site, replace(NatConfig(ports=PORTS), half_open=3))
    for number in range(10):
        Attempt(bench, 20000 + number)
    assert bench.site.open() == 3
    late = Attempt(bench, 20009)
    late.establish()
    late.client(FIN | ACK)
