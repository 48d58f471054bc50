"""The engine `ipvs`: the kernel's own load balancer, for hosts on which eBPF cannot serve (core.engine.Engine).

A service has one virtual service a family, known by its firewall mark, whatever listeners lead to it: so the kernel
counts its connections in one place. Its scheduler is wlc; a thread looks at the counters every `PACE_S` and sets the
weights by which the next connections go where the rule puts them (`core.placement.ipvs_weights`). The kernel goes on by
the last weights when this process is gone.

It knows less than the engine `ebpf`: no receipts, no suspension after a refused connect, no count of refusals.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import ServiceKey, ServiceTable, Target
from skedge.core.observed import Counts, Flow, FlowKind, FlowState, FlowSums, Receipt
from skedge.core.reasons import Reason
from skedge.dataplane.ipvs import connections as ipvs_flows
from skedge.dataplane.ipvs import names_file, sysctls
from skedge.dataplane.ipvs.drivers import EndpointDriver, ListenerDriver, ServiceDriver
from skedge.dataplane.ipvs.marks import IpvsRules
from skedge.dataplane.ipvs.procfs import connections
from skedge.dataplane.ipvs.table import KernelTable, Table
from skedge.dataplane.ipvs.weight_loop import FAMILIES, Balance, target_of

log = logging.getLogger("skedge.kernel")

PACE_S = 0.02
_CHOSEN_S = 1.0  # what each server was given in all costs a dump a service

ServiceWorkload = tuple[ServiceKey, WorkloadId]


class IpvsEngine:
    """Virtual services, marks and endpoints of one host. Safe for use from several threads."""

    name = "ipvs"

    def __init__(
        self,
        memory: Path,
        *,
        table: Table | None = None,
        rules: IpvsRules | None = None,
        clock: Callable[[], float] = time.monotonic,
        pace_s: float = PACE_S,
    ) -> None:
        """Take over what the kernel holds; ``pace_s`` 0: nothing is looked at but when it is asked for.

        Raises:
            DataplaneError: this kernel has no IPVS.
        """
        self._lock = threading.RLock()
        self._clock = clock
        self._memory_path = memory
        self.memory = names_file.load(memory)
        self._table = table or KernelTable(self.memory.places)
        self.rules = rules or IpvsRules()
        self._balance = Balance(self._table, self.memory, clock)
        self._table.read()
        self.services = ServiceDriver(self)
        self.listeners = ListenerDriver(self)
        self.endpoints = EndpointDriver(self)
        self.settings = sysctls.SettingDriver(self.memory.settings, self._save_names_locked)
        self._revision = 0
        self._error: DataplaneError | None = None
        self._chosen: tuple[float, Mapping[ServiceWorkload, int]] = float("-inf"), {}
        self._stop = threading.Event()
        self._paced = pace_s > 0
        if self._paced:
            threading.Thread(target=self._pace, args=(pace_s,), name="ipvs", daemon=True).start()

    def close(self) -> None:
        """Stop looking; the kernel goes on by itself."""
        self._stop.set()

    # ---- for the drivers ----

    @property
    def lock(self) -> threading.RLock:
        """What every change of memory or kernel is made under."""
        return self._lock

    @property
    def table(self) -> Table:
        """The kernel's table."""
        return self._table

    @property
    def balance(self) -> Balance:
        """Who follows the counters."""
        return self._balance

    def save_names(self) -> None:
        """Write the memory down. Raises DataplaneError."""
        names_file.save(self._memory_path, self.memory)

    def _save_names_locked(self) -> None:
        with self._lock:
            self.save_names()

    # ---- looking ----

    def _pace(self, every: float) -> None:
        while not self._stop.wait(every):
            try:
                self.look()
                self._error = None
            except DataplaneError as error:
                self._error = error  # told by `revision`

    def look(self) -> None:
        """Read the counters, and set weights where they have moved. Raises DataplaneError."""
        with self._lock:
            if self._balance.follow():
                self._revision += 1

    def revision(self) -> int:
        """Return what is another value after any change of what `counts` returns. Raises DataplaneError."""
        if not self._paced:
            self.look()
        elif self._error is not None:
            raise self._error
        return self._revision

    def counts(self) -> Mapping[ServiceWorkload, Counts]:
        """Return this site's counters of every workload, of those that drain too."""
        with self._lock:
            at, chosen = self._chosen
            if self._clock() - at > _CHOSEN_S:
                chosen = self._balance.chosen()
                self._chosen = self._clock(), chosen
            return {
                slot: Counts(number, chosen.get(slot, 0), 0, self._balance.turn(slot))
                for slot, number in self._balance.open().items()
            }

    def set_others(self, others: Mapping[ServiceWorkload, int]) -> None:
        """Set the other sites' open connections; workloads not named keep theirs."""
        with self._lock:
            changed: set[ServiceKey] = set()
            for key, table in self.memory.tables.items():
                candidates = tuple(
                    replace(one, others=others.get((key, one.workload), one.others)) for one in table.candidates
                )
                if candidates != table.candidates:
                    self.memory.tables[key] = ServiceTable(candidates)
                    changed.add(key)
            if changed:
                self._balance.again(changed)
                self.look()

    def suspended(self) -> frozenset[ServiceWorkload]:
        """Return nothing: IPVS does not tell that a connect failed; the workload's own site measures its health."""
        return frozenset()

    def resume(self, workload: WorkloadId) -> None:
        """Do nothing: nothing is suspended."""

    def drops(self) -> Mapping[Reason, int]:
        """Return nothing: IPVS does not count what it refuses."""
        return {}

    # ---- connections ----

    def connections(self, since: float = 0.0) -> Iterable[Receipt]:  # noqa: ARG002
        """Return nothing: IPVS does not store what it decided on."""
        return ()

    def placed_sockets(self, protocol: Protocol) -> frozenset[int]:  # noqa: ARG002
        """Return nothing, as above."""
        return frozenset()

    def flows(self) -> Iterable[Flow]:
        """Yield all connections that were led on, of this host's programs too."""
        with self._lock:
            servers = {
                (key, target): workload for key in self.memory.tables for target, workload in self._names(key).items()
            }
            listeners = dict(self.memory.listeners)
            here = {
                target_of(one, family)
                for table in self.memory.tables.values()
                for one in table.candidates
                for family in FAMILIES
                if one.own_site
            }
        own_site = frozenset(target for target in here if target is not None)
        yield from ipvs_flows.flows(connections(), servers, listeners, own_site)

    def _names(self, key: ServiceKey) -> Mapping[Target, WorkloadId]:
        return self._balance.names(key)

    def flow_room(self) -> int:
        """Return 0: the kernel's table has no bound but memory."""
        return 0

    def flow_sums(self) -> FlowSums:
        """Count the connections that were led on."""
        kinds: Counter[FlowKind] = Counter()
        half_open = 0
        for flow in self.flows():
            kinds[flow.kind] += 1
            half_open += flow.state is FlowState.SYN
        return FlowSums(kinds, half_open)

    def sweep_flows(self) -> None:
        """Do nothing: the kernel ends idle connections by its own time-outs."""

    def reconcile_counts(self) -> int:
        """Return 0: the counters are the kernel's own, and nobody else keeps them."""
        with self._lock:
            self.save_names()  # with the other sites' load of now
        return 0
