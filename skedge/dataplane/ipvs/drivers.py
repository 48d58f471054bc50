"""The drivers of the engine `ipvs`: services, listeners, endpoints (core.engine.Driver)."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from ipaddress import ip_address
from threading import RLock
from typing import Protocol

from skedge.core.errors import DataplaneError
from skedge.core.model import WorkloadId
from skedge.core.objects import Candidate, Endpoint, EndpointKey, ListenerKey, ListenerTarget, ServiceKey, ServiceTable
from skedge.dataplane.ipvs.marks import IpvsRules, Marks
from skedge.dataplane.ipvs.names_file import Memory, Virtual
from skedge.dataplane.ipvs.procfs import Found, ident_of, mark_of
from skedge.dataplane.ipvs.table import Table
from skedge.dataplane.ipvs.weight_loop import Balance, target_of

_NOBODY = WorkloadId("", "")
_STRANGER = "virtual service "  # what the name of one begins with that is ours, but of what service is not known


class Parts(Protocol):
    """What the drivers of one engine share."""

    memory: Memory
    rules: IpvsRules
    services: ServiceDriver

    @property
    def lock(self) -> RLock:
        """What every change of memory or kernel is made under."""
        ...

    @property
    def table(self) -> Table:
        """The kernel's table."""
        ...

    @property
    def balance(self) -> Balance:
        """Who follows the counters."""
        ...

    def save_names(self) -> None:
        """Write the memory down. Raises DataplaneError."""
        ...

    def look(self) -> None:
        """Read the counters, and set weights where they have moved. Raises DataplaneError."""
        ...


class ServiceDriver:
    """Driver[ServiceKey, ServiceTable]: the virtual services of each service, with a real server a candidate."""

    def __init__(self, parts: Parts) -> None:
        self._at = parts

    def read(self) -> Mapping[ServiceKey, ServiceTable]:
        """Return the tables that the kernel serves; a candidate without its real server is left out."""
        with self._at.lock:
            found, memory = self._at.table.read(), self._at.memory
            tables = {
                key: ServiceTable(tuple(one for one in table.candidates if self._served(key, one, found)))
                for key, table in memory.tables.items()
                if self._whole(key, found)
            }
            known = set(memory.idents.values())
            strangers = {ident_of(mark)[0] for mark in found.ours} - known
            return tables | {_stranger(ident): ServiceTable() for ident in strangers}

    def glance(self) -> Hashable:
        """Return what changes with every virtual service and real server that comes or goes."""
        return tuple(
            sorted((key, tuple(one.workload for one in table.candidates)) for key, table in self.read().items())
        )

    def _whole(self, key: ServiceKey, found: Found) -> bool:
        virtuals = self._at.balance.virtuals(key)
        return bool(virtuals) and all(
            mark in found.ours and found.ours[mark].persistent == (one.at is not None)
            for one in virtuals
            for mark in self._at.balance.marks([one])
        )

    def _served(self, key: ServiceKey, one: Candidate, found: Found) -> bool:
        for virtual in self._at.balance.virtuals(key):
            for mark in self._at.balance.marks([virtual]):
                target = target_of(one, ident_of(mark)[1])
                if target is not None and target not in found.ours[mark].servers:
                    return False
        return True

    def put(self, key: ServiceKey, value: ServiceTable) -> None:
        """Serve a table; who left it drains."""
        with self._at.lock:
            memory = self._at.memory
            memory.tables[key] = value
            memory.ident(Virtual(key))
            self._at.save_names()  # before there is anything that only it can name
            for virtual in self._at.balance.virtuals(key):
                self.serve(virtual)
            self._at.balance.again([key])
            self._at.look()

    def serve(self, virtual: Virtual) -> None:
        """Make the virtual services, empty when they are new."""
        memory = self._at.memory
        timeout_s = 0 if virtual.at is None else memory.listeners[virtual.at].affinity_s
        for mark in self._at.balance.marks([virtual]):
            self._at.table.put_service(mark, timeout_s)

    def delete(self, key: ServiceKey) -> None:
        """End a service: no new connections, and it goes with the last one that is open."""
        with self._at.lock:
            if key.name.startswith(_STRANGER):
                self._at.memory.take(Virtual(key), int(key.name.removeprefix(_STRANGER)))
            self._at.memory.tables.pop(key, None)
            self._at.save_names()
            self._at.balance.again(())
            self._at.look()


