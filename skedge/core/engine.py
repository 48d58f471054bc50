"""The protocols that drivers and engines fulfil.

`core.desired` computes values; `core.desired.reconcile` diffs them with what a driver reads; drivers only obey.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol as TypingProtocol
from typing import TypeVar, runtime_checkable

from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey, ListenerKey, ListenerTarget, ServiceKey, ServiceTable
from skedge.core.observed import Counts, Flow, FlowSums, Receipt
from skedge.core.reasons import Reason

K = TypeVar("K")
V = TypeVar("V")
Wanted = TypeVar("Wanted", contravariant=True)


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


@runtime_checkable
class Batches(TypingProtocol[K, Wanted]):
    """A driver that changes many objects in one step, where each by itself would take a look at all the others."""

    def put_all(self, wanted: Mapping[K, Wanted]) -> Mapping[K, DataplaneError]:
        """Put all that can be; return why the others cannot."""
        ...

    def delete_all(self, keys: Collection[K]) -> Mapping[K, DataplaneError]:
        """Delete all that can be; return why the others cannot."""
        ...


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
    def listeners(self) -> Driver[ListenerKey, ListenerTarget]:
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

    def connections(self, since: float = 0.0) -> Iterable[Receipt]:
        """Yield the receipts of all open connections placed at this site, read on the way, in no order.

        Only of those placed at ``since`` or later (seconds since boot). There may be many: it is to show them.
        """
        ...

    def placed_sockets(self, protocol: Protocol) -> frozenset[int]:
        """Return the cookies of the sockets that were placed; quicker than `connections`."""
        ...

    def flows(self) -> Iterable[Flow]:
        """Yield the flows of the LAN, read on the way: to show them."""
        ...

    def flow_room(self) -> int:
        """Return how many flows there may be."""
        ...

    def flow_sums(self) -> FlowSums:
        """Return how many flows of the LAN there are, as last summed up."""
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
