"""The layouts of bpf/nat/flow/types.h in Python: packing and unpacking, nothing else. A test compares sizes and
offsets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar

from skedge.core.model import Protocol
from skedge.core.placement.nat_ports import NAT_ADDRESS_PORTS
from skedge.dataplane.ebpf.layout_placement import PROTOCOL_OF, PlacementRecord, pack_address, unpack_address

NANOSECONDS = 1_000_000_000
KIND_SHIFT, GENERATION_SHIFT = 16, 32
_BITS = (1 << GENERATION_SHIFT) - 1 & ~(0xF << KIND_SHIFT)


class FlowBits(IntFlag):
    """What the packets of one direction have said (FLOW_*)."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    ACK = 0x10
    REPLY = 0x100
    ENDED = 0x200
    PASSIVE = 0x400
    TAKEN = 0x800
    AGAIN = 0x1000
    ENDING = 0x100000
    RESET = 0x200000
    OWN = 0x800000


class Kind(IntEnum):
    """How a flow reaches its workload (KIND_*)."""

    LOCAL = 1
    REMOTE = 2
    LAN = 3
    OVERLAY = 4
    LOOP = 5


@dataclass(frozen=True, slots=True)
class NatAddresses:
    """This site's overlay addresses that only LAN clients come from (struct nat_addresses), "" for none.

    ``towards_sites``: flows to other sites come from them too. ``udp_stream_s``: the idle time-out of a UDP flow that
    was more than one exchange.
    """

    own4: str = ""
    own6: str = ""
    towards_sites: bool = False
    ports: tuple[int, int] = NAT_ADDRESS_PORTS
    udp_stream_s: float = 120.0

    STRUCT: ClassVar[struct.Struct] = struct.Struct("=4sI16sHHIQ32s")
    _FAR: ClassVar[int] = 1  # NAT_TOWARDS_SITES

    def __str__(self) -> str:
        """Return the second half of the line, as `skedge plan` prints it."""
        own = " ".join(one for one in (self.own4, self.own6) if one) or "the overlay addresses"
        return f"udp stream {self.udp_stream_s:g} s, from {own}" + (" to all sites" if self.towards_sites else "")

    @classmethod
    def unpack(cls, raw: bytes) -> NatAddresses:
        """Return what the bytes of a struct say."""
        own4, flags, own6, low, high, _, stream, _ = cls.STRUCT.unpack(raw)
        four, six = IPv4Address(own4) if any(own4) else "", IPv6Address(own6) if any(own6) else ""
        return cls(str(four), str(six), bool(flags & cls._FAR), (low, high), stream / NANOSECONDS)

    def pack(self) -> bytes:
        """Return the bytes of the struct."""
        own4 = IPv4Address(self.own4).packed if self.own4 else bytes(4)
        own6 = IPv6Address(self.own6).packed if self.own6 else bytes(16)
        flags = self._FAR if self.towards_sites else 0
        return self.STRUCT.pack(own4, flags, own6, *self.ports, 0, int(self.udp_stream_s * NANOSECONDS), b"")


@dataclass(frozen=True, slots=True)
class NatConfig:
    """What the programs are told (struct nat_config); ``device`` 0: not at work. Idle time-outs in seconds.

    ``source_rate``: new flows a second of one source. ``half_open``: how many may be half open, of each protocol.
    """

    device: int = 1  # lo
    ports: tuple[int, int] = (63000, 65535)
    syn_s: float = 10.0
    established_s: float = 7440.0  # RFC 5382: not less than 2 h 4 min
    fin_s: float = 7440.0
    closed_s: float = 10.0
    udp_s: float = 20.0
    addresses: NatAddresses = field(default_factory=NatAddresses)
    source_rate: int = 10_000
    half_open: int = 16_384

    STRUCT: ClassVar[struct.Struct] = struct.Struct("=IHH5QII8s")

    def __str__(self) -> str:
        """Return one line, as `skedge plan` prints it."""
        if not self.device:
            return "off"
        limits = f"{self.source_rate} new flows/s a source, {self.half_open} half open"
        times = f"syn {self.syn_s:g} s, established {self.established_s:g} s, fin {self.fin_s:g} s"
        times += f", closed {self.closed_s:g} s, udp {self.udp_s:g} s"
        return f"ports {self.ports[0]}-{self.ports[1]}, {times}, {limits}, {self.addresses}"

    @classmethod
    def unpack(cls, raw: bytes, addresses: NatAddresses) -> NatConfig:
        """Return what the bytes of a struct say, with what lies in a map of its own."""
        device, low, high, *times, rate, half_open, _ = cls.STRUCT.unpack(raw)
        syn, established, fin, closed, udp = (one / NANOSECONDS for one in times)
        return cls(device, (low, high), syn, established, fin, closed, udp, addresses, rate, half_open)

    def pack(self) -> bytes:
        """Return the bytes of the struct."""
        times = (self.syn_s, self.established_s, self.fin_s, self.closed_s, self.udp_s)
        limits = self.source_rate, self.half_open
        return self.STRUCT.pack(self.device, *self.ports, *(int(one * NANOSECONDS) for one in times), *limits, b"")