def _stranger(ident: int) -> ServiceKey:
    return ServiceKey(f"{_STRANGER}{ident}")


class ListenerDriver:
    """Driver[ListenerKey, ListenerTarget]: the marks that connections to each listener address get.

    A listener that keeps clients has no mark, but a virtual service of its address: for a persistent one that is known
    by its mark, IPVS leaves the port as it is.
    """

    def __init__(self, parts: Parts) -> None:
        self._at = parts

    def read(self) -> Mapping[ListenerKey, ListenerTarget]:
        """Return the listeners; one that leads elsewhere than we know is to nothing."""
        with self._at.lock:
            held = self._at.rules.read()
            nothing = ListenerTarget(ServiceKey(""))
            found = {}
            for key, chain in held.listeners.items():
                known = self._at.memory.listeners.get(key)
                right = known is not None and chain in held.whole and chain == self._marks(known).chain
                found[key] = known if right and known is not None and not known.affinity_s else nothing
            return self._per_client() | found

    def _per_client(self) -> dict[ListenerKey, ListenerTarget]:
        ours, memory = self._at.table.read().ours, self._at.memory
        found = {}
        for key, value in memory.listeners.items():
            if value.affinity_s and (virtual := Virtual(value.service, key)) in memory.idents:
                [mark] = self._at.balance.marks([virtual])
                if mark in ours and ours[mark].persistent:
                    found[key] = value
        return found

    def put(self, key: ListenerKey, value: ListenerTarget) -> None:
        """Lead a listener's connections to its services. Raises DataplaneError for an address that cannot be served."""
        for error in self.put_all({key: value}).values():
            raise error

    def put_all(self, wanted: Mapping[ListenerKey, ListenerTarget]) -> Mapping[ListenerKey, DataplaneError]:
        """Do the same for many in one step; return why some cannot be."""
        with self._at.lock:
            try:
                failed = self._unable(wanted)
                able = {key: value for key, value in wanted.items() if key not in failed}
                virtuals = {key: self._virtuals(key, value) for key, value in able.items()}
                for key, value in able.items():
                    for virtual in virtuals[key]:
                        self._at.memory.ident(virtual)
                    self._at.memory.lead(key, value)
                self._at.save_names()
                failed |= self._serve(virtuals)
                self._at.balance.again({service for value in able.values() for service in value.services})
                failed |= self._weigh({key: value for key, value in able.items() if key not in failed})
                good = {key: value for key, value in able.items() if key not in failed}
                if per_client := [key for key, value in good.items() if value.affinity_s]:
                    self._at.rules.delete_listeners(per_client)
                if plain := {key: self._marks(value) for key, value in good.items() if not value.affinity_s}:
                    self._at.rules.put_listeners(plain)
            except DataplaneError as error:  # none of them is known to be done
                return dict.fromkeys(wanted, error)
            return failed

    def _unable(self, wanted: Mapping[ListenerKey, ListenerTarget]) -> dict[ListenerKey, DataplaneError]:
        """Return why some of the addresses cannot be served."""
        foreign = self._at.table.foreign(wanted.keys())
        failed = {}
        for key in wanted:
            where = f"listener {key.address}:{key.port}"
            if ip_address(key.address).is_loopback:
                failed[key] = DataplaneError(
                    f"{where}: engine ipvs leads nothing on from a loopback address; give another address of this"
                    " host, which its programs can use too"
                )
            elif key in foreign:
                failed[key] = DataplaneError(
                    f"{where}: an IPVS service that is not ours has this address and port (see: ipvsadm -Ln);"
                    " remove it, or give the listener another port"
                )
        return failed

    @staticmethod
    def _virtuals(key: ListenerKey, value: ListenerTarget) -> list[Virtual]:
        return [Virtual(value.service, key)] if value.affinity_s else [Virtual(one) for one in value.services]

    def _serve(self, virtuals: Mapping[ListenerKey, list[Virtual]]) -> dict[ListenerKey, DataplaneError]:
        """Make each virtual service once; return the listeners that one is missing for, and why."""
        refused: dict[Virtual, DataplaneError] = {}
        for virtual in dict.fromkeys(one for some in virtuals.values() for one in some):
            try:
                self._at.services.serve(virtual)
            except DataplaneError as error:
                refused[virtual] = error
        return {key: refused[one] for key, some in virtuals.items() for one in some if one in refused}

    def _weigh(self, wanted: Mapping[ListenerKey, ListenerTarget]) -> dict[ListenerKey, DataplaneError]:
        """Give their services weights before the first connection comes."""
        try:
            self._at.look()
        except DataplaneError as error:
            pending = self._at.balance.pending()
            return {key: error for key, value in wanted.items() if not pending.isdisjoint(value.services)}
        return {}

    def delete(self, key: ListenerKey) -> None:
        """End a listener; open connections go on."""
        for error in self.delete_all([key]).values():
            raise error

    def delete_all(self, keys: Collection[ListenerKey]) -> Mapping[ListenerKey, DataplaneError]:
        """End listeners in one step; return why some cannot be."""
        with self._at.lock:
            try:
                self._at.rules.delete_listeners(keys)
                for key in keys:
                    self._at.memory.unlead(key)
                self._at.save_names()
            except DataplaneError as error:
                return dict.fromkeys(keys, error)
            self._at.balance.again(())
            return {}

    def _marks(self, value: ListenerTarget) -> Marks:
        turns = value.schedule or (value.service,)
        return Marks(tuple(mark_of(self._at.memory.ident(Virtual(one)), 4) for one in turns))


