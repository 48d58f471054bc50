"""What has yet to be said or applied, and which event makes it so (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, Flag, auto
from typing import Final


class Dirty(Flag):
    """What no longer is what was last said, or told to the kernel."""

    LINKS_RECORD = auto()  # this site's record of itself and its links
    SERVICES_RECORD = auto()  # this site's record of what it offers and listens to
    KERNEL = auto()  # the desired state
    LOADS = auto()  # the other sites' load, when all of them had the time to report
    REPORTED = auto()  # the other sites' load, of those that did report


class Event(Enum):
    """What happened."""

    CONFIGURED = auto()  # a configuration is in force
    BALANCING = auto()
    SYNCED = auto()
    DELETING = auto()
    USABLE = auto()  # this site may be used now, or from now on not
    LINKS = auto()  # links came up or went down, or their round trip is to be said again
    PATHS = auto()  # paths were computed
    REROUTED = auto()  # routes lead another way, and paths are as they were
    ADDRESSES = auto()  # the host's addresses changed
    HEALTH = auto()  # a workload of this site became well or ill
    SUSPENSIONS = auto()  # the data plane suspended a workload, or ended that
    LOADS = auto()  # another site reported its load


RECORDS: Final = Dirty.LINKS_RECORD | Dirty.SERVICES_RECORD
MAKES_DIRTY: Final[Mapping[Event, Dirty]] = {
    Event.CONFIGURED: RECORDS | Dirty.KERNEL | Dirty.LOADS,
    Event.BALANCING: Dirty.KERNEL,
    Event.SYNCED: RECORDS | Dirty.KERNEL,
    Event.DELETING: Dirty.KERNEL,
    Event.USABLE: Dirty.LINKS_RECORD,
    Event.LINKS: Dirty.LINKS_RECORD,
    Event.PATHS: Dirty.LINKS_RECORD | Dirty.KERNEL | Dirty.LOADS,  # which prefixes are refused may have changed
    Event.REROUTED: Dirty.KERNEL,
    Event.ADDRESSES: RECORDS | Dirty.KERNEL,
    Event.HEALTH: Dirty.SERVICES_RECORD | Dirty.KERNEL,
    Event.SUSPENSIONS: Dirty.KERNEL,
    Event.LOADS: Dirty.LOADS | Dirty.REPORTED,
}


class Marks:
    """The flags that are set now."""

    def __init__(self) -> None:
        self._set = Dirty(0)

    def note(self, event: Event) -> None:
        """Set what an event makes dirty."""
        self._set |= MAKES_DIRTY[event]

    def has(self, flags: Dirty) -> bool:
        """Tell whether any of these flags is set."""
        return bool(self._set & flags)

    def take(self, flags: Dirty) -> Dirty:
        """Clear these flags; return which of them were set."""
        taken = self._set & flags
        self._set &= ~flags
        return taken
