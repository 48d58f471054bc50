"""The published endpoints of this site, in the pinned maps of the packet programs (bpf/common/link_maps.h).

Beside each endpoint stand the addresses that its workload's own packets may carry, so that replies of workloads that
are reached by rewriting, and of all UDP workloads, leave with the endpoint as their source.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Hashable, Mapping, Set
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey
from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf.layout_placement import protocol_of
from skedge.dataplane.ebpf.packet_check import address_bytes

ENDPOINT_MAP = "endpoints_v1"
SOURCE_MAP = "endpoint_sources_v1"
MARK_MAP = "endpoint_marks_v1"
_PUBLISHED, _NAT = 1, 4
NAME_MAX = 63
_KEY = struct.Struct("=HBx")
_VALUE = struct.Struct("=16sHBB4x64s64s")
_OFF_HOST = 1
_SOURCE = struct.Struct("=16sHBB")
_PORT = struct.Struct("=H")
_WORD = struct.Struct("=I")
_NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17}
_ANY = bytes(16)


class EndpointDriver:
    """Driver[EndpointKey, Endpoint] on the maps pinned in ``pin_dir``."""

    def __init__(self, pin_dir: str) -> None:
        self._pins = Path(pin_dir)

    def _map(self, name: str) -> syscall.Fd:
        return syscall.Fd(syscall.obj_get(str(self._pins / name)))

    def read(self) -> Mapping[EndpointKey, Endpoint]:
        """Return all published endpoints. One that lacks reply addresses or mark has port 0, so it is put again."""
        found = self._published()
        with self._map(SOURCE_MAP) as fd:
            known = dict(syscall.map_items(fd, _SOURCE.size, _PORT.size))
        ports = _ports_by_source(found)
        right = {source for source, port in known.items() if port in ports.get(source, ())}
        return {
            key: value if self._whole(key, value, right) else replace(value, port=0) for key, value in found.items()
        }

    def glance(self) -> Hashable:
        """Return what changes with every change of these maps by others; a mark of the programs' own is none."""
        with self._map(ENDPOINT_MAP) as fd:
            published = sorted(syscall.map_lookup_batch(fd, _KEY.size, _VALUE.size))
        with self._map(SOURCE_MAP) as fd:
            sources = sorted(syscall.map_lookup_batch(fd, _SOURCE.size, _PORT.size))
        with self._map(MARK_MAP) as fd:
            ports = [_unpack_key(key).port for key, _ in published]
            marks = [syscall.map_lookup(fd, _WORD.pack(port), _WORD.size) or bytes(_WORD.size) for port in ports]
        return tuple(published), tuple(sources), tuple(_WORD.unpack(mark)[0] & (_PUBLISHED | _NAT) for mark in marks)

    def _whole(self, key: EndpointKey, value: Endpoint, right: Set[bytes]) -> bool:
        return _sources(key, value) <= right and (key.protocol is not Protocol.TCP or self._marked(key.port, value))

    def _marked(self, port: int, value: Endpoint) -> bool:
        mark = self._mark(port)
        return mark != 0 and bool(mark & _NAT) == value.off_host

    def _published(self) -> dict[EndpointKey, Endpoint]:
        with self._map(ENDPOINT_MAP) as fd:
            return {_unpack_key(key): _unpack(value) for key, value in syscall.map_items(fd, _KEY.size, _VALUE.size)}

    def put(self, key: EndpointKey, value: Endpoint) -> None:
        """Publish an endpoint or change its workload. Raises DataplaneError."""
        packed = _pack(key, value)
        have = self._published()
        self._refuse_shared(key, value, have)
        if key in have:
            self._forget_sources(key, have[key], value)
        ports = _ports_by_source({**have, key: value})
        with self._map(SOURCE_MAP) as fd:
            for source in _sources(key, value):
                if syscall.map_lookup(fd, source, _PORT.size) not in ports[source]:
                    syscall.map_update(fd, source, _PORT.pack(key.port))
        if key.protocol is Protocol.TCP and not self._marked(key.port, value):
            # before the programs may mark it themselves
            self._set_mark(key.port, _PUBLISHED | (_NAT if value.off_host else 0))
        with self._map(ENDPOINT_MAP) as fd:
            syscall.map_update(fd, _KEY.pack(key.port, _NUMBERS[key.protocol]), packed)

    def delete(self, key: EndpointKey) -> None:
        """Withdraw an endpoint: no new connections; those that exist go on, but for the rewritten ones."""
        have = self._published()
        if key not in have:
            return
        with self._map(ENDPOINT_MAP) as fd:
            syscall.map_delete(fd, _KEY.pack(key.port, _NUMBERS[key.protocol]))
        if key.protocol is Protocol.TCP:
            self._set_mark(key.port, 0)
        self._forget_sources(key, have[key], None)
        # Another endpoint of the same workload address takes over what this one had written first.
        for other, endpoint in have.items():
            if other != key and _sources(other, endpoint) & _sources(key, have[key]):
                self.put(other, endpoint)

    def _forget_sources(self, key: EndpointKey, before: Endpoint, after: Endpoint | None) -> None:
        still_used = set() if after is None else _sources(key, after)
        with self._map(SOURCE_MAP) as fd:
            for source in _sources(key, before) - still_used:
                if syscall.map_lookup(fd, source, _PORT.size) == _PORT.pack(key.port):
                    syscall.map_delete(fd, source)

    def _mark(self, port: int) -> int:
        """Return what the programs know of a port (MARK_*): 0 no endpoint, more than was set if they marked it too."""
        with self._map(MARK_MAP) as fd:
            return int.from_bytes(syscall.map_lookup(fd, _WORD.pack(port), _WORD.size) or b"", sys.byteorder)

    def _set_mark(self, port: int, mark: int) -> None:
        with self._map(MARK_MAP) as fd:
            syscall.map_update(fd, _WORD.pack(port), _WORD.pack(mark))

    @staticmethod
    def _refuse_shared(key: EndpointKey, value: Endpoint, have: Mapping[EndpointKey, Endpoint]) -> None:
        """A UDP reply says only which workload it is from, so that workload can have but one endpoint."""
        if key.protocol is not Protocol.UDP or value.off_host:
            return
        for other, endpoint in have.items():
            if (
                other != key
                and other.protocol is Protocol.UDP
                and not endpoint.off_host
                and (endpoint.host, endpoint.port) == (value.host, value.port)
            ):
                raise DataplaneError(
                    f"endpoint {key.port}/udp of {value.workload}: {endpoint.workload} has the same workload"
                    f" {value.host}:{value.port}; replies of both would look alike, use one connector or another port"
                )


