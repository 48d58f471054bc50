"""Problems with their age: what `skedge status` prints, worst first."""

from __future__ import annotations

from dataclasses import dataclass

from skedge.core.api.documents import Problem

_ORDER = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True)
class Finding:
    """A problem as found now; ``what`` identifies it, so that its age is known from one look to the next."""

    severity: str
    what: str
    cause: str


class Problems:
    """Remembers since when each finding holds."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def update(self, now: float, findings: list[Finding]) -> tuple[Problem, ...]:
        """Return the findings as problems, worst and oldest first; those not found any more are forgotten."""
        self._since = {finding.what: self._since.get(finding.what, now) for finding in findings}
        rows = [Problem(f.severity, f.what, f.cause, now - self._since[f.what]) for f in findings]
        return tuple(sorted(rows, key=lambda row: (_ORDER[row.severity], -row.since_s, row.what)))
