"""What the data plane counted and saw, as plain values: counters, receipts, flows, tunnels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from skedge.core.model import WorkloadId
from skedge.core.objects import ListenerKey, ServiceKey, Target
from skedge.core.reasons import Reason


@dataclass(frozen=True, slots=True)
class TunnelFacts:
    """What a wireguard link does now: ``handshake_s`` is the age of the newest handshake, None before the first.

    ``keys`` are the public keys that the far end may have.
    """

    handshake_s: float | None
    endpoint: str = ""
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """What this site counted for one workload of one service; ``open`` now, the rest since the map was made.

    ``last_chosen`` is the number of the choice at this site that took it last (0: none), as `core.placement.rule`
    breaks ties. ``nat`` are those of ``open`` that hold a NAT port.
    """

    open: int = 0
    chosen: int = 0
    refused: int = 0
    last_chosen: int = 0
    nat: int = 0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a placement decided on, as stored with the socket (docs/architecture.md, receipts).

    ``table_version`` is the service table's version at the pick; perceived costs are the exact fraction
    (numerator, denominator). ``flags`` are reason codes that took part (e.g. SUSPENDED ignored).
    """

    client: str  # address:port of the client socket, "" while not bound
    listener: ListenerKey
    service: ServiceKey
    workload: WorkloadId
    table_version: int
    path_cost: int
    perceived: tuple[int, int]
    runner_up: WorkloadId | None = None
    runner_up_perceived: tuple[int, int] | None = None
    placed_at: float = 0.0  # seconds since boot
    cookie: int = 0
    reason: Reason = Reason.NONE


class FlowKind(StrEnum):
    """Where a flow of the LAN leads: to a socket of this host, another site's endpoint, a machine of the site's LAN.

    ``overlay``: it came from another site, which placed it, to one of our endpoints that is such a machine.
    """

    LOCAL = "local"
    REMOTE = "remote"
    LAN = "lan"
    OVERLAY = "overlay"


@dataclass(frozen=True, slots=True)
class FlowSums:
    """How many flows of the LAN there are of each kind, and how many connections among them are half open."""

    kinds: Mapping[FlowKind, int] = field(default_factory=dict)
    half_open: int = 0


class FlowState(StrEnum):
    """What a flow is doing; each has its idle time-out (`core.model.FlowTimes`)."""

    SYN = "syn"
    ESTABLISHED = "established"
    FIN = "fin"
    CLOSED = "closed"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow of the LAN, as the flow table has it.

    The workload at ``target`` sees ``source`` as its client. One that ended has no service and workload; nor has one
    that another site placed a service.
    """

    client: str  # address:port
    listener: ListenerKey
    kind: FlowKind
    state: FlowState
    target: Target
    source: str
    idle_s: float
    placed_at: float  # seconds since boot
    service: ServiceKey | None = None
    workload: WorkloadId | None = None


class Origin(StrEnum):
    """Where bytecode came from, the farther from a compiler on this host the better."""

    SHIPPED = "shipped"
    CACHED = "cached"
    COMPILED = "compiled here"


@dataclass(frozen=True, slots=True)
class ProgramsReport:
    """``origin`` of the programs that run, empty where it is not known; ``refused`` is why newer ones do not.

    ``trouble``: what was wrong with bytecode that had to be passed over.
    """

    origin: str = ""
    refused: str = ""
    trouble: str = ""
