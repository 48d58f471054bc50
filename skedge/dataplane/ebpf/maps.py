"""The pinned maps of the connect-time engine as typed objects: one class a map or group of maps, no decisions."""

from __future__ import annotations

import errno
import struct
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import ListenerKey, ServiceKey
from skedge.core.reasons import Reason
from skedge.dataplane.bpf import reason_counts, syscall
from skedge.dataplane.bpf.programs import OLD_RECORDS, OLD_RECOUNTS
from skedge.dataplane.ebpf import layout_placement as layout
from skedge.dataplane.ebpf import layout_service
from skedge.dataplane.ebpf.lan.flow_table import FlowTable, read_iterator, read_records
from skedge.dataplane.ebpf.layout_listener import ListenerValue

LISTENERS_PIN = "listeners_v2"
_PLACEMENTS = ("iterate_placements_v2", "iterate_flows_v2")
_OLD_PLACEMENTS = tuple(one.pin for one in OLD_RECORDS)
_RECOUNTS = ("recount_placements_v1", "recount_flows_v1")
_OLD_RECOUNTS = tuple(one.pin for one in OLD_RECOUNTS)
RETIRED = 1 << 31  # in a service's id in the map of names: gone, but with open connections
_ZERO = bytes(4)
_ID = struct.Struct("=I")
_WORD = struct.Struct("=Q")
_PACKET = bytes(12) + b"\x08\x00"


