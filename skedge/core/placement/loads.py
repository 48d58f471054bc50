"""The other sites' open connections, as they last reported them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from skedge.core.model import WorkloadId
from skedge.core.records import LoadReport
from skedge.core.routing.rib import Rib


@dataclass(frozen=True)
class Heard:
    """A load report and when it came (monotonic seconds)."""

    report: LoadReport
    at: float


def reporters(heard: Mapping[str, Heard], rib: Rib) -> tuple[Heard, ...]:
    """Return the last report of every other site that is reachable; a dead site's contribution ends with it."""
    return tuple(one for site, one in heard.items() if site in rib.paths and site != rib.site)


def oldest_age(reports: Collection[Heard], workload: WorkloadId, now: float) -> float | None:
    """Return the age in seconds of the oldest report that counts connections to a workload; None when none does."""
    return max((now - one.at for one in reports if one.report.open.get(workload)), default=None)
