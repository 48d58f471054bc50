"""Documents that the local API answers with: what `skedge … --json` prints and the tables are made of.

``VERSION`` changes when a key changes its meaning or goes; new keys may appear at any time. A test freezes it.
The rows of lists are in core/api/shown.py.
Ages and durations are seconds, costs exact; an optional value is None where it is not known.
"""

from __future__ import annotations

from dataclasses import dataclass

from skedge.core.api.shown import (
    CandidateRow,
    ConnectionRow,
    DrainRow,
    DropRow,
    FlowRow,
    LinkRow,
    ListenerRow,
    RouteRow,
    ServiceRow,
    SiteRow,
)

VERSION = 1
CERTIFICATE_WARN_DAYS = 30.0  # so few days left are a warning


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of `skedge status`: ``severity`` is error, warning or info; ``since_s`` is its age."""

    severity: str
    what: str
    cause: str
    since_s: float


@dataclass(frozen=True, slots=True)
class Status:
    """Answer of ``status``: live = the loop runs, ready = forwarding and balancing.

    synced = every adjacency was heard, with the certificates that both ends have now; configuration and certificates on
    disk are in force; the source ports that must be are reserved; and (asked with ``what`` = kernel) the kernel was
    looked at and has all that is wanted.

    ``reachable`` are the other sites that there is a path to, ``protected`` those of them that stay reachable at once
    when a link of this site fails.
    """

    site: str
    live: bool
    ready: bool
    synced: bool
    problems: tuple[Problem, ...] = ()
    reachable: int = 0
    protected: int = 0
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Sync:
    """Answer of ``show sync``: the state of database and kernel against what is wanted."""

    synced: bool
    records: int
    waiting_for: tuple[str, ...]
    reconcile_runs: int
    reconcile_failures: int
    last_reconcile_s: float | None
    dirty: tuple[str, ...]
    count_drift: int
    config_error: str = ""
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Explain:
    """Answer of ``explain SERVICE``: where the next connection from ``site`` goes, and why.

    ``listeners`` are those of this site that name the service: they say how much comes to it, and who is kept.
    """

    service: str
    site: str
    candidates: tuple[CandidateRow, ...]
    winner: str | None
    reason: str = "none"
    listeners: tuple[ListenerRow, ...] = ()
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One change that a reconcile run would make; ``kind`` as in docs/kernel-objects.md."""

    action: str
    kind: str
    key: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class PlanReport:
    """Answer of ``plan``: exactly what would change, in the order it would be done."""

    steps: tuple[PlanStep, ...] = ()
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Rows:
    """Answer of the ``show`` requests that list: exactly one of the fields is filled."""

    sites: tuple[SiteRow, ...] | None = None
    links: tuple[LinkRow, ...] | None = None
    routes: tuple[RouteRow, ...] | None = None
    services: tuple[ServiceRow, ...] | None = None
    listeners: tuple[ListenerRow, ...] | None = None
    connections: tuple[ConnectionRow, ...] | None = None
    flows: tuple[FlowRow, ...] | None = None
    drops: tuple[DropRow, ...] | None = None
    drains: tuple[DrainRow, ...] | None = None
    truncated: bool = False
    version: int = VERSION


# ---- requests -------------------------------------------------------------------------------------------------

SOCKET_PATH = "/run/skedge/api.sock"


@dataclass(frozen=True, slots=True)
class Request:
    """One JSON line to the API socket.

    ``op``: status | show | explain | explain-connection (answered by ``rows.connections``) | plan | drain | undrain
    | leave (the last three answered by ``rows.drains``, and for root and members of the group skedge-admin only).
    ``what`` for status: kernel, to look at the kernel, too.
    ``what`` for show: site, sites, links, routes, services, listeners, connections, flows, drops, drains, sync.
    ``what`` for drain and undrain: site, workload or link, with its ``name``; ``entry``: the site's listeners, too;
    ``abort``: connections that are left are ended.
    ``service``, ``workload``, ``client`` (IP or IP:PORT) and ``since`` (seconds since boot) choose among connections
    and flows.
    ``name``: service, or IP:PORT. ``site``: entering site of explain.
    """

    op: str
    what: str = ""
    name: str = ""
    site: str = ""
    limit: int = 1000
    service: str = ""
    workload: str = ""
    client: str = ""
    since: float = 0.0
    entry: bool = False
    abort: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """One JSON line back: ``error`` is one sentence, or ``""`` with the document beside it."""

    error: str = ""
    status: Status | None = None
    rows: Rows | None = None
    sync: Sync | None = None
    explain: Explain | None = None
    plan: PlanReport | None = None
    version: int = VERSION