class EndpointDriver:
    """Driver[EndpointKey, Endpoint]: what other sites reach, by translation to the workload's address."""

    def __init__(self, parts: Parts) -> None:
        self._at = parts

    def read(self) -> Mapping[EndpointKey, Endpoint]:
        """Return the published endpoints; one that leads elsewhere than we know is to nobody.

        So is a port that is let in without a rule, and every endpoint while a rule among theirs is not ours.
        """
        with self._at.lock:
            held, memory = self._at.rules.read(), self._at.memory
            found = {key: Endpoint(_NOBODY, "", 0) for _, key in held.published}
            for key, (target, _) in held.endpoints.items():
                known = memory.endpoints.get(key)
                families = {family for family, published in held.published if published == key}
                if known is None or (_canonical(known.host), known.port) != (target.address, target.port):
                    found[key] = Endpoint(_NOBODY, target.address, target.port)
                elif families == {ip_address(known.host).version} and not held.strange:
                    found[key] = known
            return found

    def put(self, key: EndpointKey, value: Endpoint) -> None:
        """Publish an endpoint. Raises DataplaneError for a workload that cannot be reached by translation."""
        where = f"endpoint {key.port} of {value.workload}"
        try:
            address = ip_address(value.host)
        except ValueError as error:
            raise DataplaneError(f"{where}: host {value.host} is no address") from error
        if value.off_host:
            raise DataplaneError(
                f"{where}: engine ipvs does not lead on to {value.host}, which is not this host;"
                " run the workload here, or make its machine a site"
            )
        if address.version == 6 and address.is_loopback:
            raise DataplaneError(
                f"{where}: nothing from outside reaches {value.host} with engine ipvs; bind the workload to another"
                " address, or to 127.0.0.1"
            )
        with self._at.lock:
            self._at.memory.endpoints[key] = value
            self._at.save_names()
            self._at.rules.put_endpoint(key, Endpoint(value.workload, str(address), value.port))

    def delete(self, key: EndpointKey) -> None:
        """End an endpoint; open connections go on."""
        with self._at.lock:
            self._at.rules.delete_endpoint(key)
            self._at.memory.endpoints.pop(key, None)
            self._at.save_names()


def _canonical(address: str) -> str:
    """Return an address as it is read back."""
    return str(ip_address(address))
