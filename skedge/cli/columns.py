"""The columns of each list that `skedge show` prints, and how rows are laid out under them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tabulate import tabulate

from skedge.cli.format import NOTHING, clean, cost, listing, measured_cost, number, reason, span, yes
from skedge.core.api import documents, shown
from skedge.core.reasons import Reason


@dataclasses.dataclass(frozen=True)
class Column:
    """One column: heading, the cell of a row, and whether it holds numbers."""

    head: str
    cell: Callable[[Any], str]
    right: bool = False


def table(columns: Sequence[Column], rows: Iterable[Any]) -> str:
    """Return rows under headings, without a trailing space on any line."""
    cells = [[column.cell(row) for column in columns] for row in rows]
    heads = [column.head for column in columns]
    align = ["right" if column.right else "left" for column in columns]
    text = tabulate(cells, heads, tablefmt="plain", disable_numparse=True, colalign=align if cells else None)
    return "\n".join(line.rstrip() for line in text.splitlines())


def sheet(columns: Sequence[Column], row: Any) -> str:
    """Return one row as lines of heading and value."""
    text = tabulate(
        [[f"{column.head}:", column.cell(row)] for column in columns], tablefmt="plain", disable_numparse=True
    )
    return "\n".join(line.rstrip() for line in text.splitlines())


# ---- sites, links, routes --------------------------------------------------------------------------------------


def _site_state(row: shown.SiteRow) -> str:
    if not row.reachable:
        return "unreachable"
    flags = [name for name, on in (("drain", row.drain), ("overload", row.overload)) if on]
    return ", ".join(flags) or "ok"


def _certificate(row: shown.SiteRow) -> str:
    """Return how long the site's certificate is valid, and what to do when that is soon over."""
    days = row.certificate_days
    if days is None:
        return NOTHING
    left = span(days * 86400) if days > 0 else "expired"
    return f"{left}; run the deploy playbook" if days < documents.CERTIFICATE_WARN_DAYS else left


_NAME = Column("SITE", lambda r: clean(r.name) + (" (here)" if r.here else ""))
_OVERLAY = Column("OVERLAY", lambda r: clean(r.overlay4))
_SITE_TAIL = (
    Column("PATH COST", lambda r: number(r.path_cost), right=True),
    Column("STATE", _site_state),
    Column("WORKLOADS", lambda r: str(r.workloads), right=True),
    Column("ENGINE", lambda r: clean(r.engine)),
    Column("CERTIFICATE", _certificate),
    Column("SOFTWARE", lambda r: clean(r.software)),
)
_LAN = Column("LAN", lambda r: listing(r.prefixes))
SITES = (_NAME, _OVERLAY, _LAN, *_SITE_TAIL)
SITE = (
    _NAME,
    _OVERLAY,
    Column("OVERLAY IPV6", lambda r: clean(r.overlay6)),
    _LAN,
    *_SITE_TAIL,
    Column("ENGINE BECAUSE", lambda r: clean(r.engine_why) or NOTHING),
    Column("PROGRAMS", lambda r: clean(r.programs) or NOTHING),
    Column("RECORD", lambda r: f"incarnation {r.incarnation}, sequence {r.sequence}"),
)
LINKS = (
    Column("LINK", lambda r: clean(r.link)),
    Column("TO", lambda r: clean(r.to)),
    Column("COST", lambda r: measured_cost(r.cost, r.cost_parts), right=True),
    Column("STATE", lambda r: f"{'up' if r.up else 'down'}, {clean(r.state)}"),
    Column("SINCE", lambda r: span(r.since_s), right=True),
    Column("RTT", lambda r: number(r.rtt_ms, "ms", 2), right=True),
    Column("LOSS", lambda r: number(r.loss * 100, "%", 1), right=True),
    Column("TRANSPORT", lambda r: clean(r.transport)),
    Column("HANDSHAKE", lambda r: "-" if r.handshake_s is None else span(r.handshake_s), right=True),
    Column("ENDPOINT", lambda r: clean(r.endpoint) or "-"),
    Column("DEVICE", lambda r: clean(r.device)),
    Column("SERVICE COSTS", lambda r: listing(tuple(f"{s}={c}" for s, c in sorted(r.service_costs.items())))),
    Column("REASON", lambda r: reason(r.reason)),
)
ROUTES = (
    Column("DESTINATION", lambda r: clean(r.destination)),
    Column("SITE", lambda r: clean(r.site)),
    Column("PATH COST", lambda r: str(r.path_cost), right=True),
    Column("NEXT HOPS", lambda r: listing(r.next_hops)),
    Column("INSTALLED", lambda r: yes(r.installed)),
    Column("PROTECTED", lambda r: clean(r.protection)),
    Column("ALTERNATES", lambda r: listing(r.alternates)),
)


# ---- services, listeners, connections --------------------------------------------------------------------------


def _usable(row: shown.ServiceRow) -> str:
    usable = sum(1 for candidate in row.candidates if candidate.reason in ("", Reason.NONE.word))
    return f"{usable} of {len(row.candidates)}"


def _winner(row: shown.ServiceRow) -> str:
    return next((clean(candidate.workload) for candidate in row.candidates if candidate.winner), NOTHING)


