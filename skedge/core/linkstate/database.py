"""The link-state database of one site: the newest signed record of each site and kind. Pure; `now` is an argument.

Rules (OSPF, RFC 2328 section 13, with signatures in the place of trust):
 - newer wins; of two different records with one version the larger hash wins, so that all sites end with the same;
 - a record older than `MAX_AGE` goes; ages travel with records, so passing one on does not make it young;
 - a site name belongs to the key that is held for it, until that key's certificate no longer verifies;
 - nothing grows without bound, and no origin gets more than its rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from math import inf

from skedge.core.linkstate.messages import (
    Body,
    Codec,
    Digest,
    Digests,
    Key,
    Kind,
    SignedRecord,
    Verdict,
    Verifier,
    short_hash,
)
from skedge.core.linkstate.pacing import TokenBucket
from skedge.core.linkstate.record_checks import check_body, check_envelope
from skedge.core.reasons import Reason
from skedge.core.records import LinksRecord, NetworkMap, ServicesRecord, Version

MAX_AGE_S = 1800.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the database. ``origin_*``: newer records accepted from one site, per second and at once."""

    sites: int = 1024
    total_bytes: int = 128 << 20
    origin_rate: float = 10.0
    origin_burst: float = 20.0


class Outcome(Enum):
    """What became of a record that was offered."""

    NEWER = "newer"  # installed
    SAME = "same"  # held already
    OLDER = "older"  # a newer one is held: the sender should get that
    REFUSED = "refused"
    OWN = "own"  # this site's own, from an older life: it must be passed by a newer one


@dataclass(frozen=True, slots=True)
class Result:
    """Outcome of `Database.install`.

    ``changed``: the content differs, not only the version. ``evicted``: records that gave way to another key.
    ``retry_at``: when a rate-limited record may be asked for again. ``costly``: a signature was verified.
    """

    outcome: Outcome
    reason: Reason = Reason.NONE
    text: str = ""
    changed: bool = False
    evicted: tuple[Key, ...] = ()
    retry_at: float = 0.0
    costly: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One record held: decoded body, when its site made it (by the ages told), the key's fingerprint."""

    record: SignedRecord
    body: Body
    born: float
    fingerprint: str
    hash: bytes


