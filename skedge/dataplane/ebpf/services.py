"""Service tables in the kernel: which workload has which slot, and how a table gets there without losing a count.

Ids and slots are stable, and all that is known of them lies in the maps: a controller that was restarted goes on
where the last one stopped. A workload that leaves a table keeps its slot, retired, until its last connection is gone.
"""

from __future__ import annotations

import threading
from collections.abc import Container, Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from skedge.core.errors import DataplaneError
from skedge.core.model import TERMS, WorkloadId
from skedge.core.objects import Candidate, ServiceKey, ServiceTable
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf import layout_service as layout
from skedge.dataplane.ebpf.maps import RETIRED, Maps

PATH_COST_MAX = (1 << 24) - 1  # what the comparison in 64 bits leaves room for: 256 links of the largest cost
OTHERS_MAX = (1 << 27) - 1
_GENERATION_MASK = 0x7FFFFFFF
_USABLE = (Reason.NONE, Reason.SUSPENDED)  # suspension is the kernel's own word, never written here


class ServiceDriver:
    """Driver[ServiceKey, ServiceTable]; also the memory of ids and slots that the engine's other parts ask."""

    def __init__(self, maps: Maps, lock: threading.RLock) -> None:
        self._maps = maps
        self._lock = lock
        known = maps.service_ids()
        self.ids = {key: ident for key, ident in known.items() if not ident & RETIRED}
        self.retired = {key: ident & ~RETIRED for key, ident in known.items() if ident & RETIRED}
        self.names = maps.workloads()

    # ---- driver ----

    def read(self) -> Mapping[ServiceKey, ServiceTable]:
        """Return the tables that the kernel chooses by, without those whose names somebody else took away."""
        with self._lock:
            self._maps.read_anew()
            ids, workloads = self._maps.service_ids(), self._maps.workloads()
            return {
                key: self._table(ident)
                for key, ident in self.ids.items()
                if ids.get(key) == ident and workloads.get(ident, {}) == self.names.get(ident, {})
            }

    def glance(self) -> Hashable:
        """Return what changes with every change of a table or a name, but not with a count."""
        with self._lock:
            names = self._maps.name_state()
            tables = [self._maps.control(ident, self.names.get(ident, {})) for ident in self.ids.values()]
            return names, tuple(tables)

    def put(self, key: ServiceKey, value: ServiceTable) -> None:
        """Make a service's table this one, in one step; counts of workloads that stay are kept.

        Raises:
            DataplaneError: no room (1,024 services; 256 workloads, those with open connections included), a value
                out of range, or the kernel refused.
        """
        with self._lock:
            for candidate in value.candidates:
                _check(key, candidate)
            fresh = key not in self.ids
            ident = self._id_for(key)
            self._write(key, ident, value)
            if fresh:
                self.ids[key] = ident
                self.retired.pop(key, None)
            self._name(key, ident)

    def delete(self, key: ServiceKey) -> None:
        """Remove a service; while connections are open it stays, retired, so that they are still counted."""
        with self._lock:
            ident = self.ids.get(key)
            if ident is None:
                return
            self._write(key, ident, ServiceTable())
            self._maps.name_service(key, ident | RETIRED)
            self.retired[key] = self.ids.pop(key)
            self._collect(key, ident)

    def _name(self, key: ServiceKey, ident: int) -> None:
        """Write what is missing of the names of a service and its workloads."""
        if self._maps.service_ids().get(key) != ident:
            self._maps.name_service(key, ident)
        held = self._maps.workloads().get(ident, {})
        for index, workload in self.names.get(ident, {}).items():
            if held.get(index) != workload:
                self._maps.name_workload(ident, index, workload)
        for index in held.keys() - self.names.get(ident, {}).keys():
            self._maps.forget_workload(ident, index)

    # ---- what the engine asks ----

    def services(self) -> Iterator[tuple[ServiceKey, int]]:
        """Yield all services with their ids, retired ones too."""
        yield from self.ids.items()
        yield from self.retired.items()

    def slots(self, ident: int) -> Iterator[tuple[int, WorkloadId, layout.Slot]]:
        """Yield all slots of a service that belong to a workload, retired ones too."""
        names = self.names.get(ident, {})
        slots = self._maps.service(ident).slots
        for index, workload in sorted(names.items()):
            if index < len(slots):
                yield index, workload, slots[index]

    def workload(self, ident: int, slot: int) -> WorkloadId | None:
        """Return the workload of a slot."""
        return self.names.get(ident, {}).get(slot)

    def collect(self) -> None:
        """Give back slots and ids of what is gone and has no open connection any more."""
        for key, ident in list(self.services()):
            self._collect(key, ident)

    # ---- inner ----

    def _collect(self, key: ServiceKey, ident: int) -> None:
        self._free_unused(ident)
        if key in self.retired and not self.names.get(ident):
            self._maps.forget_service(key)
            del self.retired[key]

    def _free_unused(self, ident: int, still_used: Container[WorkloadId] = ()) -> None:
        """Free the slots that are retired and no longer counted."""
        for index, workload, slot in list(self.slots(ident)):
            if not slot.flags & layout.USED and not slot.mine and workload not in still_used:
                self._free(ident, index)

    def _table(self, ident: int) -> ServiceTable:
        found = [_candidate(name, slot) for _, name, slot in self.slots(ident) if slot.flags & layout.USED]
        return ServiceTable(tuple(sorted(found, key=lambda one: one.workload)))

    def _id_for(self, key: ServiceKey) -> int:
        """Return the service's id, or one that neither a service nor a listener has."""
        if key in self.ids:
            return self.ids[key]
        if key in self.retired:
            return self.retired[key]
        free = self._free_id()
        if free is None:
            self.collect()
            free = self._free_id()
        if free is None:
            raise DataplaneError(f"service {key.name}: there are {layout.MAX_SERVICES} services already")
        return free

    def _free_id(self) -> int | None:
        taken = {*self.ids.values(), *self.retired.values()}
        taken.update(*(value.services for value in self._maps.listeners().values()))
        return next((ident for ident in range(layout.MAX_SERVICES) if ident not in taken), None)

    def _write(self, key: ServiceKey, ident: int, table: ServiceTable) -> None:
        """Bring a table into the kernel: names first, then everything that is chosen by, at once."""
        version = self._maps.service(ident).version + 1
        known = {workload: slot.generation for _, workload, slot in self.slots(ident)}
        fresh = self._assign(key, ident, [one.workload for one in table.candidates])
        by_name = {workload: index for index, workload in self.names.get(ident, {}).items()}
        ranks = {one.workload: i for i, one in enumerate(sorted(table.candidates, key=lambda one: one.workload))}
        staged = {
            index: layout.StagedSlot(layout.APPLY_CONTROL, generation=known.get(workload, 0))
            for workload, index in by_name.items()
        }
        for one in table.candidates:
            new = one.workload in fresh
            generation = version & _GENERATION_MASK if new else known[one.workload]
            staged[by_name[one.workload]] = _stage(one, ranks[one.workload], generation, reset=new)
        size = next(size for size in layout.SIZES if size > max(staged, default=0))
        self._maps.apply(layout.Staged(ident, staged, size, version))

    def _assign(self, key: ServiceKey, ident: int, wanted: list[WorkloadId]) -> frozenset[WorkloadId]:
        """Give each workload without one the lowest free slot; return those that got one.

        A slot that is retired and no longer counted is free too.
        """
        self._free_unused(ident, still_used=wanted)
        names = self.names.setdefault(ident, {})
        held = set(names.values())
        workloads = [workload for workload in wanted if workload not in held]
        free = [index for index in range(layout.MAX_WORKLOADS) if index not in names]
        if len(free) < len(workloads):
            raise DataplaneError(
                f"service {key.name}: no slot left of {layout.MAX_WORKLOADS}; workloads that are gone still have"
                " open connections here"
            )
        for workload, index in zip(workloads, free, strict=False):
            self._maps.name_workload(ident, index, workload)
            names[index] = workload
        return frozenset(workloads)

    def _free(self, ident: int, index: int) -> None:
        self._maps.forget_workload(ident, index)
        self.names[ident].pop(index, None)


