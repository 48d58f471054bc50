"""The life of a controller as a machine (pure): when it balances, when it speaks, when it deletes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from math import inf

HEALTH_WAIT_S = 2.0  # how long the first health verdicts may delay what this site says
PROBE_WAIT_S = 3.0  # how long a link without any verdict may delay being in sync
UNSYNCED_LOOK_S = 0.05
DELETE_WAIT_S = 1.0  # after sync: sites that restarted at the same time may still be about to speak
ARRIVE_WAIT_S = 30.0  # after sync: a site whose routes or endpoints fail for so long takes part all the same
LOAD_WAIT_S = 2.0  # after sync every site has reported: until then no number goes below what was found


class Phase(IntEnum):
    """How far a life has come. A later phase allows all that an earlier one does; none is ever gone back from."""

    STARTED = 0  # the kernel gets all but services, listeners and endpoints: those stay as they were found
    BALANCING = 1  # the health of own workloads is known: these are applied too
    SYNCED = 2  # the neighbours were heard: this site speaks for itself
    DELETING = 3  # what is not desired is deleted from the kernel


@dataclass(frozen=True, slots=True)
class Seen:
    """What a life depends on, at one moment; ``hold_s`` is the longest wait for a neighbour, in seconds."""

    health_known: bool  # every checked workload of this site has a verdict
    waiting: bool  # a link's far kernel answers, and its controller was not heard yet
    undecided: bool  # the probes of a link have not yet told up from down
    hold_s: float
    reachable: bool = True  # the kernel has the routes and endpoints that are wanted


@dataclass(frozen=True, slots=True)
class Life:
    """One life, from the start of the process to its end; times are monotonic seconds."""

    started: float
    phase: Phase = Phase.STARTED
    synced_at: float = inf
    ready: bool = False  # the kernel has been made so at least once since balancing began
    arriving: bool = False  # the host had nothing of ours at the start: nobody may use this site yet

    @property
    def balancing(self) -> bool:
        """Tell whether services and listeners are this controller's."""
        return self.phase >= Phase.BALANCING

    @property
    def synced(self) -> bool:
        """Tell whether every configured adjacency was heard, or will not be."""
        return self.phase >= Phase.SYNCED

    @property
    def deleting(self) -> bool:
        """Tell whether what is not desired may be deleted."""
        return self.phase >= Phase.DELETING

    @property
    def speaks(self) -> bool:
        """Tell whether this site speaks for itself: before sync only to say that it may not be used yet."""
        return self.synced or self.arriving

    def age(self, now: float) -> float:
        """Return the seconds since the start."""
        return now - self.started

    def step(self, now: float, seen: Seen) -> Life:
        """Return this life as it is now. It may pass through several phases at once."""
        life, known = self, seen.health_known or self.age(now) > HEALTH_WAIT_S
        if life.phase is Phase.STARTED and known:
            life = replace(life, phase=Phase.BALANCING)
        if life.phase is Phase.BALANCING and known and not self._waits(now, seen):
            life = replace(life, phase=Phase.SYNCED, synced_at=now)
        if life.phase is Phase.SYNCED and now >= life.synced_at + DELETE_WAIT_S:
            life = replace(life, phase=Phase.DELETING)
        return replace(life, arriving=life.arriving and not self._arrives(now, seen))

    def _arrives(self, now: float, seen: Seen) -> bool:
        """Tell whether this site may be used; the routes that are looked at are those of after sync."""
        return self.synced and self.ready and (seen.reachable or now >= self.synced_at + ARRIVE_WAIT_S)

    def _waits(self, now: float, seen: Seen) -> bool:
        undecided = seen.undecided and self.age(now) < PROBE_WAIT_S
        return (seen.waiting or undecided) and self.age(now) < seen.hold_s

    def applied(self) -> Life:
        """Return this life after a reconcile run."""
        return replace(self, ready=True) if self.balancing and not self.ready else self

    def loads_whole(self, now: float) -> bool:
        """Tell whether every site had the time to report its load: numbers may go below what was found."""
        return now >= self.synced_at + LOAD_WAIT_S

    def deadline(self, now: float, *, loads: bool) -> float:
        """Return when to step again at the latest; ``loads`` says that reported load waits to be whole."""
        return min(
            inf if self.synced and not self.arriving else now + UNSYNCED_LOOK_S,
            self.synced_at + DELETE_WAIT_S if not self.deleting else inf,
            self.synced_at + LOAD_WAIT_S if loads else inf,
        )


def entered(before: Life, after: Life) -> tuple[Phase, ...]:
    """Return the phases that came between two looks at a life, in order."""
    return tuple(phase for phase in Phase if before.phase < phase <= after.phase)
