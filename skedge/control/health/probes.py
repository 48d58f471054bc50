"""Connections to workloads for health checks: name to address, TCP connect, HTTP GET."""

from __future__ import annotations

import asyncio
import re
import socket
import time

from skedge.control.sockets import exempt

RESOLVE_S = 30.0  # a host name is looked up again after so long, or when a probe fails
STATUS_LINE_MAX = 4096  # bytes
STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})[ \r\n]")

Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]  # as getaddrinfo gives them


class ProbeFailed(Exception):
    """A bad probe; the text is its cause."""


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

    async def connect(self) -> socket.socket:
        """Return a socket connected to the first address that answers. Raises ProbeFailed or OSError."""
        failure: OSError | None = None
        for family, address in await self.addresses():
            try:
                sock = await _connect(family, address)
            except OSError as error:
                failure = failure or error
                continue
            self.last = str(address[0])
            return sock
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


async def ask_http(sock: socket.socket, host: str, port: int, path: str) -> None:
    """GET ``path`` over a connected socket, which is closed; 200..399 is good. Raises ProbeFailed or OSError."""
    try:
        reader, writer = await asyncio.open_connection(sock=sock, limit=STATUS_LINE_MAX)
    except BaseException:
        sock.close()
        raise
    try:
        name = f"[{host}]" if ":" in host else host
        request = f"GET {path} HTTP/1.1\r\nHost: {name}:{port}\r\nUser-Agent: skedge\r\nConnection: close\r\n\r\n"
        writer.write(request.encode("ascii", "replace"))
        try:
            line = await reader.readline()
        except ValueError as error:  # longer than the limit
            raise ProbeFailed("the answer is not HTTP") from error
        status = http_status(line)
        if not 200 <= status < 400:
            raise ProbeFailed(f"HTTP status {status}")
    finally:
        writer.transport.abort()


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
        raise ProbeFailed("the answer is not HTTP" if line else "closed without an answer")
    return int(code)
