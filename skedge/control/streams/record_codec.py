"""How the bodies of records look as bytes: msgpack arrays, strictly typed, equal bodies as equal bytes."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, field

from skedge.control.streams.frames import ENTRIES_MAX, FAILURES, NAME_MAX, PORT_MAX, BadFrame, Cost, Name, Wire
from skedge.core.linkstate.messages import Body, Kind
from skedge.core.model import (
    CAPACITY_MAX,
    SERVICES_MAX,
    LinksRecord,
    LinkState,
    Protocol,
    ServicesRecord,
    WorkloadState,
)

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
    # not said by versions before this one
    refused: Annotated[list[Address], Meta(max_length=ENTRIES_MAX)] = field(default_factory=list)


class _Workload(Wire):
    connector: Name
    service: Name
    port: Annotated[int, Meta(ge=1, le=PORT_MAX)]
    protocol: Protocol
    capacity: Annotated[int, Meta(ge=1, le=CAPACITY_MAX)]
    healthy: bool
    drain: bool
    ipv4: bool
    ipv6: bool


class _ServicesBody(Wire):
    site: Name
    workloads: Annotated[list[_Workload], Meta(max_length=ENTRIES_MAX)]
    listens: Annotated[list[Name], Meta(max_length=ENTRIES_MAX)]


_encoder = msgspec.msgpack.Encoder()
_links_body = msgspec.msgpack.Decoder(_LinksBody)
_services_body = msgspec.msgpack.Decoder(_ServicesBody)


class BodyCodec:
    """`core.linkstate.messages.Codec` for the bodies of records: equal bodies give equal bytes."""

    def encode(self, body: Body) -> bytes:
        """Return the body's bytes. Raises BadFrame for a body that other sites would refuse."""
        encoded = _encoder.encode(_body_to_wire(body))
        self.decode(Kind.LINKS if isinstance(body, LinksRecord) else Kind.SERVICES, encoded)
        return encoded

    def decode(self, kind: Kind, body: bytes) -> Body:
        """Return the body. Raises BadFrame (a ValueError)."""
        try:
            if kind is Kind.LINKS:
                return _links_from_wire(_links_body.decode(body))
            return _services_from_wire(_services_body.decode(body))
        except FAILURES as error:
            raise BadFrame(f"not the body of a {kind} record: {error}") from error


def _body_to_wire(body: Body) -> Wire:
    if isinstance(body, ServicesRecord):
        return _ServicesBody(body.site, [_workload_to_wire(load) for load in body.workloads], list(body.listens))
    return _LinksBody(
        body.site,
        body.overlay4,
        body.overlay6,
        [_link_to_wire(link) for link in body.links],
        body.overload,
        body.drain,
        list(body.prefixes),
        body.software,
        list(body.refused),
    )


def _link_to_wire(link: LinkState) -> _LinkState:
    costs = dict(sorted(link.service_costs.items()))  # one order, so that equal bodies give equal bytes
    return _LinkState(link.to, link.name, link.cost, link.up, link.rtt_us, costs)


def _workload_to_wire(load: WorkloadState) -> _Workload:
    return _Workload(
        load.connector,
        load.service,
        load.port,
        load.protocol,
        load.capacity,
        load.healthy,
        load.drain,
        load.ipv4,
        load.ipv6,
    )


def _links_from_wire(wire: _LinksBody) -> LinksRecord:
    links = tuple(LinkState(ln.to, ln.name, ln.cost, ln.up, ln.rtt_us, ln.service_costs) for ln in wire.links)
    return LinksRecord(
        site=wire.site,
        overlay4=wire.overlay4,
        overlay6=wire.overlay6,
        links=links,
        overload=wire.overload,
        drain=wire.drain,
        prefixes=tuple(wire.prefixes),
        software=wire.software,
        refused=tuple(wire.refused),
    )


def _services_from_wire(wire: _ServicesBody) -> ServicesRecord:
    workloads = tuple(
        WorkloadState(
            connector=load.connector,
            service=load.service,
            port=load.port,
            protocol=load.protocol,
            capacity=load.capacity,
            healthy=load.healthy,
            drain=load.drain,
            ipv4=load.ipv4,
            ipv6=load.ipv6,
        )
        for load in wire.workloads
    )
    return ServicesRecord(wire.site, workloads, tuple(wire.listens))
