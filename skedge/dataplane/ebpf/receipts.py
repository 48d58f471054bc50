"""Receipts: what is stored with a socket, turned into the words of the core."""

from __future__ import annotations

from collections.abc import Callable

from skedge.core.model import WorkloadId
from skedge.core.objects import ServiceKey
from skedge.core.observed import Receipt
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.layout_placement import PlacementRecord

NANOSECONDS = 1e9
WorkloadOf = Callable[[int, int], WorkloadId | None]
"""(service id, slot) -> the workload that has the slot now."""


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
