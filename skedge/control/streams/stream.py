"""One control stream: TCP on a link device, TLS 1.3 with both certificates, frames in and out."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from skedge.control.identity.identity import Identity
from skedge.control.identity.trust import CertificateError, Trust
from skedge.control.sockets import TCP_NOTSENT_LOWAT, bind_to_device, exempt, scoped
from skedge.control.streams.frames import BadFrame, decode_message, frame, read_frame
from skedge.core.errors import PeerError
from skedge.core.linkstate.messages import Message
from skedge.core.model import LinkId
from skedge.core.reasons import Reason

log = logging.getLogger(__name__)

HANDSHAKE_S = 5.0  # for TLS; dialling has its own, shorter time-out
FIRST_FRAME_S = 5.0
FRAME_REST_S = 60.0  # for the rest of a frame that began, on the slowest link
STALL_S = 60.0  # a writer that cannot get rid of one frame for so long gives up
SHUTDOWN_S = 1.0
BUFFER_BYTES = 64 * 1024  # unsent bytes here and in the kernel: what waits longer stays in the flooder's queue
USER_TIMEOUT_MS = 10_000  # unacknowledged data or a closed window for so long ends the stream
KEEPALIVE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3))
_TOLD = {
    errno.ECONNREFUSED: Reason.NONE,
    errno.EACCES: Reason.TCP_PROHIBITED,
    errno.EHOSTUNREACH: Reason.TCP_PROHIBITED,
}  # what a failed connect tells of TCP on the link; anything else tells of our own host
SERVER_NAME = "skedge"  # SNI only; the name that counts is the certificate's
X509_V_ERR_CERT_REVOKED = 23  # openssl/x509_vfy.h


class Refused(PeerError):
    """A stream that does not come to be: ``reason``, and a sentence that names the link.

    ``told`` is what the dial told of TCP on the link (see `DialVerdict.note`), None where it told nothing.
    """

    def __init__(self, reason: Reason, text: str, told: Reason | None = None) -> None:
        super().__init__(text)
        self.reason, self.told = reason, told


@dataclass(frozen=True, slots=True)
class BusLink:
    """Where a link's stream runs: its device, both link-local addresses, and the configured neighbour."""

    device: str
    own_ll: str
    peer_ll: str
    neighbour: str


@dataclass(slots=True, eq=False)
class Stream:
    """An authenticated stream. ``dialler`` is the site that dialled it, ``since`` when it was usable (monotonic)."""

    link: LinkId
    dialler: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    since: float = field(default_factory=time.monotonic)
    shown: str = ""  # serial number of this site's certificate by which the stream was made
    first: bytes | None = None  # a frame read before the stream counted as up
    kick: asyncio.Event = field(default_factory=asyncio.Event)
    frames_in: int = 0
    frames_out: int = 0

    async def run(self, take: Callable[[LinkId], Message | None], deliver: Callable[[LinkId, Message], None]) -> None:
        """Move frames both ways until the stream ends. Raises Refused, also at a clean end."""
        failure: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(deliver))
                group.create_task(self._write(take))
        except* (BadFrame, Refused, OSError) as failed:
            failure = failed.exceptions[0]
        if failure:
            raise refusal(failure, self.link)

    def check(self, neighbour: str, trust: Trust) -> None:
        """Check, now or again, that the peer is the neighbour and its certificate still good. Raises Refused."""
        tls: ssl.SSLObject | None = self.writer.get_extra_info("ssl_object")
        der = tls.getpeercert(binary_form=True) if tls else None
        if der is None:
            raise Refused(Reason.BAD_SIGNATURE, f"{self.link}: the peer showed no certificate")
        try:
            peer = trust.check(der)
        except CertificateError as error:
            raise Refused(error.reason, f"{self.link}: {error}") from error
        if peer.site != neighbour:
            text = f"the far end is {peer.site!r}, configured is {neighbour!r}; correct the link or the tunnel"
            raise Refused(Reason.WRONG_PEER, f"{self.link}: {text}")

    def abort(self) -> None:
        """Close at once, without waiting for what is unsent."""
        self.writer.transport.abort()

    async def _read(self, deliver: Callable[[LinkId, Message], None]) -> None:
        while True:
            payload, self.first = self.first or await read_frame(self.reader, FRAME_REST_S), None
            if payload is None:
                raise Refused(Reason.NO_ANSWER, f"{self.link}: the neighbour closed the stream")
            self.frames_in += 1
            deliver(self.link, decode_message(payload))
            await asyncio.sleep(0)  # a neighbour that floods gets its turns, not all turns

    async def _write(self, take: Callable[[LinkId], Message | None]) -> None:
        while True:
            self.kick.clear()
            while (message := take(self.link)) is not None:
                try:
                    data = frame(message)
                except BadFrame as error:
                    log.error("link=%s dropped own message: %s", self.link, error)
                    continue
                self.writer.write(data)
                try:
                    async with asyncio.timeout(STALL_S):
                        await self.writer.drain()
                except TimeoutError as error:
                    raise Refused(Reason.NO_ANSWER, f"{self.link}: nothing could be sent for {STALL_S:g} s") from error
                self.frames_out += 1
                await asyncio.sleep(0)
            await self.kick.wait()