def _sources(key: EndpointKey, value: Endpoint) -> set[bytes]:
    """Return the source map's keys of an endpoint: the workload's own address, every address, the other loopback.

    A workload elsewhere has none: its packets are of flows, and no socket of this host answers for it.
    """
    if value.off_host:
        return set()
    number = _NUMBERS[key.protocol]
    host = ip_address(value.host)
    pairs = {(address_bytes(value.host), host.version == 6), (_ANY, False), (_ANY, True)}
    if host.is_loopback:
        pairs |= {(address_bytes("127.0.0.1"), False), (address_bytes("::1"), True)}
    return {_SOURCE.pack(address, value.port, number, six) for address, six in pairs}


def _ports_by_source(endpoints: Mapping[EndpointKey, Endpoint]) -> Mapping[bytes, Set[bytes]]:
    """Return the values that each key of the source map may have: the port of any endpoint of that workload address."""
    found: dict[bytes, set[bytes]] = {}
    for key, value in endpoints.items():
        for source in _sources(key, value):
            found.setdefault(source, set()).add(_PORT.pack(key.port))
    return found


def _name(what: str, name: str) -> bytes:
    raw = name.encode()
    if len(raw) > NAME_MAX:
        raise DataplaneError(f"endpoint: the {what} name {name} is longer than {NAME_MAX} bytes; shorten it")
    return raw


def _pack(key: EndpointKey, value: Endpoint) -> bytes:
    try:
        host = ip_address(value.host)
    except ValueError as error:
        raise DataplaneError(f"endpoint {key.port} of {value.workload}: host {value.host} is no IP address") from error
    workload = value.workload
    names = _name("site", workload.site), _name("connector", workload.connector)
    return _VALUE.pack(address_bytes(value.host), value.port, host.version == 6, _OFF_HOST * value.off_host, *names)


def _unpack(raw: bytes) -> Endpoint:
    host, port, six, flags, site, connector = _VALUE.unpack(raw)
    address = ip_address(host if six else host[:4])
    names = (name.rstrip(b"\0").decode(errors="replace") for name in (site, connector))
    return Endpoint(WorkloadId(*names), str(address), port, bool(flags & _OFF_HOST))


def _unpack_key(raw: bytes) -> EndpointKey:
    port, number = _KEY.unpack(raw)
    return EndpointKey(port, protocol_of(number))