SERVICES = (
    Column("SERVICE", lambda r: clean(r.service)),
    Column("PROTOCOL", lambda r: clean(r.protocol)),
    Column("LISTENED HERE", lambda r: yes(r.listened_here)),
    Column("USABLE WORKLOADS", _usable, right=True),
    Column("OPEN HERE", lambda r: str(sum(candidate.open for candidate in r.candidates)), right=True),
    Column("OPEN ELSEWHERE", lambda r: str(sum(candidate.others for candidate in r.candidates)), right=True),
    Column("NEXT", _winner),
)


def _listener_services(row: shown.ListenerRow) -> str:
    """Return the service, or each of several with what it gets now."""
    if len(row.services) < 2:
        return clean(row.service)
    return listing(tuple(f"{share.service} {share.share * 100:.0f}%" for share in row.services))


LISTENERS = (
    Column("SERVICE", _listener_services),
    Column("POLICY", lambda r: clean(r.policy)),
    Column("AFFINITY", lambda r: span(r.affinity_s) if r.affinity_s else NOTHING),
    Column("CLIENT ADDRESS", lambda r: "kept" if r.preserve_client_ip else NOTHING),
    Column("ADDRESS", lambda r: f"[{clean(r.address)}]" if ":" in r.address else clean(r.address)),
    Column("PORT", lambda r: str(r.port), right=True),
    Column("PROTOCOL", lambda r: clean(r.protocol)),
    Column("HEALTHY WORKLOADS", lambda r: str(r.healthy_workloads), right=True),
    Column("IN THE KERNEL", lambda r: listing(r.addresses)),
    Column("REASON", lambda r: reason(r.reason)),
)


def runner_up(row: shown.ConnectionRow) -> str:
    """Return the workload that would have been next, with its perceived cost."""
    return f"{clean(row.runner_up)} at {cost(row.runner_up_perceived)}" if row.runner_up else NOTHING


CONNECTIONS = (
    Column("CLIENT", lambda r: clean(r.client)),
    Column("LISTENER", lambda r: clean(r.listener)),
    Column("SERVICE", lambda r: clean(r.service)),
    Column("PROTOCOL", lambda r: clean(r.protocol)),
    Column("WORKLOAD", lambda r: clean(r.workload)),
    Column("PATH COST", lambda r: str(r.path_cost), right=True),
    Column("PERCEIVED", lambda r: cost(r.perceived), right=True),
    Column("RUNNER-UP", runner_up),
    Column("TABLE", lambda r: str(r.table_version), right=True),
    Column("AGE", lambda r: span(r.age_s), right=True),
    Column("REASON", lambda r: reason(r.reason)),
)
FLOWS = (
    Column("CLIENT", lambda r: clean(r.client)),
    Column("LISTENER", lambda r: clean(r.listener)),
    Column("PROTOCOL", lambda r: clean(r.protocol)),
    Column("KIND", lambda r: clean(r.kind)),
    Column("STATE", lambda r: clean(r.state)),
    Column("SERVICE", lambda r: clean(r.service)),
    Column("WORKLOAD", lambda r: clean(r.workload)),
    Column("TARGET", lambda r: clean(r.target)),
    Column("SEEN FROM", lambda r: clean(r.source)),
    Column("IDLE", lambda r: span(r.idle_s), right=True),
    Column("AGE", lambda r: span(r.age_s), right=True),
)
DROPS = (
    Column("REASON", lambda r: clean(r.reason)),
    Column("COUNT", lambda r: str(r.count), right=True),
    Column("MEANING", lambda r: clean(r.meaning)),
)


def _drained_by(row: shown.DrainRow) -> str:
    by = [clean(row.by)] if row.by else []
    return " and ".join([*by, *(["configuration"] if row.by_configuration else [])])


def _since(row: shown.DrainRow) -> str:
    return NOTHING if row.since is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(row.since))


DRAINS = (
    Column("WHAT", lambda r: clean(r.what)),
    Column("NAME", lambda r: clean(r.name)),
    Column("BY", _drained_by),
    Column("SINCE", _since),
    Column("LISTENERS", lambda r: "closed" if r.entry else NOTHING),
    Column("CONNECTIONS", lambda r: number(r.connections), right=True),
    Column("OLDEST", lambda r: span(r.oldest_s), right=True),
    Column("TRANSIT PAIRS", lambda r: number(r.transit), right=True),
    Column("CUT OFF", lambda r: listing(r.cut_off)),
)
SYNC = (
    Column("SYNCED", lambda r: yes(r.synced)),
    Column("RECORDS", lambda r: str(r.records)),
    Column("WAITING FOR", lambda r: listing(r.waiting_for)),
    Column("RECONCILE RUNS", lambda r: f"{r.reconcile_runs}, {r.reconcile_failures} failed"),
    Column("LAST RECONCILE", lambda r: NOTHING if r.last_reconcile_s is None else f"{span(r.last_reconcile_s)} ago"),
    Column("DIRTY", lambda r: listing(r.dirty)),
    Column("COUNT DRIFT", lambda r: str(r.count_drift)),
    Column("CONFIG ERROR", lambda r: clean(r.config_error)),
)
LISTS = {
    "sites": SITES,
    "links": LINKS,
    "routes": ROUTES,
    "services": SERVICES,
    "listeners": LISTENERS,
    "connections": CONNECTIONS,
    "flows": FLOWS,
    "drops": DROPS,
    "drains": DRAINS,
}


ONE = {"site": ("sites", SITE), "connection": ("connections", CONNECTIONS)}
