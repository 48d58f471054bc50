#!/usr/bin/python3
"""Connections that are held, each with a question every so often: which were lost, and for how long one stood still.

``steady.py HOST PORT COUNT PERIOD_S STOP`` goes on until the file STOP is there; then it prints JSON. Each connection
sends ``.`` every PERIOD_S seconds once the answer to the last is there. One that ends is replaced at once, as real
clients do. Standard library only. Times are those of CLOCK_MONOTONIC, which all hosts of one machine share.
"""

from __future__ import annotations

import errno
import heapq
import json
import os
import select
import socket
import sys
import time
from dataclasses import dataclass, field

STALL_S = 0.15  # an answer that takes longer is told
AGAIN_S = 0.05  # after a connect that failed
LOOK_S = 0.2  # between two looks for the file


@dataclass(eq=False)
class Pulse:
    """One held connection; `asked` is when the question was sent that has no answer yet."""

    socket: socket.socket
    ready: bool = False
    asked: float | None = None


@dataclass
class Pulses:
    """All held connections to one address, and what became of them."""

    address: tuple[str, int]
    period: float
    count: int = 0
    lost: list[tuple[float, str]] = field(default_factory=list)
    stalls: list[tuple[float, float]] = field(default_factory=list)
    unopened: list[tuple[float, str]] = field(default_factory=list)
    open: dict[int, Pulse] = field(default_factory=dict)
    due: list[tuple[float, int, Pulse | None]] = field(default_factory=list)  # None: one to be opened
    poll: select.epoll = field(default_factory=select.epoll)
    order: int = 0

    def run(self, stop: str) -> None:
        """Ask until the file is there."""
        began = looked = time.monotonic()
        for number in range(self.count):
            self._later(began + self.period * number / self.count, None)
        while True:
            now = time.monotonic()
            if now > looked + LOOK_S:
                if os.path.exists(stop):
                    return
                looked = now
            while self.due and self.due[0][0] <= now:
                self._ask(heapq.heappop(self.due)[2])
            wait = self.due[0][0] - now if self.due else LOOK_S
            for number, _ in self.poll.poll(max(0.0, min(wait, LOOK_S))):
                self._heard(self.open[number])

    def _later(self, when: float, one: Pulse | None) -> None:
        self.order += 1
        heapq.heappush(self.due, (when, self.order, one))

    def _connect(self) -> None:
        one = Pulse(socket.socket())
        one.socket.setblocking(False)
        one.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        failed = one.socket.connect_ex(self.address)
        self.open[one.socket.fileno()] = one
        self.poll.register(one.socket, select.EPOLLOUT)
        if failed not in (0, errno.EINPROGRESS):
            self._end(one, OSError(failed, ""))

    def _ask(self, one: Pulse | None) -> None:
        if one is None:
            self._connect()
            return
        one.asked = time.monotonic()
        try:
            one.socket.send(b".")
        except OSError as error:
            self._end(one, error)

    def _heard(self, one: Pulse) -> None:
        now = time.monotonic()
        if not one.ready:
            failed = one.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failed:
                self._end(one, OSError(failed, ""))
                return
            one.ready = True
            self.poll.modify(one.socket, select.EPOLLIN)
            self._later(now, one)
            return
        try:
            data = one.socket.recv(64)
        except OSError as error:
            self._end(one, error)
            return
        if not data:
            self._end(one, None)
            return
        asked, one.asked = one.asked or now, None
        if now - asked > STALL_S:
            self.stalls.append((asked, now - asked))
        self._later(max(asked + self.period, now), one)

    def _end(self, one: Pulse, error: OSError | None) -> None:
        """Note one that ended, and let another come in its place."""
        now = time.monotonic()
        (self.lost if one.ready else self.unopened).append((now, word(error)))
        self.poll.unregister(one.socket)
        del self.open[one.socket.fileno()]
        self.due = [entry for entry in self.due if entry[2] is not one]
        heapq.heapify(self.due)
        one.socket.close()
        self._later(now if one.ready else now + AGAIN_S, None)

    def told(self) -> dict[str, object]:
        """Return what became of all, those that wait for an answer now included."""
        now = time.monotonic()
        waiting = [(one.asked, now - one.asked) for one in self.open.values() if one.asked]
        stalls = self.stalls + [entry for entry in waiting if entry[1] > STALL_S]
        ready = sum(one.ready for one in self.open.values())
        return {"open": ready, "lost": self.lost, "stalls": stalls, "unopened": self.unopened}


def word(error: OSError | None) -> str:
    """Return an error's short name; of none, what its lack means."""
    if error is None:
        return "closed"
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def main() -> None:
    """Run until told to stop."""
    host, port, count, period, stop = sys.argv[1:]
    pulses = Pulses((host, int(port)), float(period), int(count))
    pulses.run(stop)
    print(json.dumps(pulses.told()))


if __name__ == "__main__":
    main()