def _check(key: ServiceKey, candidate: Candidate) -> None:
    """Refuse what the comparison in the kernel has no room for."""
    where = f"service {key.name}, workload {candidate.workload}"
    for term in TERMS:
        if not term.low <= (value := getattr(candidate, term.name)) <= term.high:
            raise DataplaneError(f"{where}: {term.name} {value} is not in {term.low}..{term.high}")
    if not 0 <= candidate.path_cost <= PATH_COST_MAX:
        raise DataplaneError(f"{where}: path cost {candidate.path_cost} is not in 0..{PATH_COST_MAX}")


def _stage(candidate: Candidate, rank: int, generation: int, *, reset: bool) -> layout.StagedSlot:
    """Return the staged slot of a candidate."""
    flags = layout.USED
    if candidate.out in _USABLE:
        flags |= layout.IN
    else:
        flags |= candidate.out.code << layout.OUT_SHIFT
    if candidate.target4 is not None:
        flags |= layout.T4 | layout.ANY
    if candidate.target6 is not None:
        flags |= layout.T6 | layout.ANY
    for name, bits in layout.IN_FLAGS.items():
        flags |= getattr(candidate, name) * _lowest(bits)
    apply = layout.APPLY_CONTROL | layout.APPLY_OTHERS | (layout.APPLY_RESET if reset else 0)
    return layout.StagedSlot(
        apply=apply,
        path_cost=candidate.path_cost,
        capacity=candidate.capacity,
        others=min(candidate.others, OTHERS_MAX),
        flags=flags,
        target4=candidate.target4,
        target6=candidate.target6,
        generation=generation,
        rank=rank,
    )


def _candidate(workload: WorkloadId, slot: layout.Slot) -> Candidate:
    """Return what a slot says, the reverse of `_stage`; flags that contradict each other are a reason that none has."""
    found = _said(workload, slot)
    if _stage(found, 0, 0, reset=False).flags == slot.flags:
        return found
    return replace(found, out=Reason.NOT_PUBLISHED)


def _said(workload: WorkloadId, slot: layout.Slot) -> Candidate:
    return Candidate(
        workload,
        slot.path_cost,
        capacity=slot.capacity,
        others=slot.others,
        target4=slot.target4,
        target6=slot.target6,
        out=Reason.of_code(slot.flags >> layout.OUT_SHIFT & 0xFF),
        **{name: _value(slot.flags, bits) for name, bits in layout.IN_FLAGS.items()},
    )


def _lowest(bits: int) -> int:
    return bits & -bits


def _value(flags: int, bits: int) -> Any:
    """Return what some of the flags' bits say: a single bit yes or no, several a number."""
    return bool(flags & bits) if bits == _lowest(bits) else (flags & bits) // _lowest(bits)
