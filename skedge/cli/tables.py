"""The one renderer: each document of `skedge.core.api.documents` as a table or as JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from skedge.cli.columns import LISTS, ONE, SYNC, Column, runner_up, sheet, table
from skedge.cli.format import NOTHING, clean, cost, number, reason, span
from skedge.core.api import documents, shown
from skedge.core.model import TERMS, Term
from skedge.core.reasons import Reason

_SEVERITIES = ("error", "warning", "info")


def as_json(document: Any) -> str:
    """Return a document as JSON with its version field; lists that were not asked for are left out."""
    data = msgspec.to_builtins(document)
    if isinstance(document, documents.Rows):
        data = {key: value for key, value in data.items() if value is not None}
    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode()


def rows_text(rows: documents.Rows, what: str) -> str:
    """Return the table of a list as asked for; ``site`` and ``connection`` are one row, printed a line a value."""
    key, columns = ONE.get(what) or (what, LISTS[what])
    items = getattr(rows, key)
    if not items:
        return f"no {key}"
    if what in ONE:
        return "\n\n".join(sheet(columns, row) for row in items)
    text = table(columns, items)
    return text + "\nthere are more; ask for more with --limit" if rows.truncated else text


def placement_text(row: shown.ConnectionRow, when: str) -> str:
    """Return the line of one placement as it is followed."""
    where = f"{when} {clean(row.client)} {clean(row.service)}/{clean(row.protocol)} -> {clean(row.workload)}"
    parts = [where, f"perceived {cost(row.perceived)}", f"path cost {row.path_cost}"]
    if row.runner_up:
        parts.append(f"before {runner_up(row)}")
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


def _is_special(row: shown.ListenerRow) -> bool:
    return len(row.services) > 1 or row.affinity_s > 0


def _listener_line(row: shown.ListenerRow, service: str) -> str:
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
