"""The one renderer: each document of `skedge.core.api.documents` as a table or as JSON."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from tabulate import tabulate

from skedge.cli.format import NOTHING, clean, cost, listing, measured_cost, number, reason, span, yes
from skedge.core.api import documents
from skedge.core.model import TERMS, Term
from skedge.core.reasons import Reason

_SEVERITIES = ("error", "warning", "info")


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


def as_json(document: Any) -> str:
    """Return a document as JSON with its version field; lists that were not asked for are left out."""
    data = msgspec.to_builtins(document)
    if isinstance(document, documents.Rows):
        data = {key: value for key, value in data.items() if value is not None}
    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode()


# ---- sites, links, routes --------------------------------------------------------------------------------------


def _site_state(row: documents.SiteRow) -> str:
    if not row.reachable:
        return "unreachable"
    flags = [name for name, on in (("drain", row.drain), ("overload", row.overload)) if on]
    return ", ".join(flags) or "ok"


def _certificate(row: documents.SiteRow) -> str:
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


def _usable(row: documents.ServiceRow) -> str:
    usable = sum(1 for candidate in row.candidates if candidate.reason in ("", Reason.NONE.word))
    return f"{usable} of {len(row.candidates)}"


def _winner(row: documents.ServiceRow) -> str:
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


def _listener_services(row: documents.ListenerRow) -> str:
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


def _runner_up(row: documents.ConnectionRow) -> str:
    return f"{clean(row.runner_up)} at {cost(row.runner_up_perceived)}" if row.runner_up else NOTHING


CONNECTIONS = (
    Column("CLIENT", lambda r: clean(r.client)),
    Column("LISTENER", lambda r: clean(r.listener)),
    Column("SERVICE", lambda r: clean(r.service)),
    Column("PROTOCOL", lambda r: clean(r.protocol)),
    Column("WORKLOAD", lambda r: clean(r.workload)),
    Column("PATH COST", lambda r: str(r.path_cost), right=True),
    Column("PERCEIVED", lambda r: cost(r.perceived), right=True),
    Column("RUNNER-UP", _runner_up),
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


def _drained_by(row: documents.DrainRow) -> str:
    by = [clean(row.by)] if row.by else []
    return " and ".join([*by, *(["configuration"] if row.by_configuration else [])])


def _since(row: documents.DrainRow) -> str:
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
_LISTS = {
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


_ONE = {"site": ("sites", SITE), "connection": ("connections", CONNECTIONS)}


def rows_text(rows: documents.Rows, what: str) -> str:
    """Return the table of a list as asked for; ``site`` and ``connection`` are one row, printed a line a value."""
    key, columns = _ONE.get(what) or (what, _LISTS[what])
    items = getattr(rows, key)
    if not items:
        return f"no {key}"
    if what in _ONE:
        return "\n\n".join(sheet(columns, row) for row in items)
    text = table(columns, items)
    return text + "\nthere are more; ask for more with --limit" if rows.truncated else text


def placement_text(row: documents.ConnectionRow, when: str) -> str:
    """Return the line of one placement as it is followed."""
    where = f"{when} {clean(row.client)} {clean(row.service)}/{clean(row.protocol)} -> {clean(row.workload)}"
    parts = [where, f"perceived {cost(row.perceived)}", f"path cost {row.path_cost}"]
    if row.runner_up:
        parts.append(f"before {_runner_up(row)}")
    if row.reason != Reason.NONE.word:
        parts.append(row.reason)
    return ", ".join(parts)


def sync_text(sync: documents.Sync) -> str:
    """Return `show sync`."""
    return sheet(SYNC, sync)


# ---- status, explain, plan -------------------------------------------------------------------------------------

_PROBLEMS = (
    Column("SEVERITY", lambda r: clean(r.severity)),
    Column("WHAT", lambda r: clean(r.what)),
    Column("CAUSE", lambda r: clean(r.cause)),
    Column("SINCE", lambda r: span(r.since_s), right=True),
)


def status_text(status: documents.Status) -> str:
    """Return the state in one line and one line a problem, the worst first."""
    states = (("live", status.live), ("ready", status.ready), ("synced", status.synced))
    first = f"{clean(status.site)}: " + ", ".join(name if on else f"not {name}" for name, on in states)
    if status.reachable:
        first += f"; {status.protected} of {status.reachable} sites protected"
    if not status.problems:
        return f"{first}; no problems"
    worst_first = sorted(
        status.problems, key=lambda p: _SEVERITIES.index(p.severity) if p.severity in _SEVERITIES else 0
    )
    return f"{first}\n{table(_PROBLEMS, worst_first)}"


def _term(term: Term) -> Column:
    return Column(term.name.replace("_", " ").upper(), lambda r: str(getattr(r, term.name)), right=True)


_TERMS = tuple(_term(term) for term in TERMS)
_CANDIDATES = (
    Column("", lambda r: "->" if r.winner else ""),
    Column("WORKLOAD", lambda r: clean(r.workload)),
    Column("PATH", lambda r: " > ".join(clean(site) for site in r.path) or NOTHING),
    Column("PATH COST", lambda r: number(r.path_cost), right=True),
    Column("OPEN HERE", lambda r: str(r.open), right=True),
    Column("OPEN ELSEWHERE", lambda r: str(r.others), right=True),
    Column("REPORT AGE", lambda r: span(r.others_age_s), right=True),
    *_TERMS,
    Column("PERCEIVED", lambda r: NOTHING if r.path_cost is None else cost(r.perceived), right=True),
    Column("TARGET", lambda r: clean(r.target)),
    Column("OUT BECAUSE", lambda r: reason(r.reason) + (f" ({clean(r.cause)})" if r.cause else "")),
)


def explain_text(explain: documents.Explain) -> str:
    """Return where the next connection goes and every candidate with each part of its perceived cost."""
    service, site = clean(explain.service), clean(explain.site)
    if explain.winner is not None:
        first = f"the next connection to {service} from {site} goes to {clean(explain.winner)}"
    else:
        first = f"a connection to {service} from {site} is refused ({reason(explain.reason)})"
    lines = [first, *(_listener_line(row, explain.service) for row in explain.listeners if _is_special(row))]
    text = "\n".join(lines)
    return f"{text}\n\n{table(_CANDIDATES, explain.candidates)}" if explain.candidates else text


def _is_special(row: documents.ListenerRow) -> bool:
    return len(row.services) > 1 or row.affinity_s > 0


def _listener_line(row: documents.ListenerRow, service: str) -> str:
    """Return what a listener with several services, or with affinity, means for a service, in one line."""
    address = f"[{row.address}]" if ":" in row.address else row.address
    parts = []
    if len(row.services) > 1:
        share = sum(one.share for one in row.services if one.service == service)
        parts.append(f"policy {row.policy}, {share * 100:.0f}% of its new connections come to {service} now")
    if row.affinity_s:
        parts.append(f"a client keeps its workload for {span(row.affinity_s)}")
    return clean(f"listener {address}:{row.port}/{row.protocol}: {'; '.join(parts)}")


_STEPS = (
    Column("ACTION", lambda r: clean(r.action)),
    Column("KIND", lambda r: clean(r.kind)),
    Column("KEY", lambda r: clean(r.key)),
    Column("BEFORE", lambda r: clean(r.before)),
    Column("AFTER", lambda r: clean(r.after)),
)


def plan_text(plan: documents.PlanReport) -> str:
    """Return every change that a reconcile run would make, in its order."""
    return table(_STEPS, plan.steps) if plan.steps else "nothing would change"
