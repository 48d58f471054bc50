"""Makes this site's own records: versions, pacing (RFC 8405), refresh, and the jump past an older life. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import inf

from skedge.core.linkstate.messages import VERSION_MAX, Body, Codec, Kind, SignedRecord, Signer, signed_bytes
from skedge.core.linkstate.pacing import Backoff, TokenBucket, jitter
from skedge.core.linkstate.record_checks import check_body, check_envelope
from skedge.core.records import LinksRecord, Version

REFRESH_S = 600.0
REFRESH_JITTER = 0.2  # a refresh comes up to this share early
JUMP_BURST = 5.0
JUMP_RATE = 1 / 600  # two machines with one name and one key outbid each other, and all sites follow each turn


@dataclass(slots=True)
class _Own:
    """One kind of own record: what it should say, what it said last, when it must be made again."""

    wanted: Body
    said: Body | None = None
    certificate: bytes = b""  # in the record that said it
    dirty: bool = True
    refresh_at: float = inf
    backoff: Backoff = field(default_factory=Backoff)


@dataclass(slots=True)
class Originator:
    """The own records of ``site`` in one life; ``incarnation`` is higher than that of the life before, if known."""

    site: str
    network: str
    signer: Signer
    codec: Codec
    incarnation: int
    seed: int = 0
    _sequence: int = field(default=0, init=False)
    _own: dict[Kind, _Own] = field(default_factory=dict, init=False)
    _jumps: TokenBucket = field(default_factory=lambda: TokenBucket(JUMP_RATE, JUMP_BURST), init=False)
    _passing: Version | None = field(default=None, init=False)  # a version to jump past when there is a token

    def want(self, now: float, kind: Kind, body: Body) -> None:
        """Set what the record should say; a difference in nothing but times waits for the next one."""
        own = self._own.get(kind)
        if own is None:
            own = self._own[kind] = _Own(body)
            own.backoff.event(now)
            return
        own.wanted = body
        if own.dirty:
            return
        own.dirty = own.said is None or _significant(own.said) != _significant(body)
        if own.dirty:
            own.backoff.event(now)

    def pass_older_life(self, now: float, kind: Kind, version: Version) -> bool:
        """Make everything again, newer than ``version``, which was made by this site's key but not in this life.

        Returns:
            False when that happened too often: another living host must be using the same name and key.
        """
        own = self._own.get(kind)
        if version.incarnation < self.incarnation and (own is None or own.dirty):
            return True  # a jump that is not sent yet passes it already
        self._passing = version if self._passing is None else max(version, self._passing)
        if not self._jumps.take(now):
            return False
        self._jump(now)
        return True

    def renew(self, now: float) -> None:
        """Make the records again that carry another certificate than the site has now."""
        for own in self._own.values():
            if own.certificate != self.signer.certificate and not own.dirty:
                own.dirty = True
                own.backoff.event(now)

    def due(self, now: float) -> Iterator[tuple[SignedRecord, Body] | str]:
        """Yield the records that have to be made now; in the place of one that other sites would refuse, the why.

        What cannot be said is not said: the record before stays until something else is wanted.
        """
        if self._passing is not None and self._jumps.take(now):
            self._jump(now)
        for kind, own in self._own.items():
            if now >= own.refresh_at or (own.dirty and own.backoff.due(now)):
                try:
                    yield self._make(now, kind, own), own.wanted
                except ValueError as error:
                    yield f"the {kind} record of this site cannot be sent: {error}"

    @property
    def deadline(self) -> float:
        """When `due` will yield next, if nothing happens before (inf: never)."""
        times = [min(own.refresh_at, own.backoff.deadline if own.dirty else inf) for own in self._own.values()]
        return min(times, default=inf)

    def jump_deadline(self, now: float) -> float:
        """When a jump that had to wait may be made."""
        return inf if self._passing is None else self._jumps.when(now)

    def _jump(self, now: float) -> None:
        if self._passing is not None:
            self.incarnation = min(max(self.incarnation, self._passing.incarnation + 1), VERSION_MAX)
        self._passing = None
        for own in self._own.values():
            own.dirty = True
            own.backoff.event(now)

    def _make(self, now: float, kind: Kind, own: _Own) -> SignedRecord:
        self._sequence += 1
        own.dirty = False
        own.backoff.done()
        early = REFRESH_JITTER * jitter(self.seed, self.site, kind, self._sequence)
        own.refresh_at = now + REFRESH_S * (1.0 - early)
        record = SignedRecord(
            self.site,
            kind,
            Version(self.incarnation, self._sequence),
            self.codec.encode(own.wanted),
            self.signer.certificate,
            b"",
        )
        record = replace(record, signature=self.signer.sign(signed_bytes(self.network, record)))
        check_envelope(record)
        check_body(record, own.wanted)
        own.said, own.certificate = own.wanted, record.certificate
        return record


def _significant(body: Body) -> Body:
    """Return the body without what changes all the time and decides nothing."""
    if isinstance(body, LinksRecord):
        links = tuple(replace(link, rtt_us=0) for link in body.links)
        return replace(body, links=links, boot_age_ms=0)
    return body
