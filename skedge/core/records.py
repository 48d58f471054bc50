"""What sites say of themselves: the bodies of records and reports (the signed envelope: core/linkstate/messages.py).

Everything is frozen. Costs are integers 1..65535; a name that ends in ``_ms`` or ``_us`` is of that unit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from skedge.core.model import EMPTY, Protocol, Terms, WorkloadId


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """Version of a record: a restarted site takes a higher incarnation; clocks are never trusted."""

    incarnation: int
    sequence: int


@dataclass(frozen=True, slots=True)
class LinkState:
    """One end's view of a link, as flooded."""

    to: str
    name: str
    cost: int
    up: bool
    rtt_us: int = 0
    service_costs: Mapping[str, int] = field(default_factory=lambda: EMPTY, hash=False)


@dataclass(frozen=True, slots=True)
class LinksRecord:
    """What a site says of itself and its links.

    ``prefixes`` are its LANs, ``refused`` those of other sites whose clients its workloads cannot take. ``nat4`` and
    ``nat6`` are overlay addresses that its LAN's clients come from; "" where its version knows of none. ``boot`` is
    another value after its host lost all connections ("" where its version knows of none), ``boot_age_ms`` how long
    before the record it was first seen.
    """

    site: str
    overlay4: str
    overlay6: str
    links: tuple[LinkState, ...] = ()
    overload: bool = False
    drain: bool = False
    prefixes: tuple[str, ...] = ()
    software: str = ""
    refused: tuple[str, ...] = ()
    nat4: str = ""
    nat6: str = ""
    boot: str = ""
    boot_age_ms: int = 0


@dataclass(frozen=True, slots=True)
class WorkloadState(Terms):
    """What a site says of one of its workloads; ``port`` is its endpoint port on the overlay address."""

    connector: str
    service: str
    port: int
    protocol: Protocol = Protocol.TCP
    healthy: bool = True
    drain: bool = False
    ipv4: bool = True  # reachable for IPv4 clients / IPv6-only clients, as the site's own driver can deliver
    ipv6: bool = True


@dataclass(frozen=True, slots=True)
class ServicesRecord:
    """What a site offers and listens to."""

    site: str
    workloads: tuple[WorkloadState, ...] = ()
    listens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadReport:
    """One site's own open connections per workload of others, as sent in one datagram."""

    site: str
    version: Version
    open: Mapping[WorkloadId, int] = field(hash=False, default_factory=dict)


@dataclass(frozen=True, slots=True)
class NetworkMap:
    """The content of the link-state database, decoded: one entry a site that said something."""

    links: Mapping[str, LinksRecord]
    services: Mapping[str, ServicesRecord]

    def without(self, sites: Collection[str]) -> NetworkMap:
        """Return the map as if these sites had said nothing."""
        return NetworkMap(
            {site: record for site, record in self.links.items() if site not in sites},
            {site: record for site, record in self.services.items() if site not in sites},
        )
