"""Kernel objects of this site as plain values: what drivers read and write, one kind a class (with its key)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from skedge.core.model import LinkId, Protocol, Terms, WorkloadId
from skedge.core.reasons import Reason
from skedge.core.transports import Transport


@dataclass(frozen=True, slots=True)
class LinkDevice:
    """One link device of ours (key: device name). Equal values mean nothing to do.

    ``remote`` is an address, of a wireguard link also a host name; ``keys`` are the public keys that its far end may
    have. ``mark`` is that of its own packets where it is bound to an uplink (`Uplink`), else 0.
    """

    link: LinkId
    transport: Transport
    link_local: str
    peer_link_local: str
    mtu: int = 0
    vni: int = 0
    local: str = ""
    remote: str = ""
    port: int = 0
    underlay: str = ""
    remote_port: int = 0
    keepalive_s: int = 0
    keys: tuple[str, ...] = ()
    mark: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Way:
    """How one far end of a link is reached; ``via`` is "" on the device's own network, ``device`` "" without a way."""

    destination: str
    device: str = ""
    via: str = ""


@dataclass(frozen=True, slots=True)
class Uplink:
    """How a link's own packets leave the host (key: their mark): from its ``local`` address, by these ways, sorted.

    ``local`` is "" where the host has no such address: then there is no way.
    """

    local: str = ""
    ways: tuple[Way, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class NextHop:
    """One next hop on a device of ours: the neighbour's link-local address, `names.GATEWAY4` for an IPv4 route."""

    device: str
    via: str


class RouteUse(StrEnum):
    """What a route is for: a site's overlay address, or the LAN of another site that keeps its clients' addresses.

    ``transit``: such clients may only pass through; ``clients``: they may come to this site's workloads, too.
    """

    OVERLAY = "overlay"
    TRANSIT = "transit"
    CLIENTS = "clients"


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """Route to one overlay address or LAN prefix (key: destination as ``addr/len``); several next hops are ECMP.

    ``alternates`` are the next hops of a second route of a higher metric: the kernel's own way when it loses the first.
    """

    next_hops: tuple[NextHop, ...]
    source: str
    use: RouteUse = RouteUse.OVERLAY
    alternates: tuple[NextHop, ...] = ()

    def leads_unlike(self, other: KernelRoute) -> bool:
        """Tell whether packets go another way by the other route, alternates aside."""
        return self.next_hops != other.next_hops


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """Where a connection to a candidate is sent: overlay address and endpoint port, or the local host:port."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Candidate(Terms):
    """One workload as this site may choose it now.

    ``others`` is the sum of the other sites' last reports. ``out`` says why it may not be chosen; NONE when it may.
    ``target4``/``target6`` is None where that address family cannot reach it. ``own_site``: of this site; ``off_host``:
    of this site, but at an address that is not this host's (a LAN machine, a container). ``preserves_src``: of another
    site, which takes LAN clients of this one under their own addresses.
    """

    workload: WorkloadId
    path_cost: int
    others: int = 0
    target4: Target | None = None
    target6: Target | None = None
    own_site: bool = False
    out: Reason = Reason.NONE
    off_host: bool = False
    preserves_src: bool = False


@dataclass(frozen=True, slots=True, order=True)
class ServiceKey:
    """A service of one transport protocol."""

    name: str
    protocol: Protocol = Protocol.TCP


@dataclass(frozen=True, slots=True)
class ServiceTable:
    """All candidates of a service (key: ServiceKey), sorted by workload id; at most 256, chosen among by §2's rule."""

    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class ListenerKey:
    """address:port of a listener as one concrete address of the host (``*`` is expanded before it comes here)."""

    address: str
    port: int
    protocol: Protocol = Protocol.TCP


@dataclass(frozen=True, slots=True)
class ListenerTarget:
    """Where a listener's new connections go: all to ``service``, or to the services of ``schedule`` in turn.

    A client keeps its workload for ``affinity_s`` seconds after each of its connections; 0: it does not. With a
    schedule, ``service`` is the first one configured, which the affinity is kept under. ``preserves_src``: a client of
    the LAN keeps its own address on the way to another site.
    """

    service: ServiceKey
    schedule: tuple[ServiceKey, ...] = ()
    affinity_s: int = 0
    preserves_src: bool = False

    @property
    def services(self) -> Mapping[ServiceKey, int]:
        """Return the services that get connections now, with their turns."""
        return Counter(self.schedule or (self.service,))


@dataclass(frozen=True, slots=True, order=True)
class EndpointKey:
    """A published endpoint of this site (its overlay addresses are known to the driver)."""

    port: int
    protocol: Protocol = Protocol.TCP


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The workload behind a published endpoint: where the SYN is delivered.

    ``off_host``: the host is not this one, and connections are translated on the way to it.
    """

    workload: WorkloadId
    host: str
    port: int
    off_host: bool = False


@dataclass(frozen=True, slots=True)
class NftRule:
    """One nftables rule. ``comment`` stands for what it does, by a digest; ``text`` is the driver's own."""

    comment: str
    text: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class NftChain:
    """One nftables chain with its rules in order; without ``hook``, one that other chains lead to."""

    name: str
    rules: tuple[NftRule, ...] = ()
    kind: str = ""
    hook: str = ""
    priority: int = 0
    policy: str = ""


@dataclass(frozen=True, slots=True)
class NftSet:
    """One named set or map. ``elements`` are added when the set is written; other drivers keep them."""

    name: str
    type: str
    elements: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ChainGroup:
    """The nftables chains that serve one purpose, written in one change (key: the group's name).

    Equal values mean nothing to do. What is damaged reads as another value than what was written.
    """

    chains: tuple[NftChain, ...] = ()
    sets: tuple[NftSet, ...] = ()
    counters: tuple[str, ...] = ()
