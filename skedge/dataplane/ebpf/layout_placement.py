"""The layouts of bpf/placement/types.h in Python: packing and unpacking, nothing else. A test compares sizes and
offsets.

Addresses are 16 bytes, IPv4 as ``::ffff:a.b.c.d``; numbers are in the machine's order but for network-order ports.
"""

from __future__ import annotations

import dataclasses
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import ClassVar

from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol
from skedge.core.objects import ListenerKey, ServiceKey, Target
from skedge.dataplane.ebpf.layout_service import MAX_SERVICES, MAX_WORKLOADS, SIZES

NAME_SIZE = 64
SPARE_WORDS = 8
PLACED_VALID, PLACED_NAT = 1 << 63, 1 << 31
PROTOCOLS = {Protocol.TCP: 6, Protocol.UDP: 17}
PROTOCOL_OF = {number: protocol for protocol, number in PROTOCOLS.items()}

_MAPPED = bytes(10) + b"\xff\xff"


def pack_address(address: str) -> bytes:
    """Return the 16 bytes of an address. Raises ValueError."""
    plain = ip_address(address)
    return _MAPPED + plain.packed if plain.version == 4 else plain.packed


def unpack_address(raw: bytes) -> str:
    """Return the address of 16 bytes, a mapped one as IPv4."""
    return str(IPv4Address(raw[12:]) if raw.startswith(_MAPPED) else IPv6Address(raw))


def pack_name(what: str, name: str) -> bytes:
    """Return a name as a map holds it. Raises DataplaneError when it is too long."""
    raw = name.encode()
    if len(raw) >= NAME_SIZE:
        raise DataplaneError(f"{what} {name}: longer than {NAME_SIZE - 1} bytes; shorten it")
    return raw.ljust(NAME_SIZE, b"\0")


def unpack_name(raw: bytes) -> str:
    """Return a name of a map."""
    return raw.split(b"\0", 1)[0].decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration (struct config); overlay addresses as bytes in network order."""

    netns_cookie: int = 0
    digest: int = 0
    port_limit: int = 0
    sweep_before: int = 0
    overlay4: bytes = bytes(4)
    overlay6: bytes = bytes(16)

    STRUCT: ClassVar[struct.Struct] = struct.Struct("=4Q4sI16s32s")
    SIZE: ClassVar[int] = STRUCT.size

    @classmethod
    def unpack(cls, raw: bytes) -> Config:
        """Return the value."""
        cookie, digest, limit, sweep, four, _, six, _ = cls.STRUCT.unpack(raw)
        return cls(cookie, digest, limit, sweep, four, six)

    def pack(self) -> bytes:
        """Return the bytes of the struct."""
        return self.STRUCT.pack(
            *(self.netns_cookie, self.digest, self.port_limit, self.sweep_before, self.overlay4, 0),
            *(self.overlay6, b""),
        )

    def replace(self, **changes: int | bytes) -> Config:
        """Return a copy with other values."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


NEWS = struct.Struct("=3Q8s")
LISTENER = struct.Struct("=16s2sHI")
SERVICE_NAME = struct.Struct(f"={NAME_SIZE}sI")
WORKLOAD_KEY = struct.Struct("=II")
WORKLOAD_NAME = struct.Struct(f"={NAME_SIZE}s{NAME_SIZE}s")


def pack_listener(key: ListenerKey) -> bytes:
    """Return a listener's key. Raises ValueError when the address is none."""
    return LISTENER.pack(pack_address(key.address), key.port.to_bytes(2), 0, PROTOCOLS[key.protocol])


def protocol_of(number: int) -> Protocol:
    """Return the protocol of a number in a map. Raises DataplaneError: somebody else wrote it."""
    found = PROTOCOL_OF.get(number)
    if found is None:
        raise DataplaneError(
            f"a map of the eBPF programs has an entry of protocol {number}, which skedge never writes; "
            "`skedge-loader unload` and a restart of skedge make the maps anew"
        )
    return found


def unpack_listener(raw: bytes) -> ListenerKey:
    """Return a listener's key. Raises DataplaneError."""
    address, port, _, protocol = LISTENER.unpack(raw)
    return ListenerKey(unpack_address(address), int.from_bytes(port), protocol_of(protocol))


def pack_service_name(key: ServiceKey) -> bytes:
    """Return a service's key in the map of names."""
    return SERVICE_NAME.pack(pack_name("service", key.name), PROTOCOLS[key.protocol])


def unpack_service_name(raw: bytes) -> ServiceKey:
    """Return a service's key in the map of names."""
    name, protocol = SERVICE_NAME.unpack(raw)
    return ServiceKey(unpack_name(name), protocol_of(protocol))


