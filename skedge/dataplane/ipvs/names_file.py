"""What the engine `ipvs` must know again after a restart and cannot read from the kernel: names.

IPVS holds addresses, counts and marks; that a server is workload ``b/web`` at path cost 10 it does not hold. The file
counts for one boot and one network namespace. Without it the services of ours are still known by their marks: they
are removed once the controller is in sync, or taken over by the service that has the same mark.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from skedge.core.errors import DataplaneError
from skedge.core.model import TERMS, Protocol, Term, WorkloadId
from skedge.core.objects import (
    Candidate,
    Endpoint,
    EndpointKey,
    ListenerKey,
    ListenerTarget,
    ServiceKey,
    ServiceTable,
    Target,
)
from skedge.core.reasons import Reason
from skedge.dataplane.host.state_file import where
from skedge.dataplane.ipvs.procfs import IDS

FILE = "ipvs.json"


@dataclass(frozen=True, slots=True, order=True)
class Virtual:
    """What a virtual service is made for: a service; or, ``at`` one listener of it, for clients that keep workloads."""

    service: ServiceKey
    at: ListenerKey | None = None


@dataclass
class Memory:
    """All names, and the host's settings as they were before ours."""

    idents: dict[Virtual, int] = field(default_factory=dict)
    tables: dict[ServiceKey, ServiceTable] = field(default_factory=dict)
    listeners: dict[ListenerKey, ListenerTarget] = field(default_factory=dict)
    endpoints: dict[EndpointKey, Endpoint] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    _at: dict[ListenerKey, Virtual] = field(default_factory=dict, init=False, compare=False)
    _places: dict[int, ListenerKey] = field(default_factory=dict, init=False, compare=False)
    _taken: set[int] = field(default_factory=set, init=False, compare=False)
    _per_client: dict[ServiceKey, dict[ListenerKey, None]] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        for virtual, ident in self.idents.items():
            self._index(virtual, ident)
        for key, value in list(self.listeners.items()):
            self.lead(key, value)

    def lead(self, key: ListenerKey, value: ListenerTarget) -> None:
        """Take a listener in."""
        self.unlead(key)
        self.listeners[key] = value
        if value.affinity_s:
            self._per_client.setdefault(value.service, {})[key] = None

    def unlead(self, key: ListenerKey) -> None:
        """Leave a listener out."""
        before = self.listeners.pop(key, None)
        if before is not None:
            self._per_client.get(before.service, {}).pop(key, None)

    def per_client(self, service: ServiceKey) -> Collection[ListenerKey]:
        """Return the listeners of a service that keep clients."""
        return self._per_client.get(service, {})

    def take(self, virtual: Virtual, ident: int) -> None:
        """Give a virtual service this identity."""
        self.idents[virtual] = ident
        self._index(virtual, ident)

    def drop(self, virtual: Virtual) -> int:
        """Forget the identity of a virtual service; return what it was."""
        ident = self.idents.pop(virtual)
        self._taken.discard(ident)
        if virtual.at is not None:
            self._at.pop(virtual.at, None)
            self._places.pop(ident, None)
        return ident

    def _index(self, virtual: Virtual, ident: int) -> None:
        self._taken.add(ident)
        if virtual.at is not None:
            self._at[virtual.at] = virtual
            self._places[ident] = virtual.at

    def ident(self, virtual: Virtual) -> int:
        """Return the identity of a virtual service, the same in every life unless two names meet in it.

        Raises:
            DataplaneError: there are no more.
        """
        if virtual not in self.idents:
            before = None if virtual.at is None else self._at.get(virtual.at)
            # To the kernel it is the same one, whichever service the listener leads to.
            self.take(virtual, _free(virtual, self._taken) if before is None else self.drop(before))
        return self.idents[virtual]

    def places(self) -> Mapping[int, ListenerKey]:
        """Return the address of each virtual service, by identity, that the kernel does not know by its mark."""
        return self._places


def _free(virtual: Virtual, taken: Collection[int]) -> int:
    name = f"{virtual.service.name}\0{virtual.service.protocol}\0{virtual.at or 0}"
    if len(taken) >= IDS:
        raise DataplaneError(f"no more than {IDS} virtual services: give fewer listeners affinity, or fewer addresses")
    ident = int.from_bytes(hashlib.sha256(name.encode()).digest()[:2]) % IDS
    while ident in taken:
        ident = (ident + 1) % IDS
    return ident


# ---- the file ----------------------------------------------------------------------------------------------------


class _FirstRow(msgspec.Struct, array_like=True):
    """Twin of `Candidate`, an array as the versions before wrote it.

    An upgrade must find the tables: without them the other sites' workloads are unknown until those sites are heard.
    """

    site: str
    connector: str
    path_cost: int
    capacity: int
    others: int
    target4: tuple[str, int] | None
    target6: tuple[str, int] | None
    own_site: bool
    off_host: bool
    out: int


