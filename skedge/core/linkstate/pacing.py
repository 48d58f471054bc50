"""Pacing: the first change acts at once, a burst backs off (RFC 8405), and token buckets against floods. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from math import inf


class _State(Enum):
    QUIET = "quiet"
    SHORT_WAIT = "short"
    LONG_WAIT = "long"


@dataclass(slots=True)
class Backoff:
    """The delay algorithm of RFC 8405 section 5 without timers: all times are seconds on the caller's clock.

    Call `event` when something changed, run the work when `due`, then `done`. ``deadline`` is when (inf: nothing
    waits). Delays: ``initial`` for the first event, ``short`` during ``learn`` seconds after it, then ``long``,
    until ``holddown`` seconds pass without an event.
    """

    initial: float = 0.0
    short: float = 0.05
    long: float = 0.2
    learn: float = 0.5
    holddown: float = 2.0
    deadline: float = field(default=inf, init=False)
    _state: _State = field(default=_State.QUIET, init=False)
    _learned_at: float = field(default=inf, init=False)
    _quiet_at: float = field(default=inf, init=False)

    def event(self, now: float) -> float:
        """Note a change; return when the work should run."""
        self._advance(now)
        if self._state is _State.QUIET:
            self._state, self._learned_at, delay = _State.SHORT_WAIT, now + self.learn, self.initial
        else:
            delay = self.short if self._state is _State.SHORT_WAIT else self.long
        self._quiet_at = now + self.holddown
        if self.deadline == inf:
            self.deadline = now + delay
        return self.deadline

    def due(self, now: float) -> bool:
        """Tell whether the work should run now."""
        return now >= self.deadline

    def done(self) -> None:
        """Note that the work ran."""
        self.deadline = inf

    def _advance(self, now: float) -> None:
        """Let the learn and hold-down timers of the RFC expire as far as ``now``."""
        if now >= self._quiet_at:
            self._state, self._learned_at, self._quiet_at = _State.QUIET, inf, inf
        elif self._state is _State.SHORT_WAIT and now >= self._learned_at:
            self._state = _State.LONG_WAIT


@dataclass(slots=True)
class TokenBucket:
    """At most ``burst`` at once and ``rate`` a second on average; starts full."""

    rate: float
    burst: float
    _tokens: float = field(default=inf, init=False)
    _at: float = field(default=-inf, init=False)

    def has(self, now: float, cost: float = 1.0) -> bool:
        """Tell whether ``cost`` (at most the burst counts) could be taken now; takes nothing."""
        self._fill(now)
        return self._tokens + 1e-6 >= min(cost, self.burst)  # a wait that `when` gave is always enough

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Take ``cost`` when it is there."""
        if not self.has(now, cost):
            return False
        self._tokens -= min(cost, self.burst)
        return True

    def charge(self, now: float, cost: float) -> None:
        """Take ``cost`` even into debt, at most one burst deep."""
        self._fill(now)
        self._tokens = max(self._tokens - cost, -self.burst)

    def when(self, now: float, cost: float = 1.0) -> float:
        """Return the earliest time at which `has` will be true."""
        self._fill(now)
        missing = min(cost, self.burst) - self._tokens
        return now if missing <= 0 else now + missing / self.rate

    def _fill(self, now: float) -> None:
        if self._tokens == inf:
            self._tokens, self._at = self.burst, now
        elif now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
            self._at = now


def jitter(*parts: object) -> float:
    """Return a number in [0, 1) that depends on nothing but the parts: spreads timers without randomness."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6]) / (1 << 48)
