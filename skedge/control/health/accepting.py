"""Whether anybody accepts what the kernel's handshake let in (pure): a listening socket's queue may have no reader.

A TCP handshake says nothing of that: a published container port is often held by a socket that only reserves it.
A probe's own connection stays in that queue, closed or not, until a program takes it out; so probes need not wait for
it, a later one looks. A busy server is not blamed: it took one of ours, or holds a connection that it took before.
"""

from __future__ import annotations

from collections.abc import Callable

from skedge.core.objects import Target

PATIENCE_S = 3.0
CONNECTIONS = 3  # so many must have been left
HELD_MAX = 16
UNREAD_S = 10.0
UNREAD_MAX = 65536  # bytes; a queue with more may be that of a server which reads, and cannot keep up

Pair = tuple[Target, Target]


class AcceptQueue:
    """The connections of one workload's probes that nobody has taken yet.

    ``waits(own, asked)`` tells it of one; ``serves()`` whether the workload holds any connection: asked seldom.
    """

    def __init__(self, waits: Callable[[Target, Target], bool], serves: Callable[[], bool]) -> None:
        self._waits, self._serves = waits, serves
        self._left: list[Pair] = []
        self._since = 0.0

    def opened(self, pair: Pair, now: float) -> None:
        """Note a connection of a probe."""
        if not self._left:
            self._since = now
        self._left = [*self._left, pair][-HELD_MAX:]  # of a group of sockets one may hang while others serve

    def answered(self) -> None:
        """Forget all: the workload said something."""
        self._left = []

    def waiting(self, now: float) -> bool:
        """Tell whether any is left."""
        left = [pair for pair in self._left if self._waits(*pair)]
        if len(left) < len(self._left):
            self._since = now
        self._left = left
        return bool(left)

    def silent(self, now: float) -> bool:
        """Tell whether some wait, and nobody holds any."""
        return self.waiting(now) and not self._serves()

    def stuck(self, now: float) -> bool:
        """Tell whether nobody accepts: several wait, none was taken for a while, and none is held from before."""
        long = self.waiting(now) and len(self._left) >= CONNECTIONS and now - self._since >= PATIENCE_S
        return long and not self._serves()


class Backlog:
    """The connections that wait in a listening socket, whoever opened them: none is taken where nobody accepts."""

    def __init__(self) -> None:
        self._last, self._since = 0, 0.0

    def stuck(self, waiting: int, now: float) -> bool:
        """Take how many wait; tell whether some do, and for long none was taken (or as many came as were taken)."""
        if waiting == 0 or waiting < self._last or self._last == 0:
            self._since = now
        self._last = waiting
        return waiting > 0 and now - self._since >= PATIENCE_S


class DatagramQueue:
    """What lies unread in a UDP workload's socket: one that only reserves a port keeps all that it ever got."""

    def __init__(self) -> None:
        self._last, self._since, self._stuck = 0, 0.0, False

    def stuck(self, queued: int, now: float) -> bool:
        """Take how many bytes lie there; tell whether nobody reads: for long it has become no less, nor much."""
        if queued == 0 or queued < self._last or self._last == 0:
            self._since, self._stuck = now, False
        self._last = queued
        self._stuck = self._stuck or (now - self._since >= UNREAD_S and queued <= UNREAD_MAX)
        return self._stuck
