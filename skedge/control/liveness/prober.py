"""Probes of all links: ICMPv6 echo to the neighbour's link-local address, answered by the far kernel.

Runs in a thread of its own with raised priority, so that other work of the controller does not delay it; where it is
delayed all the same, the decision (``liveness``) judges by what was really sent and has really come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from skedge.control.liveness.detector import LinkStats, LinkStatus, Liveness
from skedge.control.sockets import bind_to_device, exempt, scoped
from skedge.core.linkstate.pacing import jitter
from skedge.core.model import LinkId, Probe

log = logging.getLogger(__name__)

ECHO_REQUEST, ECHO_REPLY = 128, 129  # RFC 4443
ICMP6_FILTER, SOL_ICMPV6 = 1, 58  # linux/icmpv6.h
SO_TIMESTAMPNS = 35  # asm-generic/socket.h (64-bit time)
HEADER = struct.Struct("!BBHHH")  # type, code, checksum (the kernel's), identifier, sequence
COOKIE = struct.Struct("!8sQ")  # ours, so that only answers to us count; sequence without wrap
TIMESPEC = struct.Struct("@qq")
OVERLOAD = frozenset({errno.ENOBUFS, errno.EAGAIN, errno.EINTR, errno.ENOMEM})  # may be over in a moment
TOLD = frozenset({errno.EACCES, errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPROTO})  # by ICMP
NICE = -10
DRAIN_MAX = 64  # datagrams read from one socket at a time
IDLE_S = 1.0


@dataclass(frozen=True, slots=True)
class ProbeLink:
    """What to probe: the neighbour's link-local address on a device, from our own."""

    device: str
    own_ll: str
    peer_ll: str
    probe: Probe


@dataclass(slots=True, eq=False)
class _ProbedLink:
    """One link in the thread."""

    link: LinkId
    at: ProbeLink
    liveness: Liveness
    next_at: float
    sock: socket.socket | None = None
    cookie: bytes = field(default_factory=lambda: secrets.token_bytes(8))


