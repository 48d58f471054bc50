"""Connections that stand still though their path is back: which of them to tell, and how often.

TCP's time-out doubles while nothing is acknowledged, up to two minutes, and nobody tells it when waiting is over.

Told is the sender, by an ICMP "unreachable" that quotes its first byte without acknowledgement: by RFC 6069 that takes
back one doubling, as it means that the segment was lost for want of a path and not by congestion.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_network
from math import inf

from skedge.core.objects import KernelRoute

ROUNDS = ((0.02, 4), (0.25, 16), (0.6, 16), (1.2, 16), (2.0, 16), (3.0, 16))
"""When to look after the last route came (seconds), and how many doublings to take back at most. A handful moves nearly
all at once; later looks find those whose far end had no path yet (its TCP waits anew), or whose program was just busy
with the socket."""

_LOOK_S = (1.0, 15.0)  # between looks during an outage: the least, and the most
_LIFE_S = 930.0  # TCP's own patience, where nobody set another
_FIRST_MS = 200  # Linux' shortest time-out
_LONGEST = 9  # doublings of it that make two minutes, where all end
_MAPPED = 0xFFFF << 32


class StallKind(IntEnum):
    """What holds a connection up (STALLED_* of bpf/socket/stalled.h)."""

    SENT = 1
    SEES_ERRORS = 2
    PUSHED = 3
    FLOW = 4


@dataclass(frozen=True, slots=True)
class Stalled:
    """One connection that stands still, from its sender's side; addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d.

    ``far`` is where it leads in the overlay, ``sequence`` the number of the first byte without acknowledgement. Of a
    socket ``backoff`` is known, how often its time-out has doubled; of a flow of the LAN ``unanswered_ms``, how long
    after the last answer its machine spoke last.
    """

    kind: StallKind
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    far: bytes
    sequence: int
    backoff: int = 0
    unanswered_ms: int = 0


def returned(before: Mapping[str, KernelRoute], after: Mapping[str, KernelRoute]) -> frozenset[str]:
    """Return the destinations (``addr/len``) that have a route which they had not before, or that lead another way."""
    return frozenset(to for to, route in after.items() if to not in before or route.leads_unlike(before[to]))


def towards(destinations: Collection[str], stalls: Iterable[Stalled]) -> list[Stalled]:
    """Return the connections that lead to one of the destinations."""
    hosts: set[bytes] = set()
    networks: list[tuple[int, int]] = []
    for to in destinations:
        network = ip_network(to)
        first = int(network.network_address) | (_MAPPED if network.version == 4 else 0)
        if network.num_addresses == 1:
            hosts.add(first.to_bytes(16))
        else:
            networks.append((first, -network.num_addresses))
    return [
        one
        for one in stalls
        if one.far in hosts or any(int.from_bytes(one.far) & mask == first for first, mask in networks)
    ]


def messages(one: Stalled, most: int) -> int:
    """Return how many messages a connection is sent that take back ``most`` doublings: no more than there may be.

    Of those beyond the longest time-out each must be taken back, too, and none of them shortens it.
    """
    doublings = one.backoff if one.kind is not StallKind.FLOW else (one.unanswered_ms // _FIRST_MS).bit_length()
    return min(doublings, most + max(0, doublings - _LONGEST))


class Outage:
    """When to look at what stands still while destinations have no route; ``now`` is monotonic seconds."""

    def __init__(self) -> None:
        self.look_at = inf
        self._lost: set[str] = set()
        self._since = 0.0

    def begin(self, now: float, lost: Collection[str]) -> None:
        """Take destinations that lost their route."""
        self._lost.update(lost)
        self._since, self.look_at = now, now + _LOOK_S[0]

    def end(self, found: Collection[str]) -> None:
        """Take destinations that have one."""
        self._lost.difference_update(found)
        if not self._lost:
            self.look_at = inf

    def due(self, now: float) -> bool:
        """Tell whether to look now, and plan the next look: the longer it lasts, the less often."""
        if now < self.look_at:
            return False
        if now - self._since > _LIFE_S:
            self.end(frozenset(self._lost))
        else:
            self.look_at = now + min(max((now - self._since) / 4, _LOOK_S[0]), _LOOK_S[1])
        return True
