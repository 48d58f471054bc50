"""What is known of each link of this site, put together from probes and adjacency (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from skedge.control.liveness.detector import LinkStats
from skedge.core.linkstate.adjacency import AdjacencyState, AdjacencyView, link_in_use
from skedge.core.linkstate.measured_cost import CostParts
from skedge.core.linkstate.own_records import Liveness
from skedge.core.model import LinkId
from skedge.core.reasons import Reason

VERDICT_PROBES = 10  # so many probes without an answer after the start are an answer too
REBOOT_S = 3.0  # a link that was silent for so long may have a host at its far end that booted
NO_COSTS: Mapping[LinkId, CostParts] = {}
LAST_RESORT = frozenset({Reason.TCP_DROPPED, Reason.TCP_PROHIBITED})


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """One link as measured and spoken over; ``since`` is monotonic seconds of the last change of ``up``.

    ``last_resort`` is why a link that is up is used only where no other path is, NONE where it is like others.
    """

    up: bool = False
    reason: Reason = Reason.PROBE_LOST
    adjacency: str = AdjacencyState.DOWN.value
    rtt_us: int = 0
    loss: float = 0.0
    sent: int = 0
    received: int = 0
    since: float = 0.0
    unsent: int = 0
    unsent_errno: int = 0
    last_resort: Reason = Reason.NONE


def facts(stats: Mapping[LinkId, LinkStats], adjacencies: Mapping[LinkId, AdjacencyView]) -> Mapping[LinkId, LinkFacts]:
    """Return what is known of every link that is probed."""
    return {link: _facts(one, adjacencies.get(link)) for link, one in stats.items()}


def _facts(stats: LinkStats, adjacency: AdjacencyView | None) -> LinkFacts:
    up = _answers(stats)
    return LinkFacts(
        up=up,
        reason=Reason.NONE if up else stats.tcp if stats.up else stats.reason,
        adjacency=adjacency.state.value if adjacency else AdjacencyState.DOWN.value,
        rtt_us=stats.rtt_us,
        loss=stats.loss,
        sent=stats.sent,
        received=stats.received,
        since=stats.since,
        unsent=stats.unsent,
        unsent_errno=stats.unsent_errno,
        last_resort=stats.tcp if stats.tcp in LAST_RESORT else Reason.NONE,
    )


def _answers(stats: LinkStats) -> bool:
    """Tell whether both ends hear each other: a neighbour that runs and hangs up at once does not hear us."""
    return stats.up and stats.tcp is not Reason.ONE_WAY


def used(
    stats: Mapping[LinkId, LinkStats],
    adjacencies: Mapping[LinkId, AdjacencyView],
    now: float,
    hold_s: float,
    costs: Mapping[LinkId, CostParts] = NO_COSTS,
) -> dict[LinkId, Liveness]:
    """Return what this site says of its links: up only where the far kernel answers and its controller was heard.

    Where probes are answered and TCP does not pass, the link is a last resort, for as long as that lasts.

    A link that was never full since this controller started has ``full_until`` at its start, so a restart keeps
    what the life before used for the hold time; `synced` decides when this is said at all. One that was silent so long
    that its far host may have booted is used when it is full again: before, nobody knows what that host has.
    """
    return {
        link: Liveness(
            link_in_use(
                adjacency,
                answers=_answers(one) and not _may_have_booted(one, adjacency),
                now=now,
                hold_s=hold_s,
                last_resort=one.tcp in LAST_RESORT,
            ),
            one.rtt_us,
            one.tcp in LAST_RESORT,
            costs[link].total if link in costs else 0,
        )
        for link, one in stats.items()
        if (adjacency := adjacencies.get(link)) is not None
    }


def _may_have_booted(stats: LinkStats, adjacency: AdjacencyView) -> bool:
    return stats.outage_s >= REBOOT_S and adjacency.full_until < stats.since and stats.tcp not in LAST_RESORT


def uses(links: Mapping[LinkId, Liveness]) -> Mapping[LinkId, tuple[bool, bool, int]]:
    """Return of each link what decides over paths: is it up, is it a last resort, its measured cost."""
    return {link: (one.up, one.last_resort, one.cost) for link, one in links.items()}


def measured(stats: Mapping[LinkId, LinkStats]) -> Mapping[LinkId, tuple[int, float]]:
    """Return round trip in µs and loss 0..1 of the links that are up."""
    return {link: (one.rtt_us, one.loss) for link, one in stats.items() if one.up}


def waiting(
    configured: Mapping[LinkId, str],
    stats: Mapping[LinkId, LinkStats],
    adjacencies: Mapping[LinkId, AdjacencyView],
) -> frozenset[LinkId]:
    """Return the links whose far kernel answers and whose controller was not heard yet: sync waits for them.

    Not where dialling has told that it will not be heard.
    """
    return frozenset(
        link
        for link in configured
        if (one := stats.get(link)) is not None
        and one.up
        and one.tcp is Reason.NONE
        and ((adjacency := adjacencies.get(link)) is None or adjacency.state is not AdjacencyState.FULL)
    )


def undecided(configured: Mapping[LinkId, str], stats: Mapping[LinkId, LinkStats]) -> frozenset[LinkId]:
    """Return the links whose probes have not yet told up from down."""
    return frozenset(
        link
        for link in configured
        if (one := stats.get(link)) is None or (not one.up and one.sent + one.unsent < VERDICT_PROBES)
    )
