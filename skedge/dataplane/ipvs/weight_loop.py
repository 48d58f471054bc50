"""Follows the counters of our virtual services, sets weights by the rule, and lets servers drain before they go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Candidate, ServiceKey, ServiceTable, Target
from skedge.core.placement.ipvs_weights import ACTIVE, Load, weights
from skedge.dataplane.ipvs.names_file import Memory, Virtual
from skedge.dataplane.ipvs.procfs import Found, RealServer, VirtualService, canonical, ident_of, mark_of
from skedge.dataplane.ipvs.table import Table

DRAIN_S = 3600.0  # connections of a server that left end at last: a deadline, not a guess of when they are done
SWEEP_S = 1.0
FAMILIES = (4, 6)
_NOTHING = RealServer(0)

ServiceWorkload = tuple[ServiceKey, WorkloadId]
Seen = Mapping[int, Mapping[Target, RealServer]]


def target_of(one: Candidate, family: int) -> Target | None:
    """Return where a candidate is reached over a family, written as the kernel's table is read."""
    target = one.target4 if family == 4 else one.target6
    return None if target is None else canonical(target)


@dataclass
class _Service:
    """What was seen of one service at the last look."""

    seen: Seen = field(default_factory=dict)
    names: dict[Target, WorkloadId] = field(default_factory=dict)
    turns: dict[WorkloadId, int] = field(default_factory=dict)
    expected: int = 0
    turn: int = 0


