"""Semantic checks of what other sites say: a valid signature proves who speaks, not that the numbers make sense."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from skedge.core.linkstate.boots import AGE_MAX_MS, BOOT_MAX
from skedge.core.linkstate.messages import RECORD_MAX, VERSION_MAX, Body, Kind, SignedRecord
from skedge.core.model import COST_MAX, TERMS
from skedge.core.records import LinksRecord, LinkState, ServicesRecord, WorkloadState
from skedge.core.routing.lan_prefixes import PREFIXES_PER_SITE_MAX, parse_prefix

NAME_MAX = 253
PORT_MAX = 65535
RTT_MAX_US = 1 << 40


def check_envelope(record: SignedRecord) -> None:
    """Check what can be checked before anything is verified or decoded. Raises ValueError with a sentence."""
    _name(record.site, "site", "/")
    version = record.version
    if not (0 <= version.incarnation <= VERSION_MAX and 0 <= version.sequence <= VERSION_MAX):
        raise ValueError(f"version {version.incarnation}.{version.sequence} is not in 0..2^63-1")
    if record.size > RECORD_MAX:
        raise ValueError(f"a record of {record.size} bytes is larger than {RECORD_MAX}")


def check_body(record: SignedRecord, body: Body) -> None:
    """Check a decoded body against its envelope and the words' ranges. Raises ValueError with a sentence."""
    if body.site != record.site:
        raise ValueError(f"{record.site!r} speaks for {body.site!r}")
    if record.kind is Kind.LINKS and isinstance(body, LinksRecord):
        _links(body)
    elif record.kind is Kind.SERVICES and isinstance(body, ServicesRecord):
        _services(body)
    else:
        raise ValueError(f"the body is not a {record.kind} record")


def _links(body: LinksRecord) -> None:
    for four, six in ((body.overlay4, body.overlay6), (body.nat4, body.nat6)):
        if four:
            IPv4Address(four)
        if six:
            IPv6Address(six)
    if len(body.prefixes) > PREFIXES_PER_SITE_MAX or len(set(body.prefixes)) != len(body.prefixes):
        raise ValueError(f"{len(body.prefixes)} prefixes, of which {len(set(body.prefixes))} differ")
    for prefix in (*body.prefixes, *body.refused):
        parse_prefix(prefix)
    if len({(link.to, link.name) for link in body.links}) != len(body.links):
        raise ValueError("a link is listed twice")
    for link in body.links:
        _link(body.site, link)
    if body.boot:
        _name(body.boot, "boot")
    _within(len(body.boot), 0, BOOT_MAX, "length of a boot's name")
    _within(body.boot_age_ms, 0, AGE_MAX_MS, "age of a boot")


def _link(site: str, link: LinkState) -> None:
    _name(link.to, "neighbour", "/")
    _name(link.name, "link name", "/")
    if link.to == site:
        raise ValueError("a link leads to its own site")
    for cost in (link.cost, *link.service_costs.values()):
        _within(cost, 1, COST_MAX, "cost")
    _within(link.rtt_us, 0, RTT_MAX_US, "round-trip time")


def _services(body: ServicesRecord) -> None:
    for service in body.listens:
        _name(service, "service")
    if len({load.connector for load in body.workloads}) != len(body.workloads):
        raise ValueError("a connector is listed twice")
    if len({(load.port, load.protocol) for load in body.workloads}) != len(body.workloads):
        raise ValueError("an endpoint port is listed twice")
    for workload in body.workloads:
        _workload(workload)


def _workload(workload: WorkloadState) -> None:
    _name(workload.connector, "connector", "/")
    _name(workload.service, "service")
    _within(workload.port, 1, PORT_MAX, "endpoint port")
    for term in TERMS:
        _within(getattr(workload, term.name), term.low, term.high, term.name)


def _name(name: str, what: str, forbidden: str = "") -> None:
    good = 0 < len(name) <= NAME_MAX and name.isprintable() and " " not in name
    if not good or any(character in name for character in forbidden):
        raise ValueError(f"{name[:40]!r} is not a name of a {what}")


def _within(value: int, low: int, high: int, what: str) -> None:
    if not low <= value <= high:
        raise ValueError(f"{what} {value} is not in {low}..{high}")
