"""How the bodies of records look as bytes: msgpack arrays, strictly typed, equal bodies as equal bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta, Struct, field

from skedge.control.streams.frames import ENTRIES_MAX, FAILURES, NAME_MAX, PORT_MAX, BadFrame, Cost, Name, Wire
from skedge.core.linkstate.boots import AGE_MAX_MS, BOOT_MAX
from skedge.core.linkstate.messages import Body, Kind
from skedge.core.model import CAPACITY_MAX, SERVICES_MAX, TERMS, Protocol, Term
from skedge.core.records import LinksRecord, ServicesRecord

ADDRESS_MAX = 64

Address = Annotated[str, Meta(max_length=ADDRESS_MAX)]


class _LinkState(Wire):
    to: Name
    name: Name
    cost: Cost
    up: bool
    rtt_us: Annotated[int, Meta(ge=0, le=1 << 40)]
    service_costs: Annotated[dict[Name, Cost], Meta(max_length=SERVICES_MAX)]


class _LinksBody(Wire):
    site: Name
    overlay4: Address
    overlay6: Address
    links: Annotated[list[_LinkState], Meta(max_length=ENTRIES_MAX)]
    overload: bool
    drain: bool
    prefixes: Annotated[list[Address], Meta(max_length=ENTRIES_MAX)]
    software: Annotated[str, Meta(max_length=NAME_MAX)]
    # not said by older versions
    refused: Annotated[list[Address], Meta(max_length=ENTRIES_MAX)] = field(default_factory=list)
    nat4: Address = ""
    nat6: Address = ""
    boot: Annotated[str, Meta(max_length=BOOT_MAX)] = ""
    boot_age_ms: Annotated[int, Meta(ge=0, le=AGE_MAX_MS)] = 0


class _FirstWorkload(Wire):
    """What every version says of a workload."""

    connector: Name
    service: Name
    port: Annotated[int, Meta(ge=1, le=PORT_MAX)]
    protocol: Protocol
    capacity: Annotated[int, Meta(ge=1, le=CAPACITY_MAX)]
    healthy: bool
    drain: bool
    ipv4: bool
    ipv6: bool


def workload_twin(terms: Iterable[Term]) -> type[Struct]:
    """Return the twin of a `WorkloadState` with these terms: later ones are appended, and may be missing."""
    first = _FirstWorkload.__struct_fields__
    later = [(one.name, Annotated[int, Meta(ge=one.low, le=one.high)], one.default) for one in terms]
    return msgspec.defstruct("_Workload", [one for one in later if one[0] not in first], bases=(_FirstWorkload,))


if TYPE_CHECKING:
    _Workload = _FirstWorkload
else:
    _Workload = workload_twin(TERMS)


class _ServicesBody(Wire):
    site: Name
    workloads: Annotated[list[_Workload], Meta(max_length=ENTRIES_MAX)]
    listens: Annotated[list[Name], Meta(max_length=ENTRIES_MAX)]


_encoder = msgspec.msgpack.Encoder(order="deterministic")  # of costs, which have no order of their own
_links_body = msgspec.msgpack.Decoder(_LinksBody)
_services_body = msgspec.msgpack.Decoder(_ServicesBody)


class BodyCodec:
    """`core.linkstate.messages.Codec` for the bodies of records: equal bodies give equal bytes."""

    def encode(self, body: Body) -> bytes:
        """Return the body's bytes. Raises BadFrame for a body that other sites would refuse."""
        twin = _LinksBody if isinstance(body, LinksRecord) else _ServicesBody
        try:
            return _encoder.encode(msgspec.convert(body, twin, from_attributes=True))
        except FAILURES as error:
            raise BadFrame(f"not the body of a record: {error}") from error

    def decode(self, kind: Kind, body: bytes) -> Body:
        """Return the body. Raises BadFrame (a ValueError)."""
        try:
            if kind is Kind.LINKS:
                return msgspec.convert(_links_body.decode(body), LinksRecord, from_attributes=True)
            return msgspec.convert(_services_body.decode(body), ServicesRecord, from_attributes=True)
        except FAILURES as error:
            raise BadFrame(f"not the body of a {kind} record: {error}") from error