@dataclass(slots=True)
class Database:
    """The database of ``site``, whose own key has ``fingerprint``."""

    site: str
    fingerprint: str
    verifier: Verifier
    codec: Codec
    limits: Limits = Limits()
    _entries: dict[Key, Entry] = field(default_factory=dict, init=False)
    _buckets: dict[str, TokenBucket] = field(default_factory=dict, init=False)
    _bytes: int = field(default=0, init=False)
    _oldest: float = field(default=inf, init=False)  # no foreign entry was born before this

    # ---- reading ------------------------------------------------------------------------------------------------

    def get(self, key: Key) -> Entry | None:
        """Return the record held under a key."""
        return self._entries.get(key)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._entries)

    def digests(self) -> Digests:
        """Return key, version and hash of everything held, sorted."""
        return Digests(
            tuple(Digest(key, entry.record.version, entry.hash) for key, entry in sorted(self._entries.items()))
        )

    def wanted(self, digests: Digests) -> list[Key]:
        """Return the keys that the sender of ``digests`` holds newer, or different at the same version."""
        return [digest.key for digest in digests.entries if self._lacks(digest)]

    def unknown_to(self, digests: Digests) -> list[Key]:
        """Return the keys that we hold newer than the sender of ``digests``, or that it lacks."""
        theirs = {digest.key: digest.version for digest in digests.entries}
        return [
            key
            for key, entry in self._entries.items()
            if (version := theirs.get(key)) is None or version < entry.record.version
        ]

    def network_map(self) -> NetworkMap:
        """Return the decoded content."""
        links: dict[str, LinksRecord] = {}
        services: dict[str, ServicesRecord] = {}
        for key, entry in self._entries.items():
            if isinstance(entry.body, LinksRecord):
                links[key.site] = entry.body
            else:
                services[key.site] = entry.body
        return NetworkMap(links, services)

    @property
    def deadline(self) -> float:
        """When `expire` may have something to do."""
        return self._oldest + MAX_AGE_S

    # ---- changing -----------------------------------------------------------------------------------------------

    def put_own(self, record: SignedRecord, body: Body, now: float) -> None:
        """Hold a record that this site just made."""
        self._store(Entry(record, body, now, self.fingerprint, short_hash(record)))

    def install(self, record: SignedRecord, age_s: float, now: float) -> Result:
        """Judge a record that a neighbour sent, and hold it if it is newer. Never raises on hostile input."""
        try:
            check_envelope(record)
        except ValueError as error:
            return Result(Outcome.REFUSED, Reason.BAD_FRAME, str(error))
        digest = short_hash(record)
        held = self._entries.get(record.key)
        early = self._without_verifying(record, digest, held, now - age_s)
        if early is not None:
            return early
        if age_s >= MAX_AGE_S:
            return Result(Outcome.REFUSED, Reason.STALE, f"{_named(record)} is past its age")
        bucket = self._buckets.get(record.site)
        if bucket is not None and not bucket.has(now):
            text = f"{record.site} changes its records too often"
            return Result(Outcome.REFUSED, Reason.RATE_LIMITED, text, retry_at=bucket.when(now))
        verdict = self.verifier.verify(record)
        if verdict.reason is not Reason.NONE:
            text = f"{_named(record)}: {verdict.reason.sentence}"
            return Result(Outcome.REFUSED, verdict.reason, text, costly=True)
        return replace(self._verified(record, digest, verdict, now - age_s, now), costly=True)

    def expire(self, now: float) -> list[Key]:
        """Drop records of other sites that were not refreshed for `MAX_AGE_S`; return their keys."""
        if now < self.deadline:
            return []
        foreign = {key: entry.born for key, entry in self._entries.items() if key.site != self.site}
        gone = [key for key, born in foreign.items() if now >= born + MAX_AGE_S]
        self._drop(gone)
        self._oldest = min((born for key, born in foreign.items() if key not in set(gone)), default=inf)
        return gone

    def recheck(self) -> list[tuple[Key, Reason]]:
        """Drop records whose certificate was revoked since (call after a new revocation list); return them."""
        gone = [
            (key, Reason.REVOKED)
            for key, entry in self._entries.items()
            if key.site != self.site and self.verifier.verify(entry.record).reason is Reason.REVOKED
        ]
        self._drop(key for key, _ in gone)
        return gone

    # ---- inside -------------------------------------------------------------------------------------------------

    def _lacks(self, digest: Digest) -> bool:
        held = self._entries.get(digest.key)
        if held is None or held.record.version < digest.version:
            return True
        return held.record.version == digest.version and held.hash != digest.hash

    def _without_verifying(self, record: SignedRecord, digest: bytes, held: Entry | None, born: float) -> Result | None:
        """Answer the frequent cases without touching a signature; None when it has to be verified.

        Another certificate is always verified: it may be another host under the same name.
        """
        if held is None or record.certificate != held.record.certificate:
            return None
        if record.version < held.record.version:
            return Result(Outcome.OLDER, Reason.STALE)
        if record.version == held.record.version and digest == held.hash:
            if born > held.born and record.site != self.site:  # the youngest age told is the truest
                self._entries[record.key] = replace(held, born=born)
            return Result(Outcome.SAME)
        return None

    def _verified(self, record: SignedRecord, digest: bytes, verdict: Verdict, born: float, now: float) -> Result:
        """Install a record whose signature is good."""
        evicted: tuple[Key, ...] = ()
        owner = self._owner(record.site)
        if owner is not None and owner != verdict.fingerprint:
            evicted = self._give_way(record.site)
            if not evicted:
                text = f"two hosts call themselves {record.site}: keys {owner[:16]} (kept), {verdict.fingerprint[:16]}"
                return Result(Outcome.REFUSED, Reason.DUPLICATE_SITE, text)
        held = self._entries.get(record.key)
        if held is not None and (record.version, digest) <= (held.record.version, held.hash):
            same = (record.version, digest) == (held.record.version, held.hash)
            return Result(Outcome.SAME) if same else Result(Outcome.OLDER, Reason.STALE)
        if record.site == self.site:
            return Result(Outcome.OWN)
        try:
            body = self.codec.decode(record.kind, record.body)
            check_body(record, body)
        except ValueError as error:
            return Result(Outcome.REFUSED, Reason.BAD_FRAME, f"{_named(record)}: {error}", evicted=evicted)
        if not self._room(record, held):
            return Result(Outcome.REFUSED, Reason.DATABASE_FULL, f"no room for {_named(record)}", evicted=evicted)
        self._bucket(record.site).take(now)
        self._store(Entry(record, body, born, verdict.fingerprint, digest))
        return Result(Outcome.NEWER, changed=held is None or held.body != body, evicted=evicted)

    def _owner(self, site: str) -> str | None:
        """Return the fingerprint of the key that the site's name belongs to."""
        if site == self.site:
            return self.fingerprint
        held = next((e for kind in Kind if (e := self._entries.get(Key(site, kind))) is not None), None)
        return None if held is None else held.fingerprint

    def _give_way(self, site: str) -> tuple[Key, ...]:
        """Drop a site's records if their certificate no longer verifies (the host was replaced); return the keys."""
        if site == self.site:
            return ()
        keys = tuple(key for kind in Kind if (key := Key(site, kind)) in self._entries)
        if any(self.verifier.verify(self._entries[key].record).reason is Reason.NONE for key in keys):
            return ()
        self._drop(keys)
        return keys

    def _room(self, record: SignedRecord, held: Entry | None) -> bool:
        freed = 0 if held is None else held.record.size
        if self._bytes - freed + record.size > self.limits.total_bytes:
            return False
        return record.site in self._buckets or len(self._buckets) < self.limits.sites

    def _bucket(self, site: str) -> TokenBucket:
        if site not in self._buckets:
            self._buckets[site] = TokenBucket(self.limits.origin_rate, self.limits.origin_burst)
        return self._buckets[site]

    def _store(self, entry: Entry) -> None:
        key = entry.record.key
        before = self._entries.get(key)
        self._entries[key] = entry
        self._bytes += entry.record.size - (0 if before is None else before.record.size)
        if key.site != self.site:
            self._bucket(key.site)
            self._oldest = min(self._oldest, entry.born)

    def _drop(self, keys: Iterable[Key]) -> None:
        for key in list(keys):
            entry = self._entries.pop(key, None)
            if entry is None:
                continue
            self._bytes -= entry.record.size
            if not any(Key(key.site, kind) in self._entries for kind in Kind):
                self._buckets.pop(key.site, None)


def versions(database: Database) -> Mapping[Key, tuple[Version, bytes]]:
    """Return version and hash of every record held: equal values mean equal databases."""
    return {digest.key: (digest.version, digest.hash) for digest in database.digests().entries}


def _named(record: SignedRecord) -> str:
    """Return ``site/kind incarnation.sequence`` for messages."""
    return f"{record.site}/{record.kind} {record.version.incarnation}.{record.version.sequence}"