def row_twin(terms: Iterable[Term]) -> type[msgspec.Struct]:
    """Return the twin of a `Candidate` with these terms: later ones are appended, and may be missing."""
    later = [(one.name, int, one.default) for one in terms if one.name not in _FirstRow.__struct_fields__]
    return msgspec.defstruct("_Row", later, bases=(_FirstRow,))


if TYPE_CHECKING:
    _Row = _FirstRow
else:
    _Row = row_twin(TERMS)


_Service = tuple[str, Protocol]
_Place = tuple[str, int, Protocol]


class _File(msgspec.Struct):
    where: str
    idents: list[tuple[_Service, _Place | None, int]] = []
    tables: list[tuple[_Service, list[_Row]]] = []
    listeners: list[tuple[str, int, Protocol, _Service, list[_Service], int]] = []
    endpoints: list[tuple[int, Protocol, str, str, str, int, bool]] = []
    settings: dict[str, str] = {}


class _Settings(msgspec.Struct):
    """What of a file of another version counts: names are found again by their marks, what settings were is not."""

    where: str
    settings: dict[str, str] = {}


def load(path: Path) -> Memory:
    """Return what was written in this boot and network namespace; an empty memory when there is nothing of that.

    Raises:
        DataplaneError: the file cannot be read.
    """
    try:
        found = _decoded(path.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return Memory()
    except OSError as error:
        raise DataplaneError(f"read {path}: {error.strerror}") from error
    if found.where != where():
        return Memory()
    try:
        tables = {ServiceKey(*key): ServiceTable(tuple(_candidate(row) for row in rows)) for key, rows in found.tables}
    except KeyError:  # a reason that this version does not know: nothing may go because of that
        return Memory(settings=found.settings)
    return Memory(
        {Virtual(ServiceKey(*key), ListenerKey(*at) if at else None): ident for key, at, ident in found.idents},
        tables,
        {
            ListenerKey(address, port, protocol): ListenerTarget(
                ServiceKey(*first), tuple(ServiceKey(*key) for key in schedule), affinity
            )
            for address, port, protocol, first, schedule, affinity in found.listeners
        },
        {
            EndpointKey(port, protocol): Endpoint(WorkloadId(site, name), host, to, off_host)
            for port, protocol, site, name, host, to, off_host in found.endpoints
        },
        found.settings,
    )


def _decoded(raw: bytes) -> _File:
    try:
        return msgspec.json.decode(raw, type=_File)
    except msgspec.ValidationError:
        stored = msgspec.json.decode(raw, type=_Settings)
        return _File(stored.where, settings=stored.settings)


def save(path: Path, memory: Memory) -> None:
    """Write the file, in one step. Raises DataplaneError."""
    made = _File(
        where(),
        [(_name(one.service), _place(one.at), ident) for one, ident in memory.idents.items()],
        [(_name(key), [_row(one) for one in table.candidates]) for key, table in memory.tables.items()],
        [
            (key.address, key.port, key.protocol, _name(to.service), [_name(one) for one in to.schedule], to.affinity_s)
            for key, to in memory.listeners.items()
        ],
        [
            (key.port, key.protocol, to.workload.site, to.workload.connector, to.host, to.port, to.off_host)
            for key, to in memory.endpoints.items()
        ],
        memory.settings,
    )
    new = path.with_suffix(".new")
    try:
        new.write_bytes(msgspec.json.encode(made))
        os.replace(new, path)
    except OSError as error:
        raise DataplaneError(f"write {path}: {error.strerror}") from error


def _name(key: ServiceKey) -> _Service:
    return key.name, key.protocol


def _place(at: ListenerKey | None) -> _Place | None:
    return None if at is None else (at.address, at.port, at.protocol)


def _row(one: Candidate) -> _Row:
    target4, target6 = (None if to is None else (to.address, to.port) for to in (one.target4, one.target6))
    return _Row(
        site=one.workload.site,
        connector=one.workload.connector,
        path_cost=one.path_cost,
        others=one.others,
        target4=target4,
        target6=target6,
        own_site=one.own_site,
        off_host=one.off_host,
        out=one.out.code,
        **one.terms(),
    )


def _candidate(row: _Row) -> Candidate:
    return Candidate(
        WorkloadId(row.site, row.connector),
        row.path_cost,
        others=row.others,
        target4=None if row.target4 is None else Target(*row.target4),
        target6=None if row.target6 is None else Target(*row.target6),
        own_site=row.own_site,
        out=Reason.of_code(row.out),
        off_host=row.off_host,
        **{term.name: getattr(row, term.name) for term in TERMS},
    )