class Balance:
    """Counts and weights of all services of ours. Not safe for several threads: the engine's lock is."""

    def __init__(self, table: Table, memory: Memory, clock: Callable[[], float]) -> None:
        self._table, self._memory, self._clock = table, memory, clock
        self._services: dict[ServiceKey, _Service] = {}
        self._again: set[ServiceKey] = set(memory.tables)
        self._led: dict[int, set[ServiceKey]] = {}
        self._until: dict[tuple[int, Target | None], float] = {}
        self._sweep_at = float("-inf")

    def again(self, keys: Iterable[ServiceKey]) -> None:
        """Weigh these services anew at the next look, whatever the counters say, and look for what has drained."""
        self._again |= set(keys)
        self._sweep_at = float("-inf")

    def pending(self) -> frozenset[ServiceKey]:
        """Return the services that are to be weighed anew: all were that followed without an error."""
        return frozenset(self._again)

    def follow(self) -> bool:
        """Read the counters, set weights, end what has drained; return whether counts or tables are others than before.

        Raises:
            DataplaneError: the kernel refused something; the rest was done all the same.
        """
        found = self._table.read()
        moved = False
        marks = self._leading(found)
        failed: DataplaneError | None = None
        for key, table in self._memory.tables.items():
            try:
                moved |= self._follow(key, table, marks.get(key, []), found)
            except DataplaneError as error:
                self._again.add(key)
                failed = error
        if self._clock() >= self._sweep_at:
            self._sweep_at = self._clock() + SWEEP_S
            self._sweep(found)
        if failed is not None:
            raise failed
        return moved

    def _leading(self, found: Found) -> Mapping[ServiceKey, list[int]]:
        """Return the marks by which connections of each service came, also of listeners that lead elsewhere now."""
        for one in self._memory.idents:
            for mark in self.marks([one]):
                self._led.setdefault(mark, set()).add(one.service)
        self._led = {mark: keys for mark, keys in self._led.items() if mark in found.ours}
        made: dict[ServiceKey, list[int]] = {}
        for mark, keys in self._led.items():
            for key in keys:
                made.setdefault(key, []).append(mark)
        return made

    def _follow(self, key: ServiceKey, table: ServiceTable, marks: Collection[int], found: Found) -> bool:
        first = key not in self._services
        service = self._services.setdefault(key, _Service())
        seen = {mark: found.ours.get(mark, VirtualService()).servers for mark in marks}
        moved = key in self._again or _counts(seen) != _counts(service.seen)
        if not moved and service.expected <= 1:
            return False
        self._again.discard(key)
        service.expected = 0 if first else _arrivals(service.seen, seen)  # what is found has not come just now
        self._name(service, table)
        self._take_turns(key, service, seen)
        service.seen = seen
        own = self._own(key, service)
        for mark in self.marks(self.virtuals(key)):
            if mark in found.ours:
                self._weigh(mark, key, table, service, own)
        return moved

    def _name(self, service: _Service, table: ServiceTable) -> None:
        for one in table.candidates:
            for family in FAMILIES:
                if (target := target_of(one, family)) is not None:
                    service.names.setdefault(target, one.workload)

    def _take_turns(self, key: ServiceKey, service: _Service, seen: Seen) -> None:
        """Take note of who was chosen since the last look: it goes last among equals."""
        for mark, servers in seen.items():
            before = service.seen.get(mark, {})
            for target, server in servers.items():
                if _open(key, server) > _open(key, before.get(target, _NOTHING)) and target in service.names:
                    service.turn += 1
                    service.turns[service.names[target]] = service.turn

    def _own(self, key: ServiceKey, service: _Service) -> Mapping[WorkloadId, int]:
        total: dict[WorkloadId, int] = {}
        for servers in service.seen.values():
            for target, server in servers.items():
                if (workload := service.names.get(target)) is not None:
                    total[workload] = total.get(workload, 0) + _open(key, server)
        return total

    def _weigh(
        self, mark: int, key: ServiceKey, table: ServiceTable, service: _Service, own: Mapping[WorkloadId, int]
    ) -> None:
        """Set the weights of one virtual service; those that rise first, so that one is always above 0."""
        servers, family = service.seen[mark], ident_of(mark)[1]
        able = [(one, target) for one in table.candidates if (target := target_of(one, family)) is not None]
        loads = []
        for one, target in able:
            server = servers.get(target, _NOTHING)
            turn = service.turns.get(one.workload, 0)
            loads.append(Load(own.get(one.workload, 0), server.active, server.inactive, turn))
        counts = ACTIVE if key.protocol is Protocol.TCP else 1
        made = weights([one for one, _ in able], loads, service.expected, counts)
        wanted: dict[Target, int] = {}
        for (_, target), weight in zip(able, made, strict=True):
            wanted[target] = wanted.get(target, 0) + weight
        for target in servers.keys() - wanted.keys():
            wanted[target] = 0
        changes = [
            (target, weight)
            for target, weight in wanted.items()
            if target not in servers or servers[target].weight != weight
        ]
        for target, weight in sorted(changes, key=lambda change: -change[1]):
            self._table.put_server(mark, target, weight)

    # ---- draining ----

    def _sweep(self, found: Found) -> None:
        """Remove servers and services that nobody wants, once their connections are over or the deadline is."""
        tables = self._memory.tables
        wanted = {
            self._memory.idents[one]: tables[key] for key, all_ in self._all_virtuals(tables).items() for one in all_
        }
        leaving = {ident: one for one, ident in self._memory.idents.items() if ident not in wanted}
        present: set[tuple[int, Target | None]] = set()
        for mark, virtual in found.ours.items():
            ident, family = ident_of(mark)
            if ident in leaving:
                present.add((mark, None))
                if self._over((mark, None), virtual.servers.values()):
                    self._table.delete_service(mark)
                else:
                    self._silence(mark, virtual)
            elif ident in wanted:
                targets = {target_of(one, family) for one in wanted[ident].candidates}
                for target in virtual.servers.keys() - targets:
                    present.add((mark, target))
                    if self._over((mark, target), [virtual.servers[target]]):
                        self._table.delete_server(mark, target)
        self._until = {key: until for key, until in self._until.items() if key in present}
        for one in leaving.values():
            if not any(mark in found.ours for mark in self.marks([one])):
                self._memory.drop(one)

    def _silence(self, mark: int, virtual: VirtualService) -> None:
        for target, server in virtual.servers.items():
            if server.weight:
                self._table.put_server(mark, target, 0)

    def _over(self, key: tuple[int, Target | None], servers: Iterable[RealServer]) -> bool:
        until = self._until.setdefault(key, self._clock() + DRAIN_S)
        return self._clock() >= until or not any(one.active or one.inactive for one in servers)

    # ---- what is asked for ----

    def virtuals(self, key: ServiceKey) -> list[Virtual]:
        """Return the virtual services that a service is to have: one, and one a listener that keeps clients."""
        return self._all_virtuals([key])[key]

    def _all_virtuals(self, keys: Iterable[ServiceKey]) -> Mapping[ServiceKey, list[Virtual]]:
        made = {key: [Virtual(key), *(Virtual(key, at) for at in self._memory.per_client(key))] for key in keys}
        return {key: [one for one in found if one in self._memory.idents] for key, found in made.items()}

    def marks(self, virtuals: Iterable[Virtual]) -> list[int]:
        """Return their marks: one a family, or that of the listener's address."""
        return [
            mark_of(self._memory.ident(one), family)
            for one in virtuals
            for family in (FAMILIES if one.at is None else (ip_address(one.at.address).version,))
        ]

    def names(self, key: ServiceKey) -> Mapping[Target, WorkloadId]:
        """Return the workload of each real server that a service has or had."""
        service = self._services.get(key)
        return {} if service is None else dict(service.names)

    def open(self) -> Mapping[ServiceWorkload, int]:
        """Return the open connections of every workload of the tables, and of those that drain."""
        found: dict[ServiceWorkload, int] = {}
        for key, table in self._memory.tables.items():
            own = self._own(key, self._services.get(key, _Service()))
            found.update({(key, one.workload): own.get(one.workload, 0) for one in table.candidates})
            found.update({(key, workload): number for workload, number in own.items() if number})
        return found

    def turn(self, slot: ServiceWorkload) -> int:
        """Return when a workload was chosen last, as a number that rises."""
        key, workload = slot
        return self._services.get(key, _Service()).turns.get(workload, 0)

    def chosen(self) -> Mapping[ServiceWorkload, int]:
        """Return how many connections each workload was given, as far as its servers remember."""
        found: dict[ServiceWorkload, int] = {}
        for key in self._memory.tables:
            service = self._services.get(key, _Service())
            for mark in service.seen:
                for target, number in self._table.chosen(mark).items() if service.seen[mark] else ():
                    if (workload := service.names.get(target)) is not None:
                        found[key, workload] = found.get((key, workload), 0) + number
        return found


def _open(key: ServiceKey, server: RealServer) -> int:
    """Return its open connections: IPVS counts a UDP flow, which it knows no end of, as inactive all its life."""
    return server.active if key.protocol is Protocol.TCP else server.active + server.inactive


def _counts(seen: Seen) -> Mapping[int, Mapping[Target, tuple[int, int]]]:
    return {mark: {to: (one.active, one.inactive) for to, one in servers.items()} for mark, servers in seen.items()}


def _arrivals(before: Seen, now: Seen) -> int:
    """Return how many connections came since the last look, less those that the kernel forgot meanwhile."""
    return sum(
        max(
            0,
            server.active + server.inactive - (old := before.get(mark, {}).get(target, _NOTHING)).active - old.inactive,
        )
        for mark, servers in now.items()
        for target, server in servers.items()
    )
