"""A flow's record in the words of the core."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey, ListenerKey, ServiceKey, Target
from skedge.core.observed import FlowKind, FlowState
from skedge.dataplane.ebpf import views
from skedge.dataplane.ebpf.lan.layout_flow import FlowBits, FlowEntry, FlowKey, FlowRecord, Kind
from skedge.dataplane.ebpf.layout_placement import PLACED_VALID, PlacementRecord, Weighed

S = 1_000_000_000
KEY = FlowKey("10.0.5.9", 40000, "10.0.5.1", 8080)
FORWARD = FlowEntry("100.64.0.1", 63007, "100.64.0.2", 61001, 90 * S, FlowBits.SYN | FlowBits.ACK, Kind.REMOTE, 0)
REPLY = FlowEntry(
    "10.0.5.1", 8080, "10.0.5.9", 40000, 95 * S, FlowBits.REPLY | FlowBits.SYN | FlowBits.ACK, Kind.REMOTE, 0
)
NOBODY = Weighed(0, 0, 0, 0)
PLACEMENT = PlacementRecord(
    0, "10.0.5.9", 40000, PLACED_VALID | 7 << 8 | 3, 40 * S, 0, ListenerKey("10.0.5.1", 8080),
    Target("100.64.0.2", 61001), reason=0, version=1, choice=1, winner=NOBODY, runner=NOBODY,
)  # fmt: skip
RECORD = FlowRecord(KEY, FORWARD, REPLY, PLACEMENT)
B = WorkloadId("b", "web")


def words(record: FlowRecord):
    names = {(7, 3): B}
    return views.flow(
        record,
        now=100.0,
        services={7: ServiceKey("web")},
        workload_of=lambda service, slot: names.get((service, slot)),
        endpoints={EndpointKey(8080): Endpoint(WorkloadId("a", "box"), "10.0.5.7", 80, off_host=True)},
    )


def test_a_flow_to_another_site() -> None:
    flow = words(RECORD)
    assert (flow.client, flow.listener) == ("10.0.5.9:40000", ListenerKey("10.0.5.1", 8080))
    assert (flow.kind, flow.state) == (FlowKind.REMOTE, FlowState.ESTABLISHED)
    assert (flow.target, flow.source) == (Target("100.64.0.2", 61001), "100.64.0.1:63007")
    assert (flow.idle_s, flow.placed_at) == (5.0, 40.0)
    assert (flow.service, flow.workload) == (ServiceKey("web"), B)


def test_one_that_ended_names_nobody_and_one_of_another_site_its_endpoint() -> None:
    ended = words(replace(RECORD, placement=replace(PLACEMENT, placed=0)))
    assert (ended.service, ended.workload) == (None, None)
    overlay = replace(RECORD, forward=replace(FORWARD, kind=Kind.OVERLAY), placement=replace(PLACEMENT, placed=0))
    assert (words(overlay).kind, words(overlay).workload) == (FlowKind.OVERLAY, WorkloadId("a", "box"))
    loop = replace(RECORD, forward=replace(FORWARD, kind=Kind.LOOP))
    assert words(loop).kind is FlowKind.LOCAL


@pytest.mark.parametrize(
    ("said", "answered", "state"),
    [
        (FlowBits.SYN, FlowBits.REPLY, FlowState.SYN),
        (FlowBits.SYN, FlowBits.REPLY | FlowBits.SYN, FlowState.SYN),
        (FlowBits.SYN | FlowBits.ACK, FlowBits.REPLY | FlowBits.SYN, FlowState.ESTABLISHED),
        (FlowBits.SYN | FlowBits.ACK | FlowBits.FIN, FlowBits.REPLY | FlowBits.SYN, FlowState.FIN),
        (FlowBits.SYN | FlowBits.ACK, FlowBits.REPLY | FlowBits.SYN | FlowBits.FIN, FlowState.FIN),
        (FlowBits.SYN | FlowBits.ENDED, FlowBits.REPLY | FlowBits.RST | FlowBits.ENDED, FlowState.CLOSED),
    ],
)
def test_states(said: FlowBits, answered: FlowBits, state: FlowState) -> None:
    record = replace(RECORD, forward=replace(FORWARD, state=said), reply=replace(REPLY, state=answered))
    assert views.state(record) is state
    udp = replace(record, key=replace(KEY, protocol=Protocol.UDP))
    assert views.state(udp) is FlowState.UDP
