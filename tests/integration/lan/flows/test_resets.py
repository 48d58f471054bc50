"""Resets: what the receiver may believe ends the count at once; what it does not believe ends nothing."""

from __future__ import annotations

import time

import pytest

from skedge.dataplane.ebpf.lan.layout_flow import FlowBits, FlowKey, NatConfig
from tests.integration.links.packets import ACK, FIN, RST, SYN, ip, tcp
from tests.kit.rows import configure_nat

from ..kit import CLIENT, HOST, LISTEN, PORTS, REDIRECT, Bench, far_overlay
from ..test_packets import BOTH, FAR_PORT, one_far, ports

CLIENT_ISN, WORKLOAD_ISN = 4_000_000_000, 70_000
FAR_OFF = 1 << 30  # no window reaches there
NEAR = 1_000_000  # outside of most windows, but as near as a real reset may be
SIDES = pytest.mark.parametrize("side", ["client", "workload"])
RESTS_S = 2.0


class Talk:
    """One connection of a client to a workload of another site, with the numbers that both sides have reached."""

    def __init__(self, bench: Bench, v: int = 4, client_port: int = 40000) -> None:
        self.bench, self.v, self.client_port = bench, v, client_port
        self.next = {"client": CLIENT_ISN, "workload": WORKLOAD_ISN}
        self.port = 0

    def send(self, side: str, flags: int, payload: bytes = b"", off: int = 0):
        other = "workload" if side == "client" else "client"
        numbers = self.next[side] + off, self.next[other] if flags & ACK else 0
        if not off:
            self.next[side] += len(payload) + bool(flags & (SYN | FIN))
        if side == "client":
            segment = tcp(self.client_port, LISTEN, flags, payload, *numbers)
            return self.bench.lan(ip(CLIENT[self.v], HOST[self.v], segment))
        segment = tcp(FAR_PORT, self.port, flags, payload, *numbers)
        return self.bench.link(ip(far_overlay()[self.v], self.bench.site.overlay(self.v), segment))

    def establish(self) -> Talk:
        verdict, out = self.send("client", SYN)
        assert verdict == REDIRECT
        self.port = ports(out, self.v)[0]
        self.send("workload", SYN | ACK)
        self.send("client", ACK)
        return self

    def exchange(self) -> None:
        """Both sides speak, and each gets what the other says."""
        assert self.send("client", ACK, b"question")[0] == REDIRECT
        verdict, out = self.send("workload", ACK, b"answer")
        assert (verdict, ports(out, self.v)) == (REDIRECT, (LISTEN, self.client_port))

    def state(self) -> FlowBits:
        entry = self.bench.site.entry(FlowKey(CLIENT[self.v], self.client_port, HOST[self.v], LISTEN))
        assert entry is not None
        return entry.state


def others(bench: Bench, number: int) -> set[int]:
    """Return the ports of so many more connections."""
    return {Talk(bench, 4, 20000 + one).establish().port for one in range(number)}


@BOTH
@SIDES
@pytest.mark.parametrize("off", [FAR_OFF, -FAR_OFF, 1 << 31])
def test_a_reset_out_of_every_window_ends_nothing(bench: Bench, v: int, side: str, off: int) -> None:
    one_far(bench, v)
    talk = Talk(bench, v).establish()
    talk.exchange()
    assert talk.send(side, RST, off=off)[0] == REDIRECT, "its receiver judges for itself"
    assert bench.site.open() == 1
    assert not talk.state() & FlowBits.ENDED
    talk.exchange()
    talk.send(side, RST)
    assert bench.site.open() == 0


def test_a_forged_reset_gives_the_port_to_nobody(bench: Bench) -> None:
    one_far(bench, 4)
    for side in ("client", "workload"):
        first = Talk(bench).establish()
        first.send(side, RST, off=FAR_OFF)
        assert first.port not in others(bench, 45)
        first.exchange()
        bench.site.end_flows()


@SIDES
def test_a_connection_lives_on_after_a_reset_that_was_near_enough(bench: Bench, side: str) -> None:
    """It is counted again with the next packet of the side that is said to have reset."""
    one_far(bench, 4)
    other = "workload" if side == "client" else "client"
    talk = Talk(bench).establish()
    talk.send(side, RST, off=NEAR)
    assert bench.site.open() == 0
    assert talk.port not in others(bench, 45)
    assert bench.site.open() == 45
    talk.send(other, ACK, b"still on its way when the reset came")
    assert bench.site.open() == 45, "that says nothing of the side that reset"
    talk.send(side, ACK, b"alive")
    assert bench.site.open() == 46
    assert not talk.state() & (FlowBits.ENDED | FlowBits.RST)
    assert bench.site.engine.reconcile_counts() == 0
    talk.exchange()
    talk.send("client", FIN | ACK)
    assert bench.site.open() == 46
    talk.send("workload", FIN | ACK)
    assert bench.site.open() == 45
    assert bench.site.engine.reconcile_counts() == 0


def test_the_end_of_both_sides_is_not_taken_back(bench: Bench) -> None:
    one_far(bench, 4)
    talk = Talk(bench).establish()
    talk.send("client", FIN | ACK)
    talk.send("client", RST)
    assert bench.site.open() == 0
    talk.send("workload", FIN | ACK)
    talk.send("client", ACK)
    assert bench.site.open() == 0
    assert talk.state() & FlowBits.ENDED


def test_a_port_serves_again_when_it_has_rested_after_a_reset(bench: Bench) -> None:
    one_far(bench, 4)
    configure_nat(bench.site, NatConfig(ports=(PORTS[0], PORTS[0])))
    try:
        assert Talk(bench).establish().send("client", RST)[0] == REDIRECT
        early = Talk(bench, 4, 40001).establish()
        assert early.port == PORTS[0], "with no other port left it serves at once"
        early.send("client", RST)
    finally:
        configure_nat(bench.site, NatConfig(ports=PORTS))
    first = {Talk(bench, 4, 20000 + number).establish() for number in range(20)}
    for one in first:
        one.send("client", RST)
    assert bench.site.open() == 0
    second = {Talk(bench, 4, 30000 + number).establish().port for number in range(10)}
    assert not second & {one.port for one in first}
    time.sleep(RESTS_S + 0.05)
    third = {Talk(bench, 4, 31000 + number).establish().port for number in range(40)}
    assert third & {one.port for one in first}
    assert bench.site.open() == 50


def test_a_refusal_of_something_else_suspends_nobody(bench: Bench) -> None:
    """Its acknowledgement is not of the client's SYN: the client does not believe it either."""
    one_far(bench, 4)
    talk = Talk(bench)
    talk.port = ports(talk.send("client", SYN)[1], 4)[0]
    talk.next["client"] += FAR_OFF
    talk.send("workload", RST | ACK)
    assert (bench.site.open(), bench.site.engine.suspended()) == (1, frozenset())
    talk.next["client"] -= FAR_OFF
    talk.send("workload", RST | ACK)
    assert bench.site.open() == 0
    assert len(bench.site.engine.suspended()) == 1


def test_a_client_that_begins_anew_before_the_answer_is_refused_by_its_new_number(bench: Bench) -> None:
    one_far(bench, 4)
    talk = Talk(bench)
    talk.port = ports(talk.send("client", SYN)[1], 4)[0]
    talk.next["client"] = CLIENT_ISN + FAR_OFF
    talk.send("client", SYN)
    talk.send("workload", RST | ACK)
    assert bench.site.open() == 0