def tune(sock: socket.socket) -> None:
    """Set what every control socket needs: our mark, quick notice of a dead peer, little unsent data."""
    exempt(sock)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, BUFFER_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


async def dial(link: LinkId, at: BusLink, port: int, identity: Identity, timeout_s: float) -> Stream:
    """Connect to the neighbour and return the stream once the neighbour has accepted us too.

    Its first frame proves that: in TLS 1.3 the dialler is done before the far end has seen its certificate.

    Raises:
        Refused: with the reason why.
    """
    sock = await _connect(link, at, port, timeout_s)
    shown = identity.serial
    try:
        reader, writer = await asyncio.open_connection(
            sock=sock,
            ssl=identity.tls(server=False),
            server_hostname=SERVER_NAME,
            ssl_handshake_timeout=HANDSHAKE_S,
            ssl_shutdown_timeout=SHUTDOWN_S,
        )
    except (OSError, TimeoutError) as error:
        sock.close()
        hung_up = isinstance(error, ConnectionResetError)
        raise refusal(error, link, Reason.ONE_WAY if hung_up else Reason.NONE) from error
    except BaseException:
        sock.close()
        raise
    stream = Stream(link, identity.site, reader, writer, shown=shown)
    try:
        stream.writer.transport.set_write_buffer_limits(high=BUFFER_BYTES)
        stream.check(at.neighbour, identity.trust)
        async with asyncio.timeout(FIRST_FRAME_S):
            stream.first = await read_frame(reader, FIRST_FRAME_S)
        if stream.first is None:
            raise Refused(Reason.NO_ANSWER, f"{link}: {at.neighbour} closed the stream before a word")
    except (OSError, TimeoutError, BadFrame) as error:
        stream.abort()
        raise refusal(error, link, Reason.NONE) from error
    except BaseException:
        stream.abort()
        raise
    stream.since = time.monotonic()
    return stream


async def _connect(link: LinkId, at: BusLink, port: int, timeout_s: float) -> socket.socket:
    """Return a socket connected to the neighbour. Raises Refused, with what that tells of TCP on the link."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        tune(sock)
        bind_to_device(sock, at.device)
        sock.bind(scoped(at.own_ll, 0, at.device))
        address = scoped(at.peer_ll, port, at.device)
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(sock, address)
    except TimeoutError as error:
        sock.close()
        raise refusal(error, link, Reason.TCP_DROPPED) from error
    except OSError as error:
        sock.close()
        raise refusal(error, link, _TOLD.get(error.errno or 0)) from error
    except BaseException:
        sock.close()
        raise
    return sock


async def accept(sock: socket.socket, link: LinkId, at: BusLink, identity: Identity) -> Stream:
    """Shake hands on an accepted socket and return the stream. Raises Refused."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    shown = identity.serial
    try:
        tune(sock)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            sock,
            ssl=identity.tls(server=True),
            ssl_handshake_timeout=HANDSHAKE_S,
            ssl_shutdown_timeout=SHUTDOWN_S,
        )
    except (OSError, TimeoutError) as error:
        sock.close()
        raise refusal(error, link) from error
    except BaseException:
        sock.close()
        raise
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    stream = Stream(link, at.neighbour, reader, writer, shown=shown)
    try:
        transport.set_write_buffer_limits(high=BUFFER_BYTES)
        stream.check(at.neighbour, identity.trust)
    except BaseException:
        stream.abort()
        raise
    return stream


def refusal(error: BaseException, link: LinkId, told: Reason | None = None) -> Refused:
    """Return what went wrong on a stream, with the reason from the closed list."""
    made = error if isinstance(error, Refused) else _refusal(error, link)
    made.told = made.told if told is None else told
    return made


def _refusal(error: BaseException, link: LinkId) -> Refused:
    if isinstance(error, BadFrame):
        return Refused(Reason.BAD_FRAME, f"{link}: {error}")
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = Reason.REVOKED if error.verify_code == X509_V_ERR_CERT_REVOKED else Reason.BAD_SIGNATURE
        return Refused(reason, f"{link}: the neighbour's certificate is refused: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        alert = error.reason or str(error)
        if "ALERT" not in alert:
            return Refused(Reason.BAD_FRAME, f"{link}: TLS failed: {alert}")
        reason = Reason.REVOKED if "REVOKED" in alert else Reason.BAD_SIGNATURE
        return Refused(reason, f"{link}: the neighbour refuses our certificate: {alert.lower()}")
    if isinstance(error, TimeoutError) and not error.args:
        text = "no answer in time"
    elif isinstance(error, OSError) and error.errno:
        text = os.strerror(error.errno)  # asyncio puts the socket's address into the text
    else:
        text = str(error) or "the neighbour ended the connection in the handshake"
    return Refused(Reason.NO_ANSWER, f"{link}: {text}")
