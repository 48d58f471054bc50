"""Connections to workloads for health checks: name to address, TCP connect, TLS, HTTP GET."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time

from skedge.control.health import tls
from skedge.control.health.probe_failed import Misunderstood, ProbeFailed
from skedge.control.sockets import exempt
from skedge.core.model import Health, HealthType
from skedge.core.names import address_port
from skedge.core.objects import Target

RESOLVE_S = 30.0  # a host name is looked up again after so long, or when a probe fails
STATUS_LINE_MAX = 4096  # bytes
HANDSHAKE_S = 0.3  # for a second question to a server whose answer to the first is bad anyway
BAD_REQUEST = 400

Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]  # as getaddrinfo gives them


class WorkloadAddresses:
    """A host's addresses, looked up now and then; the one that answered last is tried first."""

    def __init__(self, host: str, port: int, valid_s: float = RESOLVE_S) -> None:
        self._host, self._port, self._valid_s = host, port, valid_s
        self._found: list[tuple[socket.AddressFamily, Address]] = []
        self._at = 0.0
        self.last = ""

    async def addresses(self) -> list[tuple[socket.AddressFamily, Address]]:
        """Return families and socket addresses, best first. Raises ProbeFailed when the name has none."""
        if not self._found or time.monotonic() - self._at > self._valid_s:
            loop = asyncio.get_running_loop()
            try:
                found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            except OSError as error:
                raise ProbeFailed(f"cannot resolve {self._host}: {error.strerror}") from error
            addresses = [(family, address) for family, _type, _proto, _name, address in found]
            self._found = sorted(addresses, key=lambda item: item[1][0] != self.last)
            self._at = time.monotonic()
            self.last = str(self._found[0][1][0])
        return self._found

    async def connect(self) -> tuple[socket.socket, Target]:
        """Return a socket connected to the first address that answers, and that. Raises ProbeFailed or OSError."""
        failure: OSError | None = None
        for family, address in await self.addresses():
            try:
                sock = await _connect(family, address)
            except OSError as error:
                failure = failure or error
                continue
            self.last = str(address[0])
            return sock, Target(self.last, self._port)
        raise failure or ProbeFailed(f"{self._host} has no address")

    def forget(self) -> None:
        """Look the name up again next time."""
        self._found = []


async def _connect(family: socket.AddressFamily, address: Address) -> socket.socket:
    """Return a connected socket of ours. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        exempt(sock)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def converse(sock: socket.socket, at: Target, host: str, health: Health) -> None:
    """Do over a socket connected to ``at`` what the check of a host asks for beyond that; closes it.

    Raises:
        ProbeFailed: what came was not what was asked for.
        OSError: nothing came.
    """
    if not health.tls and health.type is not HealthType.HTTP:
        sock.close()
        return
    try:
        reader, writer = await _open(sock, host, health)
    except BaseException:
        sock.close()
        raise
    try:
        if health.type is HealthType.HTTP:
            await _ask_http(reader, writer, health.host or address_port(host, at.port), health.path)
    except (Misunderstood, ConnectionError) as error:
        if health.tls and isinstance(error, ConnectionError):
            raise ProbeFailed("TLS: closed after the handshake; does it want a client's certificate?") from error
        if not health.tls and await _speaks_tls(at):
            raise ProbeFailed("TLS: the server speaks TLS; give the check tls: true") from error
        raise
    finally:
        writer.transport.abort()


async def _speaks_tls(at: Target) -> bool:
    """Return whether a server that did not understand HTTP understands TLS."""
    family = socket.AF_INET6 if ":" in at.address else socket.AF_INET
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            sock = await _connect(family, (at.address, at.port))
            await converse(sock, at, at.address, Health(tls=True, tls_verify=False))
    except (OSError, ProbeFailed):
        return False
    return True


async def _open(sock: socket.socket, host: str, health: Health) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return the streams of a connected socket, TLS spoken where the check asks for it."""
    if not health.tls:
        return await asyncio.open_connection(sock=sock, limit=STATUS_LINE_MAX)
    try:
        return await asyncio.open_connection(
            sock=sock, limit=STATUS_LINE_MAX, ssl=tls.context(health), server_hostname=tls.server_name(health, host)
        )
    except ssl.SSLError as error:
        raise ProbeFailed(tls.sentence(error)) from error
    except ConnectionError as error:
        raise ProbeFailed("TLS: closed during the handshake") from error


async def _ask_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, path: str) -> None:
    """GET ``path``; 200..399 is good. Raises ProbeFailed or OSError."""
    request = f"GET {path} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: skedge\r\nConnection: close\r\n\r\n"
    writer.write(request.encode("ascii", "replace"))
    try:
        line = await reader.readline()
    except ValueError as error:  # longer than the limit
        raise Misunderstood("the answer is not HTTP") from error
    except ssl.SSLError as error:  # with TLS 1.3 a server refuses a client after the handshake
        raise ProbeFailed(tls.sentence(error)) from error
    status = http_status(line)
    if not 200 <= status < 400:
        raise (Misunderstood if status == BAD_REQUEST else ProbeFailed)(f"answered {status}")


def http_status(line: bytes) -> int:
    """Return the status code of an HTTP status line (RFC 9112). Raises ProbeFailed."""
    version, _, rest = line.partition(b" ")
    code = rest[:3]
    if (
        not version.startswith(b"HTTP/1.")
        or len(code) != 3
        or not code.isdigit()
        or rest[3:4] not in (b" ", b"\r", b"\n")
    ):
        raise Misunderstood("the answer is not HTTP" if line else "closed without an answer")
    return int(code)