@dataclass(frozen=True, slots=True)
class Weighed:
    """One side of a choice as it was (struct weighed); capacity 0: there was none."""

    slot: int
    path_cost: int
    capacity: int
    open: int

    @property
    def perceived(self) -> tuple[int, int]:
        """Return the perceived cost as an exact fraction."""
        return self.path_cost * self.capacity + self.open, self.capacity


@dataclass(frozen=True, slots=True)
class PlacementRecord:
    """What the iterators write of one open connection (struct placement_record; of a socket, struct socket_record)."""

    cookie: int
    client: str
    client_port: int
    placed: int
    placed_at: int
    seen: int
    listener: ListenerKey
    target: Target
    reason: int
    version: int
    choice: int
    winner: Weighed
    runner: Weighed

    STRUCT: ClassVar[struct.Struct] = struct.Struct("=Q16sII3Q16s16s2sH2sHIIQQ4I4I2IQQ2I")
    STORED: ClassVar[struct.Struct] = struct.Struct(f"{STRUCT.format}{SPARE_WORDS}Q")
    HEAD_SIZE: ClassVar[int] = 32  # before what is stored
    _PROTOCOL_AT: ClassVar[int] = HEAD_SIZE + 24 + 32 + 8  # its first byte, on a little-endian machine

    @classmethod
    def unpack_all(
        cls, raw: bytes, packed: struct.Struct = STRUCT, since: int = 0, *, closed: bool = False
    ) -> Iterator[PlacementRecord]:
        """Yield the records of an iterator's output that were placed since then (ns since boot).

        ``packed`` is `STORED` of one over sockets. ``closed``: those too that are not open any more.
        """
        for one in packed.iter_unpack(raw):
            cookie, client, port, _, placed, placed_at, seen, listener, target, at, _, to, _, protocol = one[:14]
            if placed_at < since or not (placed or closed):
                continue
            yield cls(
                cookie,
                unpack_address(client),
                port,
                placed,
                placed_at,
                seen,
                ListenerKey(unpack_address(listener), int.from_bytes(at), PROTOCOL_OF[protocol]),
                Target(unpack_address(target), int.from_bytes(to)),
                reason=one[14],
                version=one[15],
                choice=one[16],
                winner=Weighed(*one[17:21]),
                runner=Weighed(*one[21:25]),
            )

    @classmethod
    def cookies(cls, raw: bytes, protocol: Protocol) -> Iterator[int]:
        """Yield the cookies of those open ones of many records of sockets that are of a protocol."""
        size, number = cls.STORED.size, PROTOCOLS[protocol]
        for index, found in enumerate(raw[cls._PROTOCOL_AT :: size]):
            if found == number and any(raw[(at := index * size) + cls.HEAD_SIZE : at + cls.HEAD_SIZE + 8]):
                yield int.from_bytes(raw[at : at + 8], sys.byteorder)

    @property
    def service(self) -> int:
        """Return the service id of the placement word."""
        return self.placed >> 8 & MAX_SERVICES - 1

    @property
    def slot(self) -> int:
        """Return the slot of the placement word."""
        return self.placed & MAX_WORKLOADS - 1

    @property
    def generation(self) -> int:
        """Return the slot's generation of the placement word."""
        return self.placed >> 32 & 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class LoggedSlot:
    """One slot at the moment of a pick (struct logged_slot)."""

    path_cost: int
    capacity: int
    others: int
    flags: int
    mine: int
    last: int
    suspended: int
    generation: int


@dataclass(frozen=True, slots=True)
class LoggedPick:
    """One pick with everything it was decided on (struct logged_pick)."""

    sequence: int
    limit: int
    version: int
    choice: int
    affinity: int
    service: int
    need: int
    winner: int
    runner: int
    slots: tuple[LoggedSlot, ...]

    HEADER: ClassVar[struct.Struct] = struct.Struct("=5Q4I")
    SLOT: ClassVar[struct.Struct] = struct.Struct("=4I2Q2I")
    SIZE: ClassVar[int] = HEADER.size + SIZES[0] * SLOT.size

    @classmethod
    def unpack(cls, raw: bytes) -> LoggedPick:
        """Return the value."""
        slots = tuple(LoggedSlot(*one) for one in cls.SLOT.iter_unpack(raw[cls.HEADER.size : cls.SIZE]))
        sequence, limit, version, choice, affinity, *rest = cls.HEADER.unpack_from(raw)
        service, need, winner, runner = rest
        return cls(sequence, limit, version, choice, affinity, service, need, winner, runner, slots)
