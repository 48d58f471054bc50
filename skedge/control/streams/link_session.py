"""This site's end of one link's control stream: listen, dial, and keep the one stream that both ends keep."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Coroutine
from dataclasses import replace

from skedge.control.sockets import bind_to_device, exempt, scoped
from skedge.control.streams.dial_verdict import DialVerdict
from skedge.control.streams.seams import Seams, StreamStats
from skedge.control.streams.stream import BusLink, Refused, Stream, accept, dial
from skedge.core.linkstate.messages import Message
from skedge.core.linkstate.pacing import jitter
from skedge.core.model import LinkId
from skedge.core.reasons import Reason

log = logging.getLogger(__name__)

DIAL_S = 0.5
DIAL_RTTS = 4
RETRY_FIRST_S = 0.1
RETRY_MOST_S = 2.0
YIELD_S = 0.3  # the site with the larger name lets the other dial first
STABLE_S = 5.0  # a stream that lived so long was a good one
COLLISION_S = 2.0  # two streams within so long of each other were dialled at the same time
HALF_OPEN_MAX = 4  # handshakes at once on a link
ACCEPT_PAUSE_S = 0.05  # at most 20 a second on a link
SAID_MAX = 16  # causes logged between two streams
RECHECK_S = 5.0  # is the peer's certificate still good
LAST_WORDS_S = 1.0  # after a link went down: the neighbour, whose own probes may be answered, is to hear of it
DEVICE_CHECK_S = 2.0  # a device that was made anew has another index


class LinkEnd:
    """This site's end of one link: listens, dials, and keeps the one stream."""

    def __init__(self, bus: Seams, link: LinkId, at: BusLink) -> None:
        self.bus, self.link, self.at = bus, link, at
        self.stream: Stream | None = None
        self._wanted = asyncio.Event()  # no stream, and the link is up
        self._wanted.set()
        self._up = True
        self._hurry = asyncio.Event()
        self._last = StreamStats(False, time.monotonic(), Reason.NO_ANSWER, f"{link}: not yet")
        self._attempt = 0
        self._said: set[str] = set()
        self._refused = ""
        self._verdict = DialVerdict()
        self._farewell: asyncio.TimerHandle | None = None
        self._dialling: asyncio.Task[Stream] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn(self._listen())
        self._spawn(self._dial())
        self._spawn(self._recheck())

    def stats(self) -> StreamStats:
        """Return the state of the stream."""
        if not self.stream:
            return replace(self._last, tcp=self._verdict.reason, refused=self._refused)
        stream = self.stream
        return StreamStats(
            True,
            stream.since,
            dialler=stream.dialler,
            frames_in=stream.frames_in,
            frames_out=stream.frames_out,
            shown=stream.shown,
            refused=self._refused,
        )

    def renew(self) -> None:
        """Show a new certificate: a stream made with it replaces the one that is there, as soon as it is taken."""
        self._attempt = 0
        self._want()

    def set_up(self, up: bool) -> None:
        """Note whether the link carries packets."""
        self._up = up
        self._verdict.forget()
        if not up:
            if self._dialling:
                self._dialling.cancel()
            if not self._farewell:
                self._farewell = asyncio.get_running_loop().call_later(LAST_WORDS_S, self._close_down)
        else:
            if self._farewell:
                self._close_down()
            self._attempt = 0
            if self.stream is None:
                self._hurry.set()
        self._want()

    def _close_down(self) -> None:
        """Close the stream of a link that went down, its last words said."""
        if self._farewell:
            self._farewell.cancel()
            self._farewell = None
        self.drop(Reason.PROBE_LOST, f"{self.link}: the link is down")

    def drop(self, reason: Reason, text: str) -> None:
        """Close the stream, if any, and report it."""
        stream, self.stream = self.stream, None
        if stream:
            stream.abort()
            if time.monotonic() - stream.since > STABLE_S:
                self._attempt = 1  # a stream that breaks early is dialled again ever more slowly
            self._failed(reason, text)
            self.bus.on_down(self.link, reason)
        self._want()

    async def close(self, reason: Reason) -> None:
        """End everything of this link."""
        if self._farewell:
            self._farewell.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.drop(reason, f"{self.link}: closed")

    def _want(self) -> None:
        if self._up and (self.stream is None or self.stream.shown != self.bus.identity.serial):
            self._wanted.set()
        else:
            self._wanted.clear()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _failed(self, reason: Reason, text: str) -> None:
        """Keep why there is no stream; log each cause once until there is one again."""
        since = time.monotonic() if self.stream is None and self._last.up else self._last.since
        self._last = StreamStats(False, since, reason, text)
        if reason is Reason.BAD_SIGNATURE:
            self._refused = text
        if text not in self._said and len(self._said) < SAID_MAX:
            self._said.add(text)
            level = logging.WARNING if reason not in (Reason.NO_ANSWER, Reason.NONE) else logging.INFO
            log.log(level, "link=%s stream=down reason=%s %s", self.link, reason.word, text)

    def _note_dial(self, told: Reason | None) -> None:
        """Take what a dial told of TCP on the link."""
        if told is not None and self._up and self._verdict.note(time.monotonic(), told):
            log.warning("link=%s tcp=%s", self.link, self._verdict.reason.word)
            self.bus.on_verdict(self.link)

    def _adopt(self, new: Stream) -> bool:
        """Take a new stream if it is the one that survives at both ends; the other is closed."""
        old = self.stream
        smaller = min(self.bus.site, self.at.neighbour)
        if old and not survives(new.dialler, old.dialler, smaller, time.monotonic() - old.since):
            new.abort()
            return False
        if old:
            self.drop(Reason.STALE, f"{self.link}: replaced by a newer stream")
        self.stream = new
        self._note_dial(Reason.NONE)
        self._last = StreamStats(True, new.since)
        self._said.clear()
        self._refused = ""
        self._want()
        log.info("link=%s stream=up neighbour=%s dialled_by=%s", self.link, self.at.neighbour, new.dialler)
        self.bus.on_up(self.link)
        self._spawn(self._run(new))
        return True

    async def _run(self, stream: Stream) -> None:
        """Move messages while this is the link's stream: one that was replaced must not take the other's first word."""
        reason, text = Reason.NO_ANSWER, f"{self.link}: stream ended"

        def take(link: LinkId) -> Message | None:
            return self.bus.take(link) if self.stream is stream else None

        def deliver(link: LinkId, message: Message) -> None:
            if self.stream is stream:
                self.bus.on_message(link, message)

        try:
            await stream.run(take, deliver)
        except Refused as error:
            reason, text = error.reason, str(error)
        except Exception:
            log.exception("link=%s a message could not be handled; the stream is closed", self.link)
            reason = Reason.BAD_FRAME
        finally:
            stream.abort()
        if self.stream is stream:
            self.drop(reason, text)

    async def _dial(self) -> None:
        """Dial whenever a stream is wanted, with growing delays that differ at the two ends."""
        yields = self.bus.site > self.at.neighbour
        while True:
            await self._wanted.wait()
            delay = YIELD_S if yields else 0.0
            if self._attempt:
                spread = 0.5 + jitter(self.bus.site, self.link, self._attempt)
                delay += min(RETRY_FIRST_S * 2 ** min(self._attempt - 1, 8), RETRY_MOST_S) * spread
            await self._pause(delay)
            if not self._wanted.is_set():
                continue
            self._attempt += 1
            stream = await self._dial_once()
            if stream and not (self._up and self._adopt(stream)):
                stream.abort()

    async def _dial_once(self) -> Stream | None:
        """Dial; return the stream, or None when refused or when the link went down meanwhile."""
        timeout_s = max(DIAL_S, DIAL_RTTS * self.bus.rtt(self.link))
        work = dial(self.link, self.at, self.bus.port, self.bus.identity, timeout_s)
        self._dialling = asyncio.get_running_loop().create_task(work)
        try:
            await asyncio.wait({self._dialling})
            if self._dialling.cancelled():
                return None
            return self._dialling.result()
        except Refused as error:
            if self.stream is None:
                self._failed(error.reason, str(error))
                self._note_dial(error.told)
            else:
                self._refused = str(error)
            return None
        except asyncio.CancelledError:
            self._dialling.cancel()
            await asyncio.wait({self._dialling})
            raise
        finally:
            self._dialling = None

    async def _pause(self, delay: float) -> None:
        """Wait, less when the link comes up meanwhile."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._hurry.wait()
        self._hurry.clear()

    async def _recheck(self) -> None:
        """Close a stream whose certificate is revoked or has ended since it came up."""
        while True:
            await asyncio.sleep(RECHECK_S)
            if self.stream:
                try:
                    self.stream.check(self.at.neighbour, self.bus.identity.trust)
                except Refused as error:
                    self.drop(error.reason, str(error))

    async def _listen(self) -> None:
        """Accept on the link device for as long as it exists, and again when it comes back."""
        while True:
            try:
                with self._listener() as listener:
                    await self._accept_from(listener, socket.if_nametoindex(self.at.device))
            except OSError as error:
                self._failed(Reason.NO_CARRIER, f"{self.link}: cannot listen on {self.at.device}: {error.strerror}")
                await asyncio.sleep(DEVICE_CHECK_S)

    def _listener(self) -> socket.socket:
        """Return a socket that listens on our link-local address of the device. Raises OSError."""
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        try:
            exempt(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bind_to_device(sock, self.at.device)
            sock.bind(scoped(self.at.own_ll, self.bus.port, self.at.device))
            sock.listen(HALF_OPEN_MAX)
        except BaseException:
            sock.close()
            raise
        return sock

    async def _accept_from(self, listener: socket.socket, index: int) -> None:
        """Accept until the device is another one. Raises OSError when it is gone."""
        loop = asyncio.get_running_loop()
        half_open: set[asyncio.Task[None]] = set()
        while socket.if_nametoindex(self.at.device) == index:
            try:
                async with asyncio.timeout(DEVICE_CHECK_S):
                    sock, address = await loop.sock_accept(listener)
            except TimeoutError:
                continue
            peer = str(address[0]).partition("%")[0]
            if peer != self.at.peer_ll or len(half_open) >= HALF_OPEN_MAX or not self._up:
                sock.close()
            else:
                task = loop.create_task(self._greet(sock))
                for tasks in (half_open, self._tasks):
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
            await asyncio.sleep(ACCEPT_PAUSE_S)

    async def _greet(self, sock: socket.socket) -> None:
        try:
            stream = await accept(sock, self.link, self.at, self.bus.identity)
        except Refused as error:
            if self.stream is None:
                self._failed(error.reason, str(error))
            return
        if not self._adopt(stream):
            log.debug("link=%s second stream closed", self.link)


def survives(new: str, old: str, smaller: str, old_age_s: float) -> bool:
    """Tell whether a new stream replaces the old one, the same at both ends. ``new``, ``old``: who dialled them.

    Of two dialled at the same time the one of the site with the ``smaller`` name stays; otherwise the newer, because
    its dialler has lost the older.
    """
    return new in (old, smaller) or old_age_s > COLLISION_S
