"""Load reports on the wire: this site's open connections, signed, in small datagrams over the overlay.

A datagram is the Ed25519 signature (64 bytes) and a msgpack array. It names the site it is for, so that nobody can
show one site's report to another. A report is the full state of the services that its reader listens to, in as many
datagrams as it takes; a lost one is healed by the next report.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from skedge.control.identity.identity import Identity
from skedge.control.loads.schedule import LoadBook, LoadSchedule
from skedge.control.sockets import exempt
from skedge.control.streams.frames import FAILURES, SIGNATURE_BYTES, BadFrame, Count, Name, Wire
from skedge.core.linkstate.pacing import TokenBucket
from skedge.core.model import WorkloadId
from skedge.core.reasons import Reason
from skedge.core.records import LoadReport, Version

log = logging.getLogger(__name__)

DATAGRAM_MAX = 1200  # bytes: fits a tunnel in a tunnel
PARTS_MAX = 255
READ_MAX = 64  # datagrams a turn of the loop
PEER_RATE, PEER_BURST = 40.0, 80.0  # datagrams a second that one site may cost us
IP_FREEBIND = 15  # linux/in.h: the overlay address may come after the socket
DOMAIN = "skedge load 1"


class _Entry(Wire):
    site: Name
    connector: Name
    open: Annotated[int, Meta(ge=0, le=2**31 - 1)]


class _Datagram(Wire, tag=DOMAIN):
    network: Name
    site: Name
    to: Name
    incarnation: Count
    sequence: Count
    part: Annotated[int, Meta(ge=0, lt=PARTS_MAX)]
    parts: Annotated[int, Meta(ge=1, le=PARTS_MAX)]
    entries: Annotated[list[_Entry], Meta(max_length=DATAGRAM_MAX)]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Datagram)


@dataclass(frozen=True, slots=True)
class LoadPeer:
    """A reachable site: its overlay address, its certificate (from its records), the services it listens to."""

    address: str
    certificate: bytes
    services: frozenset[str]


def encode(
    network: str, site: str, to: str, version: Version, open_: Mapping[WorkloadId, int], sign: Callable[[bytes], bytes]
) -> list[bytes]:
    """Return the signed datagrams of one report, each at most `DATAGRAM_MAX` bytes (longer only for absurd names)."""

    def build(part: int, parts: int, entries: list[_Entry]) -> bytes:
        return _encoder.encode(
            _Datagram(network, site, to, version.incarnation, version.sequence, part, parts, entries)
        )

    room = DATAGRAM_MAX - SIGNATURE_BYTES - len(build(PARTS_MAX - 1, PARTS_MAX, [])) - 4  # 4: a longer array's head
    chunks: list[list[_Entry]] = [[]]
    used = 0
    for workload, count in sorted(open_.items()):
        entry = _Entry(workload.site, workload.connector, min(count, 2**31 - 1))
        size = len(_encoder.encode(entry))
        if chunks[-1] and used + size > room:
            chunks.append([])
            used = 0
        chunks[-1].append(entry)
        used += size
    if len(chunks) > PARTS_MAX:
        log.error("a load report to %s needs %d datagrams; only %d are sent", to, len(chunks), PARTS_MAX)
        del chunks[PARTS_MAX:]
    payloads = [build(part, len(chunks), entries) for part, entries in enumerate(chunks)]
    return [sign(payload) + payload for payload in payloads]


def decode(datagram: bytes) -> tuple[_Datagram, bytes, bytes]:
    """Return content, signed payload and signature, nothing of it verified. Raises BadFrame."""
    signature, payload = datagram[:SIGNATURE_BYTES], datagram[SIGNATURE_BYTES:]
    try:
        return _decoder.decode(payload), payload, signature
    except FAILURES as error:
        raise BadFrame(f"a datagram that is no load report: {error}") from error


class LoadExchange:
    """Sends this site's load reports and keeps those of others.

    ``incarnation()`` is this site's, as in its records. ``on_report(site)`` is called in the loop when a site's
    reported connections changed (not for a repeat).
    """

    def __init__(
        self,
        identity: Identity,
        port: int,
        *,
        incarnation: Callable[[], int],
        on_report: Callable[[str], None],
    ) -> None:
        self._identity, self._port = identity, port
        self._incarnation, self._on_report = incarnation, on_report
        self._loop = asyncio.get_running_loop()
        self._schedule, self._book = LoadSchedule(), LoadBook()
        self._peers: dict[str, LoadPeer] = {}
        self._by_address: dict[str, str] = {}
        self._buckets: dict[str, TokenBucket] = {}
        self._sock: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sequence = 0
        self.refused: Counter[Reason] = Counter()
        self.sent = self.received = self.unsent = 0

    def open(self, address: str) -> None:
        """Bind to this site's overlay address, which need not be there yet. Raises OSError."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            exempt(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
            sock.bind((address, self._port))
        except BaseException:
            sock.close()
            raise
        self.close()
        self._sock = sock
        self._loop.add_reader(sock, self._readable)
        self._pump()

    def close(self) -> None:
        """Stop sending and hearing; what was heard stays."""
        if self._timer:
            self._timer.cancel()
        if self._sock:
            self._loop.remove_reader(self._sock)
            self._sock.close()
            self._sock = None

    def set_peers(self, peers: Mapping[str, LoadPeer]) -> None:
        """Set the sites that are reachable now, this one left out; the others' reports are forgotten."""
        gone = self._peers.keys() - peers.keys()
        self._peers = dict(peers)
        self._by_address = {peer.address: site for site, peer in peers.items()}
        self._schedule.set_sites({site: peer.services for site, peer in peers.items() if peer.services})
        for site in gone:
            self._buckets.pop(site, None)
            if self._book.forget(site):
                self._on_report(site)
        self._pump()

    def set_counts(self, counts: Mapping[str, Mapping[WorkloadId, int]]) -> None:
        """Set this site's own open connections: service -> workload -> open."""
        self._schedule.set_counts(counts)
        self._pump()

    def reports(self) -> Mapping[str, LoadReport]:
        """Return the last report of every reachable site."""
        return self._book.reports()

    def age(self, site: str) -> float | None:
        """Return how many seconds ago a site reported, None when it has not."""
        return self._book.age(site, self._loop.time())

    def _pump(self) -> None:
        """Send what is due, and come back when the next is."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._sock is None:
            return
        now = self._loop.time()
        for site in self._schedule.due(now):
            self._send(site, now)
        at = self._schedule.wake_at(now)
        if at < float("inf"):
            self._timer = self._loop.call_at(max(at, now + 0.001), self._pump)

    def _send(self, site: str, now: float) -> None:
        self._sequence += 1
        version = Version(self._incarnation(), self._sequence)
        identity = self._identity
        content = self._schedule.content(site)
        datagrams = encode(identity.network, identity.site, site, version, content, identity.sign)
        for datagram in datagrams:
            try:
                if self._sock:
                    self._sock.sendto(datagram, (self._peers[site].address, self._port))
                    self.sent += 1
            except OSError:  # no route for a moment, no buffer: the repeat heals it
                self.unsent += 1
        self._schedule.sent(site, now, len(datagrams))

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(READ_MAX):
                if self._sock is None:
                    return
                try:
                    datagram, source = self._sock.recvfrom(DATAGRAM_MAX * 2)
                except ConnectionError:  # an ICMP error about something we sent
                    continue
                reason = self._take(datagram, str(source[0]))
                if reason is not Reason.NONE:
                    self.refused[reason] += 1

    def _take(self, datagram: bytes, source: str) -> Reason:
        """Believe a datagram or not: cheap checks first, since everybody in the overlay can send some."""
        site, now = self._by_address.get(source), self._loop.time()
        if site is None:
            return Reason.NOT_OVERLAY
        if not self._buckets.setdefault(site, TokenBucket(PEER_RATE, PEER_BURST)).take(now):
            return Reason.RATE_LIMITED
        try:
            said, payload, signature = decode(datagram)
        except BadFrame:
            return Reason.BAD_FRAME
        if (said.site, said.to, said.network) != (site, self._identity.site, self._identity.network):
            return Reason.BAD_SIGNATURE
        verdict = self._identity.verifier.verify_data(site, self._peers[site].certificate, payload, signature)
        if verdict.reason is not Reason.NONE:
            return verdict.reason
        self.received += 1
        version = Version(said.incarnation, said.sequence)
        open_ = {WorkloadId(entry.site, entry.connector): entry.open for entry in said.entries}
        before = self._book.open(site)
        reason = self._book.part(site, version, said.part, said.parts, open_, now)
        if self._book.open(site) != before:
            self._on_report(site)
        return reason
