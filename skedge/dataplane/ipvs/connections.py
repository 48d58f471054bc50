"""Connections of the kernel's IPVS table in the words of the core."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import ListenerKey, ListenerTarget, ServiceKey, Target
from skedge.core.observed import Flow, FlowKind, FlowState
from skedge.dataplane.ebpf.views import address_port
from skedge.dataplane.ipvs.procfs import Connection

# What the kernel waits for in a state: a connection that expires in less has been idle for the difference.
_PATIENCE_S = {
    "ESTABLISHED": 900, "SYN_SENT": 120, "SYN_RECV": 60, "FIN_WAIT": 120, "TIME_WAIT": 120, "CLOSE": 10,
    "CLOSE_WAIT": 60, "LAST_ACK": 30, "LISTEN": 120, "SYNACK": 120, "UDP": 300,
}  # fmt: skip
_STATES = {
    "ESTABLISHED": FlowState.ESTABLISHED, "SYN_SENT": FlowState.SYN, "SYN_RECV": FlowState.SYN,
    "SYNACK": FlowState.SYN, "CLOSE": FlowState.CLOSED, "UDP": FlowState.UDP,
}  # fmt: skip


def idle_s(one: Connection) -> float:
    """Return how long nothing came of a connection, as far as the table tells."""
    return float(max(0, _PATIENCE_S.get(one.state, 0) - one.expires_s))


def flows(
    found: Iterable[Connection],
    servers: Mapping[tuple[ServiceKey, Target], WorkloadId],
    listeners: Mapping[ListenerKey, ListenerTarget],
    local: frozenset[Target] = frozenset(),
) -> Iterator[Flow]:
    """Yield the connections that came by a listener of ours.

    When one was placed is not known, so it counts as placed when its last packet came. ``local``: real servers that
    are programs of this host.
    """
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    for one in found:
        listener = ListenerKey(one.virtual.address, one.virtual.port, Protocol(one.protocol))
        if listener not in listeners:
            continue
        services = listeners[listener].services
        service = next((key for key in services if (key, one.server) in servers), None)
        idle = idle_s(one)
        yield Flow(
            client=address_port(one.client.address, one.client.port),
            listener=listener,
            kind=FlowKind.LOCAL if one.server in local else FlowKind.REMOTE,
            state=_STATES.get(one.state, FlowState.FIN),
            target=one.server,
            source="",
            idle_s=idle,
            placed_at=now - idle,
            service=service,
            workload=None if service is None else servers[service, one.server],
        )
