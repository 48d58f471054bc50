"""When to send which site a load report, and what to believe of those that come: pure, ``now`` is monotonic seconds.

On change at once, at most 5 a second to one site and 200 datagrams a second in all (so with many sites the interval
grows); every second while anything is open, and now and then afterwards, so that a lost datagram heals. A site is told
of "nothing open" too when it is new here: it may hold what this site said in an earlier life.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from math import inf

from skedge.core.linkstate.pacing import TokenBucket
from skedge.core.model import WorkloadId
from skedge.core.reasons import Reason
from skedge.core.records import LoadReport, Version

SITE_INTERVAL_S = 0.2
RATE = 160.0  # datagrams a second; with the burst and as much debt, never more than 200 within one
BURST = 20.0
REPEAT_S = 1.0  # while anything is open
CLOSED_REPEATS = 5  # so many repeats after the last connection closed, then only every QUIET_S
QUIET_S = 30.0
BATCH = BURST / 2
ENTRIES_EACH = 30  # workloads that fit into a datagram, about

Counts = Mapping[WorkloadId, int]


@dataclass(slots=True)
class _Listening:
    """One site that is told: the services it listens to, and what it was sent."""

    services: frozenset[str]
    sent_at: float = -inf
    dirty: bool = True
    empty_sent: int = 0  # reports in a row that said "nothing open"
    ever: bool = False  # was something reported that may need healing


@dataclass(slots=True)
class LoadSchedule:
    """What this site's open connections are, who is to know, and when."""

    _sites: dict[str, _Listening] = field(default_factory=dict)
    _counts: dict[str, dict[WorkloadId, int]] = field(default_factory=dict)  # service -> workload -> open, > 0 only
    _bucket: TokenBucket = field(default_factory=lambda: TokenBucket(RATE, BURST))

    def set_sites(self, sites: Mapping[str, Set[str]]) -> None:
        """Set who listens to what (site -> services), this site left out."""
        for site in set(self._sites) - set(sites):
            del self._sites[site]
        for site, services in sites.items():
            known = self._sites.get(site)
            if known is None:
                self._sites[site] = _Listening(frozenset(services))
            elif known.services != services:
                known.services, known.dirty = frozenset(services), True

    def set_counts(self, counts: Mapping[str, Counts]) -> None:
        """Set this site's own open connections: service -> workload -> open. Everything not named is 0."""
        new = {name: {load: n for load, n in loads.items() if n > 0} for name, loads in counts.items()}
        new = {name: loads for name, loads in new.items() if loads}
        changed = {name for name in self._counts.keys() | new.keys() if self._counts.get(name) != new.get(name)}
        self._counts = new
        for listening in self._sites.values():
            if not changed.isdisjoint(listening.services):
                listening.dirty = True

    def content(self, site: str) -> dict[WorkloadId, int]:
        """Return what a site is to be told: all open connections of the services it listens to."""
        services = sorted(self._sites[site].services)
        return {load: n for service in services for load, n in self._counts.get(service, {}).items()}

    def due(self, now: float) -> list[str]:
        """Return the sites to send to now, longest waiting first, within the rates. Then tell `sent` of each."""
        waiting = sorted((self._at(listening), name) for name, listening in self._sites.items())
        due: list[str] = []
        cost = 0
        for at, name in waiting:
            cost += self._cost(self._sites[name])
            if at > now or not self._bucket.has(now, cost) or (due and cost > BURST):
                break
            due.append(name)
        return due

    def sent(self, site: str, now: float, datagrams: int) -> None:
        """Note that a site was sent its content in so many datagrams."""
        listening = self._sites.get(site)
        self._bucket.charge(now, datagrams)
        if listening is None:
            return
        empty = not self.content(site)
        listening.empty_sent = listening.empty_sent + 1 if empty else 0
        listening.ever = listening.ever or not empty
        listening.sent_at, listening.dirty = now, False

    def wake_at(self, now: float) -> float:
        """Return when `due` has something next (inf: not before a change); several at a time while rates hold it up."""
        first, _name, cost = min(
            ((self._at(listening), name, self._cost(listening)) for name, listening in self._sites.items()),
            default=(inf, "", 0),
        )
        if first > now or self._bucket.has(now, cost):
            return first
        return self._bucket.when(now, max(cost, BATCH))

    def _cost(self, listening: _Listening) -> int:
        """Return about how many datagrams a report takes."""
        return 1 + sum(len(self._counts.get(service, ())) for service in listening.services) // ENTRIES_EACH

    def _at(self, listening: _Listening) -> float:
        """Return when a site is to be sent to next."""
        spacing = max(SITE_INTERVAL_S, self._cost(listening) * len(self._sites) / RATE)
        open_ = any(service in self._counts for service in listening.services)
        if listening.dirty:
            return listening.sent_at + spacing
        if open_ or listening.empty_sent <= CLOSED_REPEATS:
            return listening.sent_at + max(REPEAT_S, spacing)
        return listening.sent_at + QUIET_S if listening.ever else inf


@dataclass(slots=True)
class _Heard:
    """What one site last reported."""

    version: Version
    at: float = -inf
    open: Counts = field(default_factory=dict)
    parts: dict[int, Counts] = field(default_factory=dict)  # of a newer report that is not complete
    parts_version: Version | None = None


@dataclass(slots=True)
class LoadBook:
    """What the other sites last reported: a site's last word holds until `forget`."""

    _heard: dict[str, _Heard] = field(default_factory=dict)

    def part(self, site: str, version: Version, number: int, parts: int, open_: Counts, now: float) -> Reason:
        """Note part ``number`` of ``parts`` of a site's report; it counts once complete.

        Returns NONE when it was taken, STALE when older than what is held, BAD_FRAME when it makes no sense.
        """
        if not 0 <= number < parts:
            return Reason.BAD_FRAME
        heard = self._heard.setdefault(site, _Heard(Version(-1, 0)))
        if version <= heard.version or (heard.parts_version and version < heard.parts_version):
            return Reason.STALE
        if heard.parts_version != version:
            heard.parts_version, heard.parts = version, {}
        heard.parts[number] = open_
        if len(heard.parts) == parts:
            merged: dict[WorkloadId, int] = {}
            for each in heard.parts.values():
                merged.update(each)
            heard.version, heard.at, heard.open = version, now, merged
            heard.parts_version, heard.parts = None, {}
        return Reason.NONE

    def reports(self) -> Mapping[str, LoadReport]:
        """Return the last complete report of every site."""
        return {
            site: LoadReport(site, heard.version, heard.open) for site, heard in self._heard.items() if heard.at > -inf
        }

    def open(self, site: str) -> Counts:
        """Return what a site last reported, empty when nothing."""
        heard = self._heard.get(site)
        return heard.open if heard else {}

    def age(self, site: str, now: float) -> float | None:
        """Return how many seconds ago a site reported, None when it has not."""
        heard = self._heard.get(site)
        return None if heard is None or heard.at == -inf else now - heard.at

    def forget(self, site: str) -> bool:
        """Drop what an unreachable site said; its version stays, so that old datagrams do. Tell whether it matters."""
        heard = self._heard.get(site)
        if heard is None:
            return False
        mattered = bool(heard.open)
        heard.at, heard.open, heard.parts, heard.parts_version = -inf, {}, {}, None
        return mattered
