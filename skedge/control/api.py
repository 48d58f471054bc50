"""The local API: one JSON line in (`core.api.documents.Request`), one JSON line out (`core.api.documents.Answer`).

A Unix socket for root and the group ``skedge``; who of them may command is told by `control.peer`. Requests are small
and bounded in size, number and time.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from skedge.control.peer import Peer, peer_of
from skedge.core.api.documents import Answer, Request
from skedge.core.errors import ApiError, SkedgeError

log = logging.getLogger(__name__)

GROUP = "skedge"
MODE = 0o660
REQUEST_MAX = 64 * 1024  # bytes of one line
CONNECTIONS_MAX = 32
IDLE_S = 30.0  # for the next request on a connection
ANSWER_S = 30.0  # for making an answer
SEND_S = 30.0  # for a client to read it

Handler = Callable[[Request, Peer], Awaitable[Answer]]

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Request)


class Api:
    """Serves the socket. Make it with `start`."""

    def __init__(self, path: str, handler: Handler) -> None:
        self.path = Path(path)
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. A socket left behind by a dead controller is replaced.

        Raises:
            ApiError: another controller answers there, or the path cannot be used.
        """
        try:
            self._remove_stale()
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.bind(str(self.path))
                self._restrict()  # nobody can connect before listen()
                self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=REQUEST_MAX)
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            raise ApiError(
                f"{self.path}: cannot listen: {error.strerror}; check the directory and its owner"
            ) from error

    async def close(self) -> None:
        """Stop listening, end all connections, remove the socket."""
        if self._server:
            self._server.close()
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _remove_stale(self) -> None:
        """Remove a socket that nobody answers on. Raises ApiError, OSError."""
        try:
            if not stat.S_ISSOCK(self.path.lstat().st_mode):
                raise ApiError(f"{self.path}: exists and is not a socket; remove it")
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.path))
            except ConnectionRefusedError:
                self.path.unlink()
                return
        raise ApiError(f"{self.path}: another controller answers there; stop it first")

    def _restrict(self) -> None:
        """Let only the owner and the group in."""
        os.chmod(self.path, MODE)
        try:
            os.chown(self.path, -1, grp.getgrnam(GROUP).gr_gid)
        except KeyError:
            log.info("no group %s on this host; only the controller's own group may use %s", GROUP, self.path)
        except PermissionError:
            log.warning("cannot give %s to group %s; only the controller's own group may use it", self.path, GROUP)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            await self._converse(reader, writer)
            writer.close()
        except (OSError, TimeoutError, asyncio.CancelledError):  # the client went, dawdled, or we close
            writer.transport.abort()
        finally:
            self._connections.discard(task)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer line after line. Raises OSError, TimeoutError."""
        peer = peer_of(writer.get_extra_info("socket"))
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    line = await reader.readline()
                last = False
            except ValueError:  # the line is longer than the limit
                line, last = b"", True
            if not line and not last:
                return
            answer = (
                Answer(error=f"a request is longer than {REQUEST_MAX} bytes")
                if last
                else await self._answer(line, peer)
            )
            writer.write(_encoder.encode(answer) + b"\n")
            async with asyncio.timeout(SEND_S):
                await writer.drain()
            if last:
                return

    async def _answer(self, line: bytes, peer: Peer) -> Answer:
        try:
            request = _decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return Answer(error=f"not a request: {error}")
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._handler(request, peer)
        except SkedgeError as error:
            return Answer(error=str(error))
        except TimeoutError:
            return Answer(error=f"no answer within {ANSWER_S:g} s; the controller is busy")
        except Exception as error:
            log.exception("request %s failed", request.op)
            return Answer(error=f"the controller failed to answer ({type(error).__name__}); see its journal")
