"""Desired state of this site's kernel as plain values, and the protocols that drivers fulfil.

`core.desired` computes these values; `core.reconcile` diffs them with what a driver reads; drivers only obey.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
    """One link device of ours (key: device name). Equal values mean nothing to do."""

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


@dataclass(frozen=True, slots=True, order=True)
class NextHop:
    """One next hop on a device of ours: the neighbour's link-local address, `names.GATEWAY4` for an IPv4 route."""

    device: str
    via: str


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """Route to one overlay prefix (key: destination as ``addr/len``); several next hops are ECMP."""

    next_hops: tuple[NextHop, ...]
    source: str


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
    ``target4``/``target6`` is None where that address family cannot reach it.
    """

    workload: WorkloadId
    path_cost: int
    capacity: int
    others: int = 0
    target4: Target | None = None
    target6: Target | None = None
    local: bool = False
    out: Reason = Reason.NONE


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


@dataclass(frozen=True, slots=True, order=True)
class EndpointKey:
    """A published endpoint of this site (its overlay addresses are known to the driver)."""

    port: int
    protocol: Protocol = Protocol.TCP


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The workload behind a published endpoint: where the SYN is delivered."""

    workload: WorkloadId
    host: str
    port: int


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
    def listeners(self) -> Driver[ListenerKey, ServiceKey]:
        """Which service each listener address stands for."""
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

    def drops(self) -> Mapping[Reason, int]:
        """Return how many connects and packets were refused, by reason, since the maps were made."""
        ...

    def reconcile_counts(self) -> int:
        """Compare counters with what is stored with the sockets, repair, return the sum of differences."""
        ...
