"""Flooding as a state machine without I/O: messages and times in, records and questions out.

The caller (the daemon's inbox task, or the simulation) serialises all calls and gives ``now`` in seconds on one
monotonic clock. Each call returns an `Output`; what is to be sent is then taken with `Flooder.take`, whenever the
link's stream is writable. Hostile input gives Reasons, never exceptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from skedge.core.linkstate.adjacency import KEYS_MAX, Adjacency, AdjacencyState, AdjacencyView
from skedge.core.linkstate.database import Database, Limits, Outcome, Result
from skedge.core.linkstate.messages import (
    PROTOCOL,
    AgedRecord,
    Codec,
    Digests,
    Hello,
    Key,
    Kind,
    Message,
    Pull,
    Records,
    Signer,
    Verifier,
)
from skedge.core.linkstate.origination import Originator
from skedge.core.linkstate.pacing import jitter
from skedge.core.model import LinkId
from skedge.core.reasons import Reason
from skedge.core.records import LinksRecord, NetworkMap, ServicesRecord

DIGESTS_S = 30.0
DIGESTS_JITTER = 0.25
# What handling costs the neighbour's bucket, in verified signatures
COST_MESSAGE = 2.0
COST_RECORD = 0.1
COST_BAD_SIGNATURE = 10.0
RETRY_TOKENS = 100.0  # a neighbour over its rate is asked again when this much is there


@dataclass(frozen=True, slots=True)
class Output:
    """What a call led to.

    ``ready``: links with something to take. ``changed``: records whose content changed, this site's own included.
    ``reset``: streams to close because the neighbour broke the rules. ``problems``: every "no", with its sentence.
    """

    ready: tuple[LinkId, ...] = ()
    changed: tuple[Key, ...] = ()
    reset: tuple[tuple[LinkId, Reason], ...] = ()
    problems: tuple[tuple[Reason, str], ...] = ()


@dataclass(slots=True)
class _Pending:
    """An Output while it grows."""

    changed: dict[Key, None] = field(default_factory=dict)
    reset: list[tuple[LinkId, Reason]] = field(default_factory=list)
    problems: list[tuple[Reason, str]] = field(default_factory=list)


class Flooder:
    """The control plane of one site: its database, its own records, its adjacencies."""

    def __init__(
        self,
        *,
        site: str,
        network: str,
        signer: Signer,
        verifier: Verifier,
        codec: Codec,
        incarnation: int,
        seed: int = 0,
        limits: Limits = Limits(),  # noqa: B008  (frozen)
    ) -> None:
        self.site = site
        self.network = network
        self.seed = seed
        self.database = Database(site, signer.fingerprint, verifier, codec, limits)
        self._originator = Originator(site, network, signer, codec, incarnation, seed)
        self._adjacencies: dict[LinkId, Adjacency] = {}

    # ---- reading --------------------------------------------------------------------------------------------------

    @property
    def incarnation(self) -> int:
        """This life's incarnation. Keep it on disk whenever it changes; the next life starts with one more."""
        return self._originator.incarnation

    def network_map(self) -> NetworkMap:
        """Return what all sites say."""
        return self.database.network_map()

    def adjacencies(self, now: float) -> Mapping[LinkId, AdjacencyView]:
        """Return the state of every adjacency."""
        return {link: adjacency.view(now) for link, adjacency in self._adjacencies.items()}

    def next_deadline(self, now: float) -> float:
        """Return when `tick` has something to do if nothing happens before (inf: never)."""
        times = [self._originator.deadline, self._originator.jump_deadline(now), self.database.deadline]
        for adjacency in self._adjacencies.values():
            times += [adjacency.digests_at, *adjacency.retry.values()]
        return min(times, default=inf)

    def take(self, now: float, link: LinkId) -> Message | None:
        """Return the next message for a link, or None. Records in it are the newest ones at this moment."""
        adjacency = self._adjacencies.get(link)
        return None if adjacency is None else adjacency.take(now, self.database)

    # ---- events ---------------------------------------------------------------------------------------------------

    def originate(self, now: float, links: LinksRecord | None = None, services: ServicesRecord | None = None) -> Output:
        """Say something else of this site from now on (None: as before); sent at once or as pacing allows.

        Call it first when the links' state is known from probes: until then the neighbours keep what the life
        before said.
        """
        pending = _Pending()
        if links is not None:
            self._originator.want(now, Kind.LINKS, links)
        if services is not None:
            self._originator.want(now, Kind.SERVICES, services)
        self._make_own(now, pending)
        return self._output(pending)

    def configure(self, now: float, neighbours: Mapping[LinkId, str]) -> Output:
        """Set the configured links and their far ends; adjacencies of links that went are forgotten."""
        for link in set(self._adjacencies) - set(neighbours):
            del self._adjacencies[link]
        for link, neighbour in neighbours.items():
            if link not in self._adjacencies:
                self._adjacencies[link] = Adjacency(link, neighbour, since=now, full_until=now)
        return self._output(_Pending())

    def adjacency_up(self, now: float, link: LinkId, neighbour: str) -> Output:
        """Start a stream whose far end proved to be ``neighbour``; replaces an earlier stream of the link.

        Messages of the earlier stream must not come after this.
        """
        adjacency = self._adjacencies.get(link)
        if adjacency is None or adjacency.neighbour != neighbour:
            adjacency = self._adjacencies[link] = Adjacency(link, neighbour, since=now, full_until=now)
        adjacency.start(now, Hello(self.site, self.network, link.name, self.incarnation))
        adjacency.digests_at = self._next_digests(now, link)
        return self._output(_Pending())

    def adjacency_down(self, now: float, link: LinkId) -> Output:
        """Note that the stream is gone. The neighbour's records stay: whether the link works, its probes say."""
        adjacency = self._adjacencies.get(link)
        if adjacency is not None:
            adjacency.stop(now)
        return self._output(_Pending())

    def receive(self, now: float, link: LinkId, message: Message) -> Output:
        """Handle one message of a link's stream."""
        pending = _Pending()
        adjacency = self._adjacencies.get(link)
        if adjacency is None or adjacency.state is AdjacencyState.DOWN:
            return self._output(pending)
        if isinstance(message, Hello):
            self._hello(now, adjacency, message, pending)
        elif not adjacency.exchanging:
            self._reset(now, adjacency, Reason.BAD_FRAME, "speaks before its hello", pending)
        elif isinstance(message, Records):
            self._records(now, adjacency, message, pending)
        elif not adjacency.inbox.take(now, COST_MESSAGE):
            pending.problems.append((Reason.RATE_LIMITED, f"{adjacency.neighbour} on {link} sends too many messages"))
        elif isinstance(message, Digests):
            self._digests(now, adjacency, message, pending)
        elif isinstance(message, Pull):
            self._pull(now, adjacency, message, pending)
        else:
            self._reset(now, adjacency, Reason.BAD_FRAME, "sends an unknown message", pending)
        self._make_own(now, pending)
        return self._output(pending)

    def tick(self, now: float) -> Output:
        """Do what time brings: pacing, refresh, ageing, digests, questions that had to wait."""
        pending = _Pending()
        pending.changed.update(dict.fromkeys(self.database.expire(now)))
        self._make_own(now, pending)
        for adjacency in self._adjacencies.values():
            adjacency.ask_again(now)
            if now >= adjacency.digests_at:
                adjacency.digests_due = True
                adjacency.digests_at = self._next_digests(now, adjacency.link)
        return self._output(pending)

    def recheck(self, now: float) -> Output:
        """Drop records of certificates that were revoked, and carry this site's new one.

        Call it after key, certificate, CA or revocation list were read again.
        """
        pending = _Pending()
        self.database.fingerprint = self._originator.signer.fingerprint
        self._originator.renew(now)
        self._make_own(now, pending)
        for key, reason in self.database.recheck():
            pending.changed[key] = None
            pending.problems.append((reason, f"the {key.kind} record of {key.site} is dropped: {reason.sentence}"))
        return self._output(pending)

    # ---- messages -------------------------------------------------------------------------------------------------

    def _hello(self, now: float, adjacency: Adjacency, hello: Hello, pending: _Pending) -> None:
        if adjacency.state is not AdjacencyState.INIT:
            self._reset(now, adjacency, Reason.BAD_FRAME, "says hello twice", pending)
        elif hello.network != self.network:
            self._reset(now, adjacency, Reason.WRONG_PEER, f"belongs to network {hello.network!r}", pending)
        elif hello.site != adjacency.neighbour:
            self._reset(now, adjacency, Reason.WRONG_PEER, f"calls itself {hello.site!r}", pending)
        elif hello.link != adjacency.link.name:
            self._reset(now, adjacency, Reason.WRONG_PEER, f"takes this for its link {hello.link!r}", pending)
        elif hello.protocol != PROTOCOL:
            text = f"speaks protocol {hello.protocol}, not {PROTOCOL}: upgrade the older site"
            self._reset(now, adjacency, Reason.BAD_FRAME, text, pending)
        else:
            adjacency.move(now, AdjacencyState.EXCHANGE)

    def _digests(self, now: float, adjacency: Adjacency, digests: Digests, pending: _Pending) -> None:
        """Compare databases: ask for what is missing here, and give what the neighbour turns out to lack."""
        if len(digests.entries) > KEYS_MAX:
            self._reset(now, adjacency, Reason.BAD_FRAME, f"holds {len(digests.entries)} records", pending)
            return
        wanted = self.database.wanted(digests)
        adjacency.wanted = set(wanted)
        adjacency.pull(wanted)
        if adjacency.compared:  # at the start of a stream it asks for them itself
            for key in self.database.unknown_to(digests):
                adjacency.announce(key)
        adjacency.compared = True
        self._full_if_done(now, adjacency)

    def _pull(self, now: float, adjacency: Adjacency, pull: Pull, pending: _Pending) -> None:
        if len(pull.keys) > KEYS_MAX:
            self._reset(now, adjacency, Reason.BAD_FRAME, f"asks for {len(pull.keys)} records", pending)
            return
        for key in pull.keys:
            if self.database.get(key) is not None:
                adjacency.announce(key)

    def _records(self, now: float, adjacency: Adjacency, message: Records, pending: _Pending) -> None:
        limited = False
        for aged in message.records:
            if limited or not adjacency.inbox.has(now):
                limited = True
                adjacency.ask_later(aged.record.key, adjacency.inbox.when(now, RETRY_TOKENS))
                continue
            self._record(now, adjacency, aged, pending)
        if limited:
            text = f"{adjacency.neighbour} on {adjacency.link} sends too many records"
            pending.problems.append((Reason.RATE_LIMITED, text))
        self._full_if_done(now, adjacency)

    def _record(self, now: float, adjacency: Adjacency, aged: AgedRecord, pending: _Pending) -> None:
        record = aged.record
        result = self.database.install(record, max(aged.age_ms, 0) / 1000, now)
        adjacency.inbox.charge(now, COST_RECORD + (1.0 if result.costly else 0.0))
        adjacency.wanted.discard(record.key)
        pending.changed.update(dict.fromkeys(result.evicted))
        if result.outcome in (Outcome.NEWER, Outcome.SAME):
            adjacency.has_it(record.key)
        if result.outcome is Outcome.NEWER:
            if result.changed:
                pending.changed[record.key] = None
            self._announce(record.key, but=adjacency.link)
        elif result.outcome is Outcome.OLDER:
            adjacency.announce(record.key)
        elif result.outcome is Outcome.OWN:
            if not self._originator.pass_older_life(now, record.kind, record.version):
                text = f"another host uses the name and the key of {self.site}: was this machine cloned?"
                pending.problems.append((Reason.DUPLICATE_SITE, text))
        elif result.outcome is Outcome.REFUSED:
            self._refused(now, adjacency, record.key, result, pending)

    def _refused(self, now: float, adjacency: Adjacency, key: Key, result: Result, pending: _Pending) -> None:
        pending.problems.append((result.reason, f"from {adjacency.neighbour} on {adjacency.link}: {result.text}"))
        if result.reason is Reason.RATE_LIMITED:
            adjacency.ask_later(key, max(result.retry_at, now))
        elif result.reason in (Reason.BAD_SIGNATURE, Reason.BAD_FRAME):
            adjacency.inbox.charge(now, COST_BAD_SIGNATURE)

    # ---- inside ---------------------------------------------------------------------------------------------------

    def _make_own(self, now: float, pending: _Pending) -> None:
        for made in self._originator.due(now):
            if isinstance(made, str):
                pending.problems.append((Reason.BAD_FRAME, made))
                continue
            record, body = made
            held = self.database.get(record.key)
            self.database.put_own(record, body, now)
            if held is None or held.body != body:
                pending.changed[record.key] = None
            self._announce(record.key)

    def _announce(self, key: Key, but: LinkId | None = None) -> None:
        """Queue a record to everybody but the one it came from (split horizon)."""
        for link, adjacency in self._adjacencies.items():
            if link != but:
                adjacency.announce(key)

    def _full_if_done(self, now: float, adjacency: Adjacency) -> None:
        if adjacency.state is AdjacencyState.EXCHANGE and adjacency.compared and not adjacency.wanted:
            adjacency.move(now, AdjacencyState.FULL)

    def _reset(self, now: float, adjacency: Adjacency, reason: Reason, what: str, pending: _Pending) -> None:
        adjacency.stop(now)
        pending.reset.append((adjacency.link, reason))
        pending.problems.append((reason, f"{adjacency.neighbour} on {adjacency.link} {what}"))

    def _next_digests(self, now: float, link: LinkId) -> float:
        spread = jitter(self.seed, self.site, link, now) * 2 - 1
        return now + DIGESTS_S * (1 + DIGESTS_JITTER * spread)

    def _output(self, pending: _Pending) -> Output:
        ready = tuple(link for link, adjacency in self._adjacencies.items() if adjacency.queued)
        return Output(ready, tuple(pending.changed), tuple(pending.reset), tuple(pending.problems))
