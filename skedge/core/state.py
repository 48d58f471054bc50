"""Desired state of this site's kernel as plain values, and the protocols that drivers fulfil.

`core.desired` computes these values; `core.reconcile` diffs them with what a driver reads; drivers only obey.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol as TypingProtocol
from typing import TypeVar

from skedge.core.model import LinkId, Protocol, Transport, WorkloadId
from skedge.core.reasons import Reason

K = TypeVar("K")
V = TypeVar("V")


class Driver(TypingProtocol[K, V]):
    """One kind of kernel object; every method touches only objects that are ours.

    Raises:
        DataplaneError: the kernel refused (from any method); the key stays different and is retried.
    """

    def read(self) -> Mapping[K, V]:
        """Return all objects of this kind that are ours, as the kernel has them now."""
        ...

    def put(self, key: K, value: V) -> None:
        """Create or replace one object; forwarding never sees a gap."""
        ...

    def delete(self, key: K) -> None:
        """Remove one object; one that is already gone is success."""
        ...


# ---- links, addresses, routes (keys: device name, address, destination) -------------------------------------


@dataclass(frozen=True, slots=True)
class LinkDevice:
    """One link device of ours (key: device name). Equal values mean nothing to do.

    ``remote`` is an address, of a wireguard link also a host name; ``keys`` are the public keys that its far end may
    have.
    """

    link: LinkId
    transport: Transport
    link_local: str
    peer_link_local: str
    mtu: int = 0
    vni: int = 0
    local: str = ""
    remote: str = ""
    port: int = 0
    underlay: str = ""
    remote_port: int = 0
    keepalive_s: int = 0
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class NextHop:
    """One next hop on a device of ours: the neighbour's link-local address, `names.GATEWAY4` for an IPv4 route."""

    device: str
    via: str


class RouteUse(StrEnum):
    """What a route is for: a site's overlay address, or the LAN of another site that keeps its clients' addresses.

    ``transit``: such clients may only pass through; ``clients``: they may come to this site's workloads, too.
    """

    OVERLAY = "overlay"
    TRANSIT = "transit"
    CLIENTS = "clients"


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """Route to one overlay address or LAN prefix (key: destination as ``addr/len``); several next hops are ECMP."""

    next_hops: tuple[NextHop, ...]
    source: str
    use: RouteUse = RouteUse.OVERLAY


@dataclass(frozen=True, slots=True)
class TunnelFacts:
    """What a wireguard link does now: ``handshake_s`` is the age of the newest handshake, None before the first.

    ``keys`` are the public keys that the far end may have.
    """

    handshake_s: float | None
    endpoint: str = ""
    keys: tuple[str, ...] = ()


# ---- balancing ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """Where a connection to a candidate is sent: overlay address and endpoint port, or the local host:port."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """One workload as this site may choose it now.

    ``others`` is the sum of the other sites' last reports. ``out`` says why it may not be chosen; NONE when it may.
    ``target4``/``target6`` is None where that address family cannot reach it. ``local``: of this site; ``elsewhere``:
    of this site, but at an address that is not this host's (a LAN machine, a container). ``keeps``: of another site,
    which takes LAN clients of this one under their own addresses.
    """

    workload: WorkloadId
    path_cost: int
    capacity: int
    others: int = 0
    target4: Target | None = None
    target6: Target | None = None
    local: bool = False
    out: Reason = Reason.NONE
    elsewhere: bool = False
    keeps: bool = False


@dataclass(frozen=True, slots=True, order=True)
class ServiceKey:
    """A service of one transport protocol."""

    name: str
    protocol: Protocol = Protocol.TCP


@dataclass(frozen=True, slots=True)
class ServiceTable:
    """All candidates of a service (key: ServiceKey), sorted by workload id; at most 256, chosen among by §2's rule."""

    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class ListenerKey:
    """address:port of a listener as one concrete address of the host (``*`` is expanded before it comes here)."""

    address: str
    port: int
    protocol: Protocol = Protocol.TCP


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Where a listener's new connections go: all to ``service``, or to the services of ``schedule`` in turn.

    A client keeps its workload for ``affinity_s`` seconds after each of its connections; 0: it does not. With a
    schedule, ``service`` is the first one configured, which the affinity is kept under. ``keeps_client``: a client of
    the LAN keeps its own address on the way to another site.
    """

    service: ServiceKey
    schedule: tuple[ServiceKey, ...] = ()
    affinity_s: int = 0
    keeps_client: bool = False

    @property
    def services(self) -> Mapping[ServiceKey, int]:
        """Return the services that get connections now, with their turns."""
        return Counter(self.schedule or (self.service,))


@dataclass(frozen=True, slots=True, order=True)
class EndpointKey:
    """A published endpoint of this site (its overlay addresses are known to the driver)."""

    port: int
    protocol: Protocol = Protocol.TCP


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The workload behind a published endpoint: where the SYN is delivered.

    ``elsewhere``: the host is not this one, and connections are translated on the way to it.
    """

    workload: WorkloadId
    host: str
    port: int
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """What this site counted for one workload of one service; ``open`` now, the rest since the map was made.

    ``last_chosen`` is the number of the choice at this site that took it last (0: none), as `core.balance` breaks ties.
    """

    open: int = 0
    chosen: int = 0
    refused: int = 0
    last_chosen: int = 0


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


class Engine(TypingProtocol):
    """A balancing engine: three drivers and the counters behind them."""

    @property
    def name(self) -> str:
        """``ebpf`` or ``ipvs``."""
        ...

    @property
    def services(self) -> Driver[ServiceKey, ServiceTable]:
        """The candidates of each service."""
        ...

    @property
    def listeners(self) -> Driver[ListenerKey, Dispatch]:
        """Where the connections to each listener address go."""
        ...

    @property
    def endpoints(self) -> Driver[EndpointKey, Endpoint]:
        """What this site publishes to the others."""
        ...

    def revision(self) -> object:
        """Return what is another value after any change of what `counts` and `suspended` return; cheap to ask."""
        ...

    def counts(self) -> Mapping[tuple[ServiceKey, WorkloadId], Counts]:
        """Return this site's counters of every workload it has a slot for."""
        ...

    def set_others(self, others: Mapping[tuple[ServiceKey, WorkloadId], int]) -> None:
        """Set the other sites' open connections; workloads not named keep theirs. The fast path of load reports."""
        ...

    def suspended(self) -> frozenset[tuple[ServiceKey, WorkloadId]]:
        """Return the workloads that the data plane suspended after a failed connect."""
        ...

    def resume(self, workload: WorkloadId) -> None:
        """End the suspension of a workload after a good health probe."""
        ...

    def connections(self) -> Iterable[Receipt]:
        """Yield the receipts of all open connections placed at this site."""
        ...

    def flows(self) -> Iterable[Flow]:
        """Yield the flows of the LAN."""
        ...

    def flow_room(self) -> int:
        """Return how many flows there may be."""
        ...

    def sweep_flows(self) -> None:
        """End the flows of the LAN that were idle for too long."""
        ...

    def drops(self) -> Mapping[Reason, int]:
        """Return how many connects and packets were refused, by reason, since the maps were made."""
        ...

    def reconcile_counts(self) -> int:
        """Compare counters with what is stored with the sockets, repair, return the sum of differences."""
        ...
