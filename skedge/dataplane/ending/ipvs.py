"""Connections that IPVS leads on, as connections that can be ended (core.ending.Ender): those of this host's sockets.

The kernel deletes no single entry of its table. The client's socket can be destroyed: its reset goes through the
entry, which is closed by it, to the workload. A client on another machine keeps its entry until either end speaks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from skedge.core.ending import Ends, Open, Selection
from skedge.core.model import Protocol
from skedge.core.objects import Target
from skedge.dataplane.ending.sockets import SocketEnder
from skedge.dataplane.ipvs.connections import idle_s
from skedge.dataplane.ipvs.procfs import Connection, connections

_CONNECTING = ("SYN_SENT", "SYN_RECV", "SYNACK")
_OVER = ("CLOSE", "TIME_WAIT", "NONE")


class IpvsEnder:
    """The kernel's table, and the sockets that its connections are of."""

    def __init__(self, table: Callable[[], Iterable[Connection]] = connections) -> None:
        self._table, self._sockets = table, SocketEnder()

    def find(self, selection: Selection) -> Sequence[Open]:
        """Return the connections that are meant; those of clients elsewhere have no key. Raises DataplaneError."""
        now = time.monotonic()
        entries = (one for one in self._table() if one.state not in _OVER)
        seen = {one.client: one for one in entries if _meets(selection, one)}
        if not seen:
            return ()
        here: dict[Target, Open] = {
            one.sides[0][0]: one for one in self._sockets.find(_of_listeners(selection, seen.values()))
        }
        found = (
            replace(here[at], sides=((at, one.server),)) if at in here else _open(one, now) for at, one in seen.items()
        )
        return [one for one in found if selection.means(one)]

    def end(self, found: Sequence[Open]) -> int:
        """End those of this host's sockets; return how many. Raises DataplaneError."""
        return self._sockets.end([one for one in found if one.key is not None])


def _meets(selection: Selection, one: Connection) -> bool:
    return one.protocol == selection.protocol and any(ends.meet(one.client, one.server) for ends in selection.ends)


def _of_listeners(selection: Selection, entries: Iterable[Connection]) -> Selection:
    """Return what the clients' sockets are found by: they are connected to a listener's address."""
    listeners = sorted({one.virtual for one in entries})
    ends = tuple(Ends(far=at.address, far_port=at.port) for at in listeners)
    return replace(selection, ends=ends, silent_since=None)


def _open(one: Connection, now: float) -> Open:
    active_at = now - idle_s(one)
    return Open(
        ((one.client, one.server),),
        heard_at=active_at,
        active_at=active_at,
        protocol=Protocol(one.protocol),
        connecting=one.state in _CONNECTING,
    )
