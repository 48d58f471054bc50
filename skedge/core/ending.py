"""Ending connections on purpose: which ones (`Selection`), why, and how many a second (`Ending`). Pure.

A connection has two ends: *near*, the socket of this host or what a flow of the LAN looks like from here, and *far*.
The parts of the data plane that hold connections (`Ender`) find and end them; what is meant is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Protocol as Interface

from skedge.core.model import Protocol
from skedge.core.objects import Target
from skedge.core.reasons import Reason
from skedge.core.routing.overlay_addresses import SiteAddresses

RATE = 1000  # a second: 10,000 clients of a database do not come back in one moment
BATCH_S = 0.1


@dataclass(frozen=True, slots=True, order=True)
class Ends:
    """A pattern for both ends: each an address or ``addr/len`` ("" is any) and a port (0 is any).

    One that names nothing would mean every connection of the host: ValueError.
    """

    near: str = ""
    near_port: int = 0
    far: str = ""
    far_port: int = 0

    def __post_init__(self) -> None:
        if not (self.near or self.near_port or self.far or self.far_port):
            raise ValueError("names neither end")

    def meet(self, near: Target, far: Target) -> bool:
        """Return whether a connection with these ends is meant."""
        return _meets(self.near, self.near_port, near) and _meets(self.far, self.far_port, far)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which connections are meant: those that meet one of ``ends`` and for which all the rest holds.

    ``silent_since``: nothing was heard of the far end since then (monotonic seconds). ``connecting``: those that were
    not answered yet, in the place of those that were.
    """

    ends: tuple[Ends, ...]
    protocol: Protocol = Protocol.TCP
    silent_since: float | None = None
    connecting: bool = False

    def means(self, one: Open) -> bool:
        """Return whether a connection is meant."""
        return (
            one.protocol is self.protocol
            and one.connecting is self.connecting
            and (self.silent_since is None or one.heard_at < self.silent_since)
            and any(ends.meet(*sides) for sides in one.sides for ends in self.ends)
        )


@dataclass(frozen=True, slots=True)
class Ending:
    """An order to end connections: ``what`` names them in the log, at most ``rate`` a second."""

    selection: Selection
    reason: Reason
    what: str
    rate: int = RATE


@dataclass(frozen=True, slots=True)
class Open:
    """A connection as the one that holds it sees it.

    ``sides`` are near and far end; a flow that is translated has two such pairs, towards its client and towards its
    workload. ``heard_at``: when the far end was last heard, ``active_at``: when either end last said something
    (monotonic seconds). ``key`` is its holder's own.
    """

    sides: tuple[tuple[Target, Target], ...]
    heard_at: float
    active_at: float
    protocol: Protocol = Protocol.TCP
    connecting: bool = False
    key: object = None


class Ender(Interface):
    """What holds connections and can end them: sockets of the host, the flow table."""

    def find(self, selection: Selection) -> Sequence[Open]:
        """Return the connections that are meant. Raises DataplaneError."""
        ...

    def end(self, found: Sequence[Open]) -> int:
        """End those that are still there, and return how many; both ends are told. Raises DataplaneError."""
        ...


def of_site(there: SiteAddresses, prefixes: Iterable[str], here: SiteAddresses) -> tuple[Ends, ...]:
    """Return the ends of all connections to and from another site.

    Args:
        there: its addresses.
        prefixes: its LANs, whose clients may come under their own addresses; those that count here.
        here: this site's addresses: what such a client is connected to.
    """
    overlay = {Ends(far=address) for address in (there.v4, there.v6, there.nat4, there.nat6) if address}
    own = {4: here.v4, 6: here.v6}
    lans = {Ends(near=own[ip_network(one).version], far=one) for one in prefixes if own[ip_network(one).version]}
    return (*sorted(overlay), *sorted(lans))


def of_workload(reached: Iterable[Target], serves: Iterable[Target] = ()) -> tuple[Ends, ...]:
    """Return the ends of a workload's connections.

    Args:
        reached: where it is reached from here: its endpoint, or the server of this site.
        serves: of a workload of this site: where this host's sockets have its clients' connections.
    """
    return (
        *sorted({Ends(far=at.address, far_port=at.port) for at in reached}),
        *sorted({Ends(near=at.address, near_port=at.port) for at in serves}),
    )


def of_client(address: str, port: int = 0) -> tuple[Ends, ...]:
    """Return the ends of the connections of a client (one connection, where its port is said), or of a network."""
    return Ends(near=address, near_port=port), Ends(far=address, far_port=port)


def batches(found: Iterable[Open], rate: int) -> Iterator[tuple[Open, ...]]:
    """Yield what to end in one go, those that have said nothing for the longest time first; `gap_s` lies between."""
    order = sorted(found, key=lambda one: one.active_at)
    size = max(1, int(rate * BATCH_S))
    for start in range(0, len(order), size):
        yield tuple(order[start : start + size])


def gap_s(size: int, rate: int) -> float:
    """Return the seconds from one batch of that size to the next."""
    return size / max(1, rate)


def _meets(wanted: str, port: int, at: Target) -> bool:
    if port and port != at.port:
        return False
    return not wanted or ip_address(at.address) in parse(wanted)


@lru_cache(maxsize=1024)
def parse(text: str) -> IPv4Network | IPv6Network:
    """Return an address or ``addr/len`` as a network. Raises ValueError."""
    return ip_network(text)
