"""One neighbour on one link, as the flooder sees it: the state of the stream and the queue towards it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from skedge.core.linkstate.database import Database
from skedge.core.linkstate.messages import AgedRecord, Hello, Key, Kind, Message, Pull, Records
from skedge.core.linkstate.pacing import TokenBucket
from skedge.core.model import LinkId

FRAME_BUDGET = 1 << 18  # bytes of records in one frame, unless one record alone is larger
PULL_MAX = 4096  # keys in one pull
KEYS_MAX = 8192  # keys that a neighbour can make us remember, and entries of its digests
NEIGHBOUR_RATE = 500.0  # signatures a second verified for one neighbour
NEIGHBOUR_BURST = 4096.0  # a whole database at once


class AdjacencyState(StrEnum):
    """States of an adjacency, as in OSPF."""

    DOWN = "down"
    INIT = "init"  # the stream is there, the neighbour's Hello is not
    EXCHANGE = "exchange"  # comparing databases, pulling what is missing
    FULL = "full"


@dataclass(frozen=True, slots=True)
class AdjacencyView:
    """What others may know of an adjacency.

    ``since`` is when it came into its state, ``full_until`` when it was last full (or configured, if never).
    """

    link: LinkId
    neighbour: str
    state: AdjacencyState
    since: float
    full_until: float
    queued: int


@dataclass(slots=True)
class Adjacency:
    """State and queue of one adjacency.

    The queue holds keys, not records: what is sent is the newest at the moment of sending, once, however often it
    changed meanwhile. So its size is bounded by the database, and a slow link delays nobody else.
    """

    link: LinkId
    neighbour: str
    since: float
    state: AdjacencyState = AdjacencyState.DOWN
    full_until: float = 0.0
    compared: bool = False  # its digests came on this stream
    hello: Hello | None = None
    digests_due: bool = False
    digests_at: float = inf
    wanted: set[Key] = field(default_factory=set)  # asked for, or about to be, in the exchange
    retry: dict[Key, float] = field(default_factory=dict)  # refused for a rate: when to ask again
    inbox: TokenBucket = field(default_factory=lambda: TokenBucket(NEIGHBOUR_RATE, NEIGHBOUR_BURST))
    _pulls: dict[Key, None] = field(default_factory=dict)
    _news: dict[Kind, dict[Key, None]] = field(default_factory=lambda: {kind: {} for kind in Kind})

    def start(self, now: float, hello: Hello) -> None:
        """Begin a new stream: nothing of an earlier one counts, but the rate limit does."""
        self.stop(now)
        self.move(now, AdjacencyState.INIT)
        self.hello, self.digests_due = hello, True

    def stop(self, now: float) -> None:
        """Forget the stream."""
        self.move(now, AdjacencyState.DOWN)
        self.hello, self.compared = None, False
        self.digests_due, self.digests_at = False, inf
        self.wanted.clear()
        self.retry.clear()
        self._pulls.clear()
        for keys in self._news.values():
            keys.clear()

    def move(self, now: float, state: AdjacencyState) -> None:
        """Come into a state."""
        if self.state is AdjacencyState.FULL and state is not AdjacencyState.FULL:
            self.full_until = now
        if self.state is not state:
            self.state, self.since = state, now

    def view(self, now: float) -> AdjacencyView:
        """Return what others may know."""
        until = now if self.state is AdjacencyState.FULL else self.full_until
        return AdjacencyView(self.link, self.neighbour, self.state, self.since, until, self.queued)

    @property
    def exchanging(self) -> bool:
        """Whether the neighbour said Hello on this stream."""
        return self.state in (AdjacencyState.EXCHANGE, AdjacencyState.FULL)

    def announce(self, key: Key) -> None:
        """Queue a record for the neighbour, if there is a stream."""
        if self.state is not AdjacencyState.DOWN:
            self._news[key.kind][key] = None

    def has_it(self, key: Key) -> None:
        """Take a record off the queue: the neighbour showed that it holds it."""
        self._news[key.kind].pop(key, None)

    def pull(self, keys: Iterable[Key]) -> None:
        """Queue a question for records."""
        for key in keys:
            if len(self._pulls) < KEYS_MAX:
                self._pulls[key] = None

    def ask_later(self, key: Key, at: float) -> None:
        """Ask for a record again at a time."""
        if key in self.retry or len(self.retry) < KEYS_MAX:
            self.retry[key] = at

    def ask_again(self, now: float) -> None:
        """Queue the questions whose time has come."""
        ready = [key for key, at in self.retry.items() if at <= now]
        for key in ready:
            del self.retry[key]
        self.pull(ready)

    @property
    def queued(self) -> int:
        """Number of things to send."""
        counted = len(self._pulls) + sum(map(len, self._news.values()))
        return counted + (self.hello is not None) + self.digests_due

    def take(self, now: float, database: Database) -> Message | None:
        """Return the next message to send: hello, questions, news of links before services, digests last."""
        if self.state is AdjacencyState.DOWN:
            return None
        if self.hello is not None:
            hello, self.hello = self.hello, None
            return hello
        if self._pulls:
            keys = tuple(self._pulls)[:PULL_MAX]
            for key in keys:
                del self._pulls[key]
            return Pull(keys)
        records = self._take_news(now, database)
        if records:
            return Records(records)
        if self.digests_due:
            self.digests_due = False
            return database.digests()
        return None

    def _take_news(self, now: float, database: Database) -> tuple[AgedRecord, ...]:
        taken: list[AgedRecord] = []
        size = 0
        for kind in (Kind.LINKS, Kind.SERVICES):
            while self._news[kind]:
                key = next(iter(self._news[kind]))
                entry = database.get(key)
                if taken and entry is not None and size + entry.record.size > FRAME_BUDGET:
                    return tuple(taken)
                del self._news[kind][key]
                if entry is not None:
                    taken.append(AgedRecord(entry.record, int((now - entry.born) * 1000) + 1))
                    size += entry.record.size
        return tuple(taken)


def link_in_use(
    adjacency: AdjacencyView, *, answers: bool, now: float, hold_s: float, last_resort: bool = False
) -> bool:
    """Tell whether a link that ``answers`` probes (or not) may carry traffic.

    Restart is graceful: where the far kernel still answers, a lost stream means a controller that restarts, and the
    link stays in use for ``hold_s`` seconds. A ``last_resort`` is one by its cost: it is not needed less after a while.
    """
    return answers and (last_resort or now - adjacency.full_until < hold_s)
