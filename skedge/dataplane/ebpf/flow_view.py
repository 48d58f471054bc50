"""Flows of the LAN in the words of the core."""

from __future__ import annotations

from collections.abc import Mapping

from skedge.core.model import Protocol
from skedge.core.objects import Endpoint, EndpointKey, ListenerKey, ServiceKey, Target
from skedge.core.observed import Flow, FlowKind, FlowState
from skedge.dataplane.ebpf.layout_flow import NANOSECONDS, FlowBits, FlowRecord, Kind
from skedge.dataplane.ebpf.receipts import WorkloadOf, address_port

_KINDS = {Kind.REMOTE: FlowKind.REMOTE, Kind.LAN: FlowKind.LAN, Kind.OVERLAY: FlowKind.OVERLAY}


def flow(
    record: FlowRecord,
    *,
    now: float,
    services: Mapping[int, ServiceKey],
    workload_of: WorkloadOf,
    endpoints: Mapping[EndpointKey, Endpoint],
) -> Flow:
    """Return one flow. ``now`` is seconds since boot; one that ended names no workload any more."""
    key, forward, placement = record.key, record.forward, record.placement
    listener = ListenerKey(key.destination, key.destination_port, key.protocol)
    service = services.get(placement.service) if placement.placed else None
    workload = workload_of(placement.service, placement.slot) if placement.placed else None
    if forward.kind == Kind.OVERLAY:
        endpoint = endpoints.get(EndpointKey(listener.port, listener.protocol))
        workload = None if endpoint is None else endpoint.workload
    seen = max(forward.seen, record.reply.seen) / NANOSECONDS
    return Flow(
        client=address_port(key.source, key.source_port),
        listener=listener,
        kind=_KINDS.get(Kind(forward.kind), FlowKind.LOCAL),
        state=state(record),
        target=Target(forward.destination, forward.destination_port),
        source=address_port(forward.source, forward.source_port),
        idle_s=max(0.0, now - seen),
        placed_at=placement.placed_at / NANOSECONDS,
        service=service,
        workload=workload,
    )


def state(record: FlowRecord) -> FlowState:
    """Return what a flow is doing, as bpf/nat/iterate.c judges its patience."""
    said, answered = record.forward.state, record.reply.state
    if record.key.protocol is Protocol.UDP:
        return FlowState.UDP
    if said & FlowBits.ENDED:
        return FlowState.CLOSED
    if (said | answered) & FlowBits.FIN:
        return FlowState.FIN
    return FlowState.ESTABLISHED if said & FlowBits.ACK and answered & FlowBits.SYN else FlowState.SYN
