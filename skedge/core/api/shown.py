"""What `skedge show` and `skedge explain` list: one document a row of a table.

Ages and durations are seconds, costs exact; an optional value is None where it is not known. New keys may appear at any
time; `documents.VERSION` changes when one changes its meaning or goes.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SiteRow:
    """One site of the network as this site sees it; ``prefixes`` are the LANs that it announces.

    ``programs`` is where this host's eBPF programs came from: shipped, cached, or compiled here.
    """

    name: str
    overlay4: str
    overlay6: str
    reachable: bool
    path_cost: int | None
    drain: bool
    overload: bool
    workloads: int
    incarnation: int
    sequence: int
    software: str = ""
    here: bool = False
    engine: str = ""
    engine_why: str = ""
    programs: str = ""
    certificate_days: float | None = None
    prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkRow:
    """One link of this site. ``state`` is down, init, exchange or full; ``reason`` says why it is not used.

    A link that is up and has a reason is used only where no other path is. ``unsent`` counts the probes that the host
    refused to send, ``unsent_errno`` is why it refused the last one (0: it took that).

    ``endpoint`` is where the far end's packets come from (wireguard), or its address as configured; ``handshake_s`` the
    age of the last WireGuard handshake, None without one, and ``keys`` the keys that the device takes from the far end.
    ``certificate`` is the serial number of this site's certificate that the far end took when the stream was made.
    ``cost_parts`` are base, rtt and loss of a measured cost; empty for one that is configured.
    """

    link: str
    to: str
    device: str
    transport: str
    cost: int
    up: bool
    state: str
    rtt_ms: float | None
    loss: float
    sent: int
    received: int
    since_s: float
    reason: str = "none"
    service_costs: dict[str, int] = field(default_factory=dict)
    handshake_s: float | None = None
    endpoint: str = ""
    keys: tuple[str, ...] = ()
    unsent: int = 0
    unsent_errno: int = 0
    certificate: str = ""
    cost_parts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RouteRow:
    """One overlay route: computed next hops, and whether the kernel has them.

    ``protection`` is what its packets survive before new paths are computed: none, link (the loss of any one link of
    this site) or node (that of the site behind it, too). ``alternates`` serve when none of the next hops is left.
    """

    destination: str
    site: str
    path_cost: int
    next_hops: tuple[str, ...]
    installed: bool
    protection: str = "none"
    alternates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """One workload of a service as a site may choose it: every part of the perceived cost, or why it is out.

    ``perceived`` is exact as ``num/den``; ``others_age_s`` is the age of the oldest report in ``others``;
    ``path`` is the sites of one cheapest path, from the entering site to the workload's (one entry when it is here).
    ``cause`` is what the last failed health check of an unhealthy workload of this site got.
    """

    workload: str
    site: str
    path_cost: int | None
    capacity: int
    open: int
    others: int
    others_age_s: float | None
    perceived: str
    perceived_float: float
    reason: str
    winner: bool = False
    target: str = ""
    chosen: int = 0
    refused: int = 0
    path: tuple[str, ...] = ()
    cause: str = ""


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """One service as this site sees it."""

    service: str
    protocol: str
    candidates: tuple[CandidateRow, ...]
    listened_here: bool


@dataclass(frozen=True, slots=True)
class ListenerServiceRow:
    """One service of a listener; ``share`` is the part of the new connections that it gets now, 0 to 1."""

    service: str
    weight: int
    share: float
    healthy_workloads: int


@dataclass(frozen=True, slots=True)
class ListenerRow:
    """One configured listener; ``addresses`` are the concrete ones in the kernel.

    ``service`` is the first of ``services``; ``healthy_workloads`` are those of the services that get connections now.
    ``policy`` is cost, priority or weighted. ``affinity_s``: so long a client keeps its workload, 0: not at all.
    ``preserve_client_ip``: clients of the LAN keep their addresses on the way to other sites.
    """

    service: str
    address: str
    port: int
    protocol: str
    addresses: tuple[str, ...]
    healthy_workloads: int
    reason: str = "none"
    services: tuple[ListenerServiceRow, ...] = ()
    policy: str = "cost"
    affinity_s: int = 0
    preserve_client_ip: bool = False


@dataclass(frozen=True, slots=True)
class ConnectionRow:
    """One open connection placed here: its receipt. ``placed_s`` is when, in seconds since the host booted."""

    client: str
    listener: str
    service: str
    protocol: str
    workload: str
    path_cost: int
    perceived: str
    runner_up: str
    runner_up_perceived: str
    table_version: int
    age_s: float
    reason: str = "none"
    placed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class FlowRow:
    """One flow of the LAN: a connection of a client or to a workload that is not a program of this host.

    ``kind`` is local, remote, lan or overlay (from another site, which placed it), ``state`` syn, established, fin,
    closed or udp. The workload is at ``target`` and sees ``source`` as its client.
    """

    client: str
    listener: str
    protocol: str
    kind: str
    state: str
    service: str
    workload: str
    target: str
    source: str
    idle_s: float
    age_s: float


@dataclass(frozen=True, slots=True)
class DropRow:
    """One reason with its counter since the maps were made."""

    reason: str
    count: int
    meaning: str


@dataclass(frozen=True, slots=True)
class DrainRow:
    """One thing of this site that is drained: ``what`` is site, workload or link; ``name`` is "" for the site.

    By command: ``by`` whom, ``since`` when (seconds since 1970), ``age_s`` long; ``by_configuration``: the
    configuration drains it, (too). ``entry``: the site's own listeners take nothing, either. What is left, None where
    it is not known or does not apply: open ``connections`` to the workloads, from all sites; ``oldest_s`` is the age of
    the oldest one that was placed here; ``transit`` is how many pairs of other sites have a path through this one, and
    ``cut_off`` are those without any other.
    """

    what: str
    name: str
    by: str = ""
    since: float | None = None
    age_s: float | None = None
    entry: bool = False
    by_configuration: bool = False
    connections: int | None = None
    oldest_s: float | None = None
    transit: int | None = None
    cut_off: tuple[str, ...] = ()