class Prober:
    """Probes links from its thread and tells changes to an asyncio loop. Thread-safe.

    ``on_change(link, status)`` is called in ``loop``. A link begins down and is up at its first answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_change: Callable[[LinkId, LinkStatus], None]) -> None:
        self._loop, self._on_change = loop, on_change
        self._commands: deque[Callable[[], None]] = deque()
        self._targets: dict[LinkId, _ProbedLink] = {}
        self._stats: dict[LinkId, LinkStats] = {}
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector.register(self._wake_out, selectors.EVENT_READ)
        self._running = True
        self._turned = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="skedge-probe", daemon=True)
        self._thread.start()

    # -- called from anywhere

    def set_links(self, links: Mapping[LinkId, ProbeLink]) -> None:
        """Probe exactly these links; an unchanged link keeps its state."""
        wanted = dict(links)
        self._send(lambda: self._take_links(wanted))

    def carrier(self, link: LinkId, up: bool) -> None:
        """Tell that a link's device lost or got its carrier (or went away, or came)."""
        self._send(lambda: self._carrier(link, up))

    def snapshot(self) -> Mapping[LinkId, LinkStats]:
        """Return every link's measurements, at most one probe interval old."""
        with self._lock:
            return dict(self._stats)

    def turns(self, within_s: float) -> bool:
        """Tell whether the thread looked at its links of late: what it said before proves nothing now."""
        return time.monotonic() - self._turned <= within_s

    def close(self) -> None:
        """Stop the thread and close all sockets."""
        if self._running:
            self._send(self._stop)
            self._thread.join(timeout=5)
            self._wake_in.close()

    def _send(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        with contextlib.suppress(BlockingIOError, OSError):  # full: it will wake anyway
            self._wake_in.send(b"x")

    # -- in the thread

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # without CAP_SYS_NICE the unit's own priority must do
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            while self._running:
                try:
                    self._turn()
                except Exception:
                    log.exception("a round of probes failed")
                    time.sleep(IDLE_S)
        finally:
            for probed in self._targets.values():
                self._shut(probed)
            self._selector.close()
            self._wake_out.close()

    def _turn(self) -> None:
        """Wait for the next probe, judgement or answer; then read all answers *before* judging what is lost."""
        dues = (min(probed.next_at, probed.liveness.judge_at()) for probed in self._targets.values())
        due = min(dues, default=time.monotonic() + IDLE_S)
        ready = {key.fileobj for key, _ in self._selector.select(max(0.0, due - time.monotonic()))}
        if self._wake_out in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake_out.recv(4096)
        while self._commands:
            self._commands.popleft()()
        now = self._turned = time.monotonic()  # whatever arrived until here is read below
        for probed in list(self._targets.values()):
            try:
                self._look(probed, now, ready=probed.sock in ready)
            except Exception:
                self._failed(probed)

    def _look(self, probed: _ProbedLink, now: float, *, ready: bool) -> None:
        """Read one link's answers, judge, and probe when it is time."""
        if ready or probed.liveness.waits:
            self._drain(probed, now)
        self._tell(probed, probed.liveness.tick(now))
        if now >= probed.next_at:
            self._probe(probed)
            probed.next_at = max(probed.next_at, time.monotonic() - probed.at.probe.interval_ms / 2000)
            probed.next_at += probed.at.probe.interval_ms / 1000
            self._publish(probed)

    def _failed(self, probed: _ProbedLink) -> None:
        """Count a round that could not be made as a probe that was not sent: other links are probed all the same."""
        if probed.liveness.up:
            log.exception("link=%s a probe failed", probed.link)
        now = time.monotonic()
        self._shut(probed)
        probed.liveness.unsent(probed.liveness.next_sequence(), now, errno.EIO, overload=False)
        probed.next_at = now + probed.at.probe.interval_ms / 1000
        self._publish(probed)

    def _publish(self, probed: _ProbedLink) -> None:
        with self._lock:
            self._stats[probed.link] = probed.liveness.stats()

    def _take_links(self, links: dict[LinkId, ProbeLink]) -> None:
        now = time.monotonic()
        for link, probed in list(self._targets.items()):
            if links.get(link) != probed.at:
                self._shut(probed)
                del self._targets[link]
                with self._lock:
                    self._stats.pop(link, None)
        for link, at in links.items():
            if link not in self._targets:
                spread = jitter(link, at.own_ll) * at.probe.interval_ms / 1000
                self._targets[link] = _ProbedLink(link, at, Liveness(at.probe, now), now + spread)

    def _carrier(self, link: LinkId, up: bool) -> None:
        probed = self._targets.get(link)
        if probed:
            now = time.monotonic()
            self._tell(probed, probed.liveness.carrier(up, now))
            if up:
                probed.next_at = now

    def _stop(self) -> None:
        self._running = False

    def _tell(self, probed: _ProbedLink, status: LinkStatus | None) -> None:
        if status is None:
            return
        self._publish(probed)
        log.info("link=%s up=%s reason=%s", probed.link, status.up, status.reason.word)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._on_change, probed.link, status)

    def _probe(self, probed: _ProbedLink) -> None:
        """Send one probe, and note whether the kernel took it."""
        before = time.monotonic()
        sequence = probed.liveness.next_sequence()
        packet = HEADER.pack(ECHO_REQUEST, 0, 0, int.from_bytes(probed.cookie[:2]), sequence & 0xFFFF)
        try:
            if probed.sock is None:
                probed.sock = self._open(probed.at)
                self._selector.register(probed.sock, selectors.EVENT_READ)
            _send(probed.sock, packet + COOKIE.pack(probed.cookie, sequence))
        except OSError as error:
            overload = error.errno in OVERLOAD
            if not overload:
                self._shut(probed)
            probed.liveness.unsent(sequence, time.monotonic(), error.errno or errno.EIO, overload=overload)
        else:
            probed.liveness.sent(sequence, before, time.monotonic())

    def _open(self, at: ProbeLink) -> socket.socket:
        """Return a socket that hears only echo replies of the neighbour on the device. Raises OSError."""
        try:
            sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            only_replies = bytearray(b"\xff" * 32)
            only_replies[ECHO_REPLY // 8] &= ~(1 << (ECHO_REPLY % 8)) & 0xFF
            sock.setsockopt(SOL_ICMPV6, ICMP6_FILTER, bytes(only_replies))
        except PermissionError:  # without CAP_NET_RAW: a ping socket, where net.ipv4.ping_group_range permits
            sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6)
        try:
            exempt(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            bind_to_device(sock, at.device)
            sock.bind(scoped(at.own_ll, 0, at.device))
            sock.connect(scoped(at.peer_ll, 0, at.device))
        except BaseException:
            sock.close()
            raise
        return sock

    def _shut(self, probed: _ProbedLink) -> None:
        if probed.sock:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(probed.sock)
            probed.sock.close()
            probed.sock = None

    def _drain(self, probed: _ProbedLink, now: float) -> None:
        """Hand every answer that is there to the decision."""
        for _ in range(DRAIN_MAX):
            if probed.sock is None:
                return
            try:
                data, ancillary, _flags, _address = probed.sock.recvmsg(128, 64)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error about a probe: the probe is lost, which is for the clock to find
                continue
            sequence = _sequence(data, probed.cookie)
            if sequence is not None:
                self._tell(probed, probed.liveness.reply(sequence, _arrival(ancillary), now))


def _send(sock: socket.socket, packet: bytes) -> None:
    """Send; an ICMP error about an earlier probe, which the kernel tells now, is no refusal of this one."""
    try:
        sock.send(packet)
    except OSError as error:
        if error.errno not in TOLD:
            raise
        sock.send(packet)


def _sequence(data: bytes, cookie: bytes) -> int | None:
    """Return the number of the probe that this answers; None when it answers none of ours."""
    if len(data) != HEADER.size + COOKIE.size or data[0] != ECHO_REPLY:
        return None
    theirs, sequence = COOKIE.unpack_from(data, HEADER.size)
    return sequence if secrets.compare_digest(theirs, cookie) else None


def _arrival(ancillary: list[tuple[int, int, bytes]]) -> float:
    """Return when the datagram arrived (monotonic seconds): the kernel's stamp, now when there is none or a bad one."""
    now = time.monotonic()
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) >= TIMESPEC.size:
            seconds, nanoseconds = TIMESPEC.unpack_from(data)
            age: float = time.time() - (seconds + nanoseconds / 1e9)
            if 0 <= age < 60:  # the wall clock may have been set meanwhile
                return now - age
    return now