class Maps:
    """All maps that are pinned in ``pin_dir``, opened once."""

    def __init__(self, pin_dir: str) -> None:
        self._pins = Path(pin_dir)
        self._open: dict[str, syscall.Fd] = {}
        self.flows = FlowTable(pin_dir)
        self._parsed: dict[int, tuple[bytes, layout_service.Service]] = {}
        self.applied = 0

    def close(self) -> None:
        """Close all descriptors."""
        for fd in self._open.values():
            fd.close()
        self._open.clear()

    def fd(self, pin: str) -> int:
        """Return the descriptor of a pinned object. Raises DataplaneError when it is not there."""
        if pin not in self._open:
            try:  # another thread may do the same: the first one stays
                self._open.setdefault(pin, syscall.Fd(syscall.obj_get(str(self._pins / pin))))
            except syscall.BpfError as error:
                if error.errno == errno.ENOENT:
                    raise DataplaneError(
                        f"{self._pins / pin} is missing: the eBPF programs are not loaded; run `skedge-loader load`"
                    ) from error
                raise
        return self._open[pin].fd

    # ---- services ----

    def service(self, ident: int) -> layout_service.Service:
        """Return a service's value as one consistent whole; parsed again only when a count or a table changed."""
        raw = syscall.map_lookup(
            self.fd("services_v1"), _ID.pack(ident), layout_service.Service.SIZE, flags=syscall.MapFlag.LOCK
        )
        if raw is None:
            raise DataplaneError(f"service id {ident} is out of range")
        header = raw[4 : layout_service.Service.HEADER.size]  # without the lock
        known = self._parsed.get(ident)
        if known is None or known[0] != header:
            known = self._parsed[ident] = header, layout_service.Service.unpack(raw)
        return known[1]

    def read_anew(self) -> None:
        """Parse every service's value again: somebody else may have written it."""
        self._parsed.clear()

    def control(self, ident: int, slots: Iterable[int]) -> bytes:
        """Return what the controller wrote into a service's value: its size, and the controlled part of these slots."""
        raw = syscall.map_lookup(
            self.fd("services_v1"), _ID.pack(ident), layout_service.Service.SIZE, flags=syscall.MapFlag.LOCK
        )
        return layout_service.Service.control(raw or bytes(layout_service.Service.SIZE), slots)

    def apply(self, staged: layout_service.Staged) -> None:
        """Make the programs take a staged table over, in one critical section."""
        syscall.map_update(self.fd("staged_v1"), _ZERO, staged.pack())
        self.applied += 1
        self._run("apply_v1", staged.service)

    def _run(self, pin: str, service: int) -> None:
        done = syscall.prog_test_run(self.fd(pin), _PACKET + _ID.pack(service) + bytes(46))
        if done.retval != 0:
            raise DataplaneError(f"service id {service}: the program {pin} refused (code {done.retval})")

    # ---- names ----

    def service_ids(self) -> dict[ServiceKey, int]:
        """Return the id of each service by its name, with RETIRED set for those that are gone."""
        items = syscall.map_items(self.fd("service_names_v1"), layout.SERVICE_NAME.size, _ID.size)
        return {layout.unpack_service_name(key): _ID.unpack(value)[0] for key, value in items}

    def name_service(self, key: ServiceKey, ident: int) -> None:
        """Remember a service's id."""
        syscall.map_update(self.fd("service_names_v1"), layout.pack_service_name(key), _ID.pack(ident))

    def forget_service(self, key: ServiceKey) -> None:
        """Forget a service's id."""
        syscall.map_delete(self.fd("service_names_v1"), layout.pack_service_name(key))

    def workloads(self) -> dict[int, dict[int, WorkloadId]]:
        """Return the workload of each slot that has one, by service id and slot."""
        found: dict[int, dict[int, WorkloadId]] = {}
        size = layout.WORKLOAD_NAME.size
        for key, value in syscall.map_items(self.fd("workload_names_v1"), layout.WORKLOAD_KEY.size, size):
            service, slot = layout.WORKLOAD_KEY.unpack(key)
            names = (layout.unpack_name(raw) for raw in layout.WORKLOAD_NAME.unpack(value))
            found.setdefault(service, {})[slot] = WorkloadId(*names)
        return found

    def name_workload(self, service: int, slot: int, workload: WorkloadId) -> None:
        """Remember which workload a slot is."""
        value = layout.pack_name("site", workload.site) + layout.pack_name("connector", workload.connector)
        syscall.map_update(self.fd("workload_names_v1"), layout.WORKLOAD_KEY.pack(service, slot), value)

    def forget_workload(self, service: int, slot: int) -> None:
        """Forget a slot's workload: the slot is free."""
        syscall.map_delete(self.fd("workload_names_v1"), layout.WORKLOAD_KEY.pack(service, slot))

    # ---- listeners ----

    def listeners(self) -> dict[ListenerKey, ListenerValue]:
        """Return where the connections to each listener go."""
        items = syscall.map_items(self.fd(LISTENERS_PIN), layout.LISTENER.size, ListenerValue.STRUCT.size)
        return {layout.unpack_listener(key): ListenerValue.unpack(value) for key, value in items}

    def listener_state(self) -> Hashable:
        """Return what changes with every change of a listener or its port's mark, but not with a turn."""
        found = sorted(
            syscall.map_lookup_batch(self.fd(LISTENERS_PIN), layout.LISTENER.size, ListenerValue.STRUCT.size)
        )
        places = {(one.port, one.protocol) for one in (layout.unpack_listener(key) for key, _ in found)}
        ports = tuple(sorted((port, protocol.value, self.has_port(port, protocol)) for port, protocol in places))
        return tuple((key, ListenerValue.without_position(value)) for key, value in found), ports

    def name_state(self) -> Hashable:
        """Return what changes with every change of a service's or a workload's name."""
        services = syscall.map_lookup_batch(self.fd("service_names_v1"), layout.SERVICE_NAME.size, _ID.size)
        workloads = syscall.map_lookup_batch(
            self.fd("workload_names_v1"), layout.WORKLOAD_KEY.size, layout.WORKLOAD_NAME.size
        )
        return tuple(sorted(services)), tuple(sorted(workloads))

    def put_listener(self, key: ListenerKey, value: ListenerValue) -> None:
        """Send connects to this address where the value says."""
        syscall.map_update(self.fd(LISTENERS_PIN), layout.pack_listener(key), value.pack())

    def delete_listener(self, key: ListenerKey) -> None:
        """Leave connects to this address alone."""
        syscall.map_delete(self.fd(LISTENERS_PIN), layout.pack_listener(key))

    def has_port(self, port: int, protocol: Protocol) -> bool:
        """Return whether there is said to be any listener on a port."""
        index = _ID.pack(port // 64 + (1024 if protocol is Protocol.UDP else 0))
        (word,) = _WORD.unpack(syscall.map_lookup(self.fd("ports_v1"), index, _WORD.size) or bytes(8))
        return bool(word >> port % 64 & 1)

    def set_port(self, port: int, protocol: Protocol, used: bool) -> None:
        """Say whether there is any listener on a port."""
        index = _ID.pack(port // 64 + (1024 if protocol is Protocol.UDP else 0))
        (word,) = _WORD.unpack(syscall.map_lookup(self.fd("ports_v1"), index, _WORD.size) or bytes(8))
        bit = 1 << port % 64
        syscall.map_update(self.fd("ports_v1"), index, _WORD.pack(word | bit if used else word & ~bit))

    # ---- the rest ----

    def changes(self) -> int:
        """Return a number that is another one after any change of a count."""
        raw = syscall.map_lookup(self.fd("news_v1"), _ZERO, layout.NEWS.size)
        return int(layout.NEWS.unpack(raw)[2]) if raw else 0

    def config(self) -> layout.Config:
        """Return the configuration."""
        return layout.Config.unpack(syscall.map_lookup(self.fd("config_v1"), _ZERO, layout.Config.SIZE) or b"")

    def set_config(self, config: layout.Config) -> None:
        """Replace the configuration."""
        syscall.map_update(self.fd("config_v1"), _ZERO, config.pack())

    def drops(self) -> Mapping[Reason, int]:
        """Return how many connects were refused (and candidates left out), by reason."""
        return reason_counts.read(self.fd("drops_v1"))

    def placements(self, since: int = 0) -> Iterator[layout.PlacementRecord]:
        """Yield what is stored, in sockets and flows, with each connection placed since then (ns since boot)."""
        for pin in self._present(_OLD_PLACEMENTS, _PLACEMENTS):  # a flow moves from the old to the new
            for raw in read_records(self._pins / pin, layout.PlacementRecord.STORED.size):
                yield from layout.PlacementRecord.unpack_all(raw, layout.PlacementRecord.STORED, since)
        yield from self.flows.placements(since)

    def cookies(self, protocol: Protocol) -> Iterator[int]:
        """Yield the cookies of sockets that are placed."""
        for pin in self._present(_OLD_PLACEMENTS, _PLACEMENTS):
            for raw in read_records(self._pins / pin, layout.PlacementRecord.STORED.size):
                yield from layout.PlacementRecord.cookies(raw, protocol)

    def _present(self, old: Iterable[str], new: Iterable[str]) -> list[str]:
        return [*(pin for pin in old if (self._pins / pin).exists()), *new]

    # ---- recounts ----

    def recount_begin(self, ident: int) -> None:
        """Begin to count a service anew."""
        self._run("recount_v1", ident)

    def recount(self, ident: int, size: int) -> bytes:
        """Return how far a service's recount is (struct recount)."""
        return syscall.map_lookup(self.fd("recounts_v1"), _ID.pack(ident), size) or bytes(size)

    def recounts(self) -> Iterable[str]:
        """Return the walks through what is stored with sockets, in their order."""
        return self._present(_OLD_RECOUNTS, _RECOUNTS)

    def walk(self, pin: str) -> None:
        """Walk through all that one kind of storage has; the kernel pauses after each byte: others are let in."""
        for _ in read_iterator(self._pins / pin, size=1):
            pass

    def picks(self) -> Iterator[layout.LoggedPick]:
        """Yield the picks of the pick log, oldest first; nothing while it is off."""
        log = self.fd("pick_log_v2")
        items = syscall.map_lookup_batch(log, 4, layout.LoggedPick.SIZE, chunk=1024)
        found = [layout.LoggedPick.unpack(value) for _, value in items]
        yield from sorted((one for one in found if one.sequence), key=lambda one: one.sequence)