@dataclass(frozen=True, slots=True)
class FlowTotals:
    """What a sweep found (struct flow_sums); ``kinds`` by `Kind`."""

    kinds: tuple[int, ...]
    half_open: int

    STRUCT: ClassVar[struct.Struct] = struct.Struct("=16Q")

    @classmethod
    def unpack(cls, raw: bytes) -> FlowTotals:
        """Return the value."""
        words = cls.STRUCT.unpack(raw)
        return cls(words[:8], words[8])


@dataclass(frozen=True, slots=True)
class FlowKey:
    """One direction of a flow as it is seen on the wire (struct nat_key)."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    protocol: Protocol = Protocol.TCP

    STRUCT: ClassVar[struct.Struct] = struct.Struct("=16s16s2s2sI")
    SIZE: ClassVar[int] = STRUCT.size

    def pack(self) -> bytes:
        """Return the bytes of the struct."""
        number = {protocol: number for number, protocol in PROTOCOL_OF.items()}[self.protocol]
        ports = self.source_port.to_bytes(2), self.destination_port.to_bytes(2)
        return self.STRUCT.pack(pack_address(self.source), pack_address(self.destination), *ports, number)

    @classmethod
    def unpack(cls, raw: bytes) -> FlowKey:
        """Return the value."""
        source, destination, source_port, destination_port, protocol = cls.STRUCT.unpack(raw)
        return cls(
            unpack_address(source),
            int.from_bytes(source_port),
            unpack_address(destination),
            int.from_bytes(destination_port),
            PROTOCOL_OF[protocol],
        )


@dataclass(frozen=True, slots=True)
class FlowEntry:
    """What becomes of the packets of one direction (struct nat_flow)."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    seen: int
    state: FlowBits
    kind: int
    placed: int

    STRUCT: ClassVar[struct.Struct] = struct.Struct("=16s16s2s2sI3Q")
    SIZE: ClassVar[int] = STRUCT.size

    @classmethod
    def unpack(cls, raw: bytes) -> FlowEntry:
        """Return the value."""
        source, destination, source_port, destination_port, _, seen, state, placed = cls.STRUCT.unpack(raw)
        return cls(
            unpack_address(source),
            int.from_bytes(source_port),
            unpack_address(destination),
            int.from_bytes(destination_port),
            seen,
            FlowBits(state & _BITS),
            state >> KIND_SHIFT & 0xF,
            placed,
        )


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """What the iterator writes of one flow (struct nat_record); ``reply`` has no kind where there is no such entry."""

    key: FlowKey
    forward: FlowEntry
    reply: FlowEntry
    placement: PlacementRecord

    SIZE: ClassVar[int] = FlowKey.SIZE + 2 * FlowEntry.SIZE + PlacementRecord.STRUCT.size

    @classmethod
    def placements(cls, raw: bytes, since: int) -> Iterator[PlacementRecord]:
        """Yield what is placed of all records of the iterator's output, since then (ns since boot)."""
        at = cls.SIZE - PlacementRecord.STRUCT.size
        placed = b"".join(raw[start + at : start + cls.SIZE] for start in range(0, len(raw), cls.SIZE))
        yield from PlacementRecord.unpack_all(placed, since=since)

    @classmethod
    def unpack_all(cls, raw: bytes) -> Iterator[FlowRecord]:
        """Yield all records of the iterator's output."""
        at_forward, at_reply = FlowKey.SIZE, FlowKey.SIZE + FlowEntry.SIZE
        at_placement = at_reply + FlowEntry.SIZE
        for start in range(0, len(raw) - cls.SIZE + 1, cls.SIZE):
            one = raw[start : start + cls.SIZE]
            (placement,) = PlacementRecord.unpack_all(one[at_placement:], closed=True)
            yield cls(
                FlowKey.unpack(one[:at_forward]),
                FlowEntry.unpack(one[at_forward:at_reply]),
                FlowEntry.unpack(one[at_reply:at_placement]),
                placement,
            )
