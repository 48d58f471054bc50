"""What this site forwards by: the RIB, what failed since it was computed, and what is not yet taken over (pure).

A failed link of this site is taken out of all its routes at once, before the network agrees on new paths: what is left
of the next hops serves, or the alternates do. When the new paths are there, a site that an alternate serves meanwhile
is led over one that was not loop-free on the map before only after a delay (RFC 8333): until then others may still
send its packets back. No other site waits, as there each moment is one without a path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from skedge.core.model import LinkId
from skedge.core.records import NetworkMap
from skedge.core.routing import alternates, spf
from skedge.core.routing.alternates import Alternate, Protection
from skedge.core.routing.rib import Path, Rib, from_graph

LOCAL_DELAY_S = 0.5  # all others have new routes by then: see docs/benchmarks.md


@dataclass(frozen=True, slots=True)
class Hops:
    """First links of one site's packets: those in use, and those that serve when none of them is left."""

    links: tuple[LinkId, ...]
    alternates: tuple[LinkId, ...] = ()
    protection: Protection = Protection.NONE


class Forwarding:
    """One site's forwarding. ``now`` is monotonic seconds."""

    def __init__(self, site: str) -> None:
        self.rib = Rib(site, {site: Path(0)})
        self.failed: frozenset[LinkId] = frozenset()
        self.deadline = inf  # when to `release`
        self._alternates: Mapping[str, Alternate] = {}
        self._held: dict[str, tuple[LinkId, ...]] = {}
        self._before: Mapping[str, tuple[tuple[LinkId, ...], frozenset[LinkId]]] = {}
        self._delay_until = -inf

    def follow(self, now: float, failed: frozenset[LinkId]) -> bool:
        """Take over which of this site's links have failed; return whether routes must change before paths do."""
        new, self.failed = failed - self.failed, failed
        if not new:
            return False
        self._before = {
            site: (left, one.safe)
            for site, one in self._alternates.items()
            if not new.isdisjoint(self.rib.next_hops(site)) and (left := self._left(site))
        }
        self._delay_until = now + LOCAL_DELAY_S
        return any(not new.isdisjoint(path.next_hops) for path in self.rib.paths.values())

    def recompute(self, now: float, network_map: NetworkMap) -> None:
        """Compute paths and alternates over a new map."""
        graph = spf.build(network_map)
        self.rib = from_graph(graph, self.rib.site)
        self._alternates = alternates.compute(graph, self.rib)
        waiting = self._before if now < self._delay_until else {}
        self._held = {
            site: detour
            for site, (detour, safe) in waiting.items()
            if (links := self.rib.next_hops(site)) and not safe.issuperset(links)
        }
        self.deadline = self._delay_until if self._held else inf

    def release(self, now: float) -> bool:
        """Take over what had to wait until ``now``; return whether anything had."""
        if now < self.deadline:
            return False
        self._held, self.deadline = {}, inf
        return True

    def hops(self) -> Mapping[str, Hops]:
        """Return the first links towards every other site that can be reached.

        A site that nothing is left for keeps its next hops: what is sent meanwhile is lost, and nobody is told that
        there is no way, as there may be one in a moment.
        """
        return {site: self._hops(site) for site in self.rib.paths if site != self.rib.site}

    def _hops(self, site: str) -> Hops:
        one = self._alternates.get(site, Alternate())
        if held := tuple(link for link in self._held.get(site, ()) if link not in self.failed):
            return Hops(held)
        if self.failed.isdisjoint(self.rib.next_hops(site)):
            spare = tuple(link for link in one.links if link not in self.failed)
            return Hops(self.rib.next_hops(site), spare, one.protection if spare == one.links else Protection.NONE)
        return Hops(self._left(site) or self.rib.next_hops(site))

    def _left(self, site: str) -> tuple[LinkId, ...]:
        """Return what serves a site when its failed links are taken away."""
        spare = self._alternates.get(site, Alternate()).links
        for links in (self.rib.next_hops(site), spare):
            if left := tuple(link for link in links if link not in self.failed):
                return left
        return ()
