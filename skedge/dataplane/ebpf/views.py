"""What lies in the maps in the words of the core: receipts of open connections, flows of the LAN."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey, ListenerKey, ServiceKey, Target
from skedge.core.observed import Flow, FlowKind, FlowState, FlowSums, Receipt
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.lan.layout_flow import FlowBits, FlowRecord, FlowTotals, Kind
from skedge.dataplane.ebpf.layout_placement import PlacementRecord

NANOSECONDS = 1e9
WorkloadOf = Callable[[int, int], WorkloadId | None]
"""(service id, slot) -> the workload that has the slot now."""
_KINDS: Mapping[int, FlowKind] = {Kind.REMOTE: FlowKind.REMOTE, Kind.LAN: FlowKind.LAN, Kind.OVERLAY: FlowKind.OVERLAY}


def address_port(address: str, port: int) -> str:
    """Return ``address:port``, an IPv6 address in brackets, ``""`` while the socket has no port."""
    if not port:
        return ""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def receipt(record: PlacementRecord, service: ServiceKey, workload_of: WorkloadOf) -> Receipt | None:
    """Return the receipt of an open connection; None when its slot has no name (any more)."""
    workload = workload_of(record.service, record.slot)
    if workload is None:
        return None
    runner = workload_of(record.service, record.runner.slot) if record.runner.capacity else None
    return Receipt(
        client=address_port(record.client, record.client_port),
        listener=record.listener,
        service=service,
        workload=workload,
        table_version=record.version,
        path_cost=record.winner.path_cost,
        perceived=record.winner.perceived,
        runner_up=runner,
        runner_up_perceived=record.runner.perceived if runner is not None else None,
        placed_at=record.placed_at / NANOSECONDS,
        cookie=record.cookie,
        reason=Reason.of_code(record.reason),
    )


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
        kind=_kind(forward.kind),
        state=state(record),
        target=Target(forward.destination, forward.destination_port),
        source=address_port(forward.source, forward.source_port),
        idle_s=max(0.0, now - seen),
        placed_at=placement.placed_at / NANOSECONDS,
        service=service,
        workload=workload,
    )


def _kind(number: int) -> FlowKind:
    return _KINDS.get(number, FlowKind.LOCAL)


def sums(totals: FlowTotals) -> FlowSums:
    """Return what a sweep found."""
    kinds: Counter[FlowKind] = Counter()
    for number, count in enumerate(totals.kinds):
        kinds[_kind(number)] += count
    return FlowSums({kind: count for kind, count in kinds.items() if count}, totals.half_open)


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
