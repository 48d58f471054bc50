"""Any order of packets and sweeps: the real programs and the model of a flow's states agree after every step."""

from __future__ import annotations

import time
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.lan.layout_flow import FlowBits, FlowEntry, NatConfig
from tests.integration.links.packets import ACK, FIN, RST, SYN
from tests.kit.flow_model import Age, Model, ModelFlow, Said, Side
from tests.kit.rows import configure_nat

from ..kit import PORTS, REDIRECT, UNSPEC, Bench
from ..test_packets import one_far, ports
from .test_races import entries, nat_count
from .test_resets import FAR_OFF, Talk

FEW = range(PORTS[0], PORTS[0] + 4)
ROOM = 8  # the least, of half-open flows
NUMBERS = st.integers(0, 59)
CLIENTS = st.integers(20000, 20005)  # more than there are ports
SIDES = st.sampled_from(Side)
TIMES = NatConfig(ports=(FEW[0], FEW[-1]), syn_s=60, established_s=60, fin_s=60, closed_s=60)
FLAGS = {Said.SYN: SYN, Said.PLAIN: ACK, Said.FIN: FIN | ACK, Said.RESET: RST, Said.FORGED: RST}
TICK_S = 0.012  # the programs' clock is coarse


def bits(flow: ModelFlow, side: Side) -> FlowBits:
    """Return what the model expects of a state word."""
    of = {Said.SYN: FlowBits.SYN, Said.PLAIN: FlowBits.ACK, Said.FIN: FlowBits.FIN, Said.RESET: FlowBits.RST}
    found = FlowBits.REPLY if side is Side.WORKLOAD else FlowBits(0)
    for one in flow.said[side]:
        found |= of[one]
    if flow.ended:
        found |= FlowBits.ENDED
    if flow.passive and side is Side.WORKLOAD:
        found |= FlowBits.PASSIVE
    return found


def seen(entry: FlowEntry) -> FlowBits:
    """Return the word without what is of a moment only, or says how the end came."""
    return entry.state & ~(FlowBits.ENDING | FlowBits.RESET | FlowBits.AGAIN)


class Machine(RuleBasedStateMachine):
    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(FEW, ROOM)
        self.talks: dict[int, Talk] = {}
        configure_nat(self.bench.site, TIMES)

    def teardown(self) -> None:
        self.bench.site.end_flows()
        assert (self.bench.site.open(), nat_count(self.bench), entries(self.bench)) == (0, 0, 0)

    @rule(client=CLIENTS)
    def begins(self, client: int) -> None:
        if not self.model.needs_port(client):
            before = self.placed_at(client)
            verdict, out = self.talks[client].send("client", SYN)
            assert verdict == REDIRECT
            if self.placed_at(client) == before:
                self.model.flows[client].hear(Side.CLIENT, Said.SYN)
            else:
                self.talks[client].port = ports(out, 4)[0]
                self.model.move(client, self.talks[client].port)
            return
        talk = self.talks[client] = Talk(self.bench, 4, client)
        verdict, out = talk.send("client", SYN)
        assert verdict in (REDIRECT, UNSPEC)
        talk.port = ports(out, 4)[0] if verdict == REDIRECT else 0
        self.model.begin(client, talk.port or None)

    def placed_at(self, client: int) -> int:
        found = (one for one in self.bench.site.flows.records() if one.key.source_port == client)
        return next(one.placement.placed_at for one in found)

    @rule(client=CLIENTS)
    def is_served(self, client: int) -> None:
        """Come all the way, which chance seldom does."""
        if self.model.needs_port(client):
            self.begins(client)
            for side, what in ((Side.WORKLOAD, Said.SYN), (Side.CLIENT, Said.PLAIN), (Side.WORKLOAD, Said.PLAIN)):
                self.says(client, side, what)

    @precondition(lambda self: self.model.flows)
    @rule(number=NUMBERS, side=SIDES, what=st.sampled_from([Said.PLAIN, Said.FIN, Said.RESET, Said.FORGED]))
    def goes_on(self, number: int, side: Side, what: Said) -> None:
        self.says(sorted(self.model.flows)[number % len(self.model.flows)], side, what)

    @precondition(lambda self: self.model.flows)
    @rule(
        number=NUMBERS,
        packets=st.lists(st.tuples(SIDES, st.sampled_from([Said.FIN, Said.RESET, Said.PLAIN])), min_size=2, max_size=5),
    )
    def ends_somehow(self, number: int, packets: list[tuple[Side, Said]]) -> None:
        client = sorted(self.model.flows)[number % len(self.model.flows)]
        for side, what in packets:
            self.says(client, side, what)
            self.agrees()

    def says(self, client: int, side: Side, what: Said) -> None:
        flow = self.model.flows.get(client)
        if flow is None:
            return
        flags = FLAGS[what] | (ACK if side is Side.WORKLOAD and Said.SYN not in flow.said[side] else 0)
        talk = self.talks[client]
        off = FAR_OFF if what is Said.FORGED else 0
        if off and flags == RST | ACK:  # a refusal is told by what it acknowledges
            talk.next["client"] += off
            verdict, _ = talk.send(side, flags)
            talk.next["client"] -= off
        else:
            verdict, _ = talk.send(side, flags, off=off)
        assert verdict == REDIRECT
        flow.hear(side, what)

    @precondition(lambda self: len(self.model.flows) > 2)
    @rule(age=st.sampled_from(Age))
    def sweeps(self, age: Age) -> None:
        time.sleep(TICK_S)
        configure_nat(self.bench.site, replace(TIMES, **{f"{age}_s": 0.0}))
        self.bench.site.flows.sweep()
        configure_nat(self.bench.site, TIMES)
        self.model.sweep(age)

    @invariant()
    def agrees(self) -> None:
        records = {one.key.source_port: one for one in self.bench.site.flows.records()}
        assert set(records) == set(self.model.flows)
        for client, flow in self.model.flows.items():
            one = records[client]
            assert (seen(one.forward), seen(one.reply)) == (bits(flow, Side.CLIENT), bits(flow, Side.WORKLOAD))
            assert one.forward.source_port == flow.port
            assert bool(one.placement.placed) is not flow.ended
        assert (self.bench.site.open(), nat_count(self.bench)) == (self.model.open, self.model.open)
        assert entries(self.bench) == 2 * len(records)


def test_the_programs_and_the_model_agree_on_any_flow(bench: Bench) -> None:
    one_far(bench, 4)
    machine = type("OneMachine", (Machine,), {"bench": bench})
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            machine,
            settings=settings(
                max_examples=40, stateful_step_count=30, deadline=None, database=None, derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip
    finally:
        configure_nat(bench.site, NatConfig(ports=PORTS))
    assert bench.site.drops().get(Reason.NO_PORT, 0) > 0, "ports ran out now and then"
    assert bench.site.engine.reconcile_counts() == 0
