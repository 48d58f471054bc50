"""What is known of each link of this site, put together from probes and adjacency (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from skedge.control.liveness.detector import LinkStats
from skedge.core.linkstate.adjacency import AdjacencyState, AdjacencyView, link_in_use
from skedge.core.linkstate.own_records import Liveness
from skedge.core.model import LinkId
from skedge.core.reasons import Reason

VERDICT_PROBES = 10  # so many probes without an answer after the start are an answer too


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """One link as measured and spoken over; ``since`` is monotonic seconds of the last change of ``up``."""

    up: bool = False
    reason: Reason = Reason.PROBE_LOST
    adjacency: str = AdjacencyState.DOWN.value
    rtt_us: int = 0
    loss: float = 0.0
    sent: int = 0
    received: int = 0
    since: float = 0.0


def facts(stats: Mapping[LinkId, LinkStats], adjacencies: Mapping[LinkId, AdjacencyView]) -> Mapping[LinkId, LinkFacts]:
    """Return what is known of every link that is probed."""
    return {link: _facts(one, adjacencies.get(link)) for link, one in stats.items()}


def _facts(stats: LinkStats, adjacency: AdjacencyView | None) -> LinkFacts:
    return LinkFacts(
        up=stats.up,
        reason=stats.reason if not stats.up else Reason.NONE,
        adjacency=adjacency.state.value if adjacency else AdjacencyState.DOWN.value,
        rtt_us=stats.rtt_us,
        loss=stats.loss,
        sent=stats.sent,
        received=stats.received,
        since=stats.since,
    )


def used(
    stats: Mapping[LinkId, LinkStats], adjacencies: Mapping[LinkId, AdjacencyView], now: float, hold_s: float
) -> dict[LinkId, Liveness]:
    """Return what this site says of its links: up only where the far kernel answers and its controller was heard.

    A link that was never full since this controller started has ``full_until`` at its start, so a restart keeps
    what the life before used for the hold time; `synced` decides when this is said at all.
    """
    return {
        link: Liveness(link_in_use(adjacency, answers=one.up, now=now, hold_s=hold_s), one.rtt_us)
        for link, one in stats.items()
        if (adjacency := adjacencies.get(link)) is not None
    }


def ups(links: Mapping[LinkId, Liveness]) -> Mapping[LinkId, bool]:
    """Return which of the links are up."""
    return {link: one.up for link, one in links.items()}


def waiting(
    configured: Mapping[LinkId, str],
    stats: Mapping[LinkId, LinkStats],
    adjacencies: Mapping[LinkId, AdjacencyView],
) -> frozenset[LinkId]:
    """Return the links whose far kernel answers and whose controller was not heard yet: sync waits for them."""
    return frozenset(
        link
        for link in configured
        if (one := stats.get(link)) is not None
        and one.up
        and ((adjacency := adjacencies.get(link)) is None or adjacency.state is not AdjacencyState.FULL)
    )


def undecided(configured: Mapping[LinkId, str], stats: Mapping[LinkId, LinkStats]) -> frozenset[LinkId]:
    """Return the links whose probes have not yet told up from down."""
    return frozenset(
        link for link in configured if (one := stats.get(link)) is None or (not one.up and one.sent < VERDICT_PROBES)
    )
