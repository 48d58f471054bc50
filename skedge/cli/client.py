"""Asks the local controller over its Unix socket: one JSON line out, one JSON line back."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import msgspec

from skedge.core.api.documents import VERSION, Answer, Request
from skedge.core.errors import ApiError

TIMEOUT_S = 10.0  # for the whole exchange; `plan` reads the kernel, which takes some seconds on a large host
ANSWER_MAX = 64 * 1024 * 1024  # bytes


class NotRunning(ApiError):
    """No controller answers on the socket; the operator must start it."""


class _Head(msgspec.Struct):
    version: int = 0


def ask(request: Request, path: str, timeout_s: float = TIMEOUT_S) -> Answer:
    """Return the controller's answer.

    Raises:
        NotRunning: nothing answers on ``path``.
        ApiError: the request was refused, or the answer cannot be understood.
    """
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(timeout_s)
        _connect(stream, path)
        try:
            stream.sendall(msgspec.json.encode(request) + b"\n")
            line = _read_line(stream, deadline)
        except TimeoutError as error:
            hint = "see why with: journalctl -u skedge"
            raise ApiError(f"the controller did not answer within {timeout_s:g} s; {hint}") from error
        except OSError as error:
            raise ApiError(f"the controller closed the connection ({error.strerror}); try again") from error
    return _decode(line)


def _connect(stream: socket.socket, path: str) -> None:
    start = "start it with: systemctl start skedge"
    try:
        stream.connect(path)
    except FileNotFoundError as error:
        raise NotRunning(f"the controller is not running on this host (no {path}); {start}") from error
    except ConnectionRefusedError as error:
        raise NotRunning(f"the controller is not running on this host (nothing answers on {path}); {start}") from error
    except PermissionError as error:
        way_out = "use sudo, or add your user to the group skedge"
        raise ApiError(f"this user may not open {path}; {way_out}") from error
    except TimeoutError as error:
        raise ApiError(f"the controller does not accept connections on {path}; {start}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ApiError(f"{Path(path)}: {reason}; give the controller's socket with --socket") from error


def _read_line(stream: socket.socket, deadline: float) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while not chunks or b"\n" not in chunks[-1]:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        stream.settimeout(left)
        chunk = stream.recv(65536)
        if not chunk:
            break
        chunks.append(chunk)
        size += len(chunk)
        if size > ANSWER_MAX:
            raise ApiError(f"the answer is larger than {ANSWER_MAX} bytes; ask for less with --limit")
    if not chunks:
        raise ApiError("the controller closed the connection without an answer; see why with: journalctl -u skedge")
    return b"".join(chunks)


def _decode(line: bytes) -> Answer:
    same = "install the command and the controller from one release"
    try:
        version = msgspec.json.decode(line, type=_Head).version
        if version != VERSION:
            raise ApiError(f"the controller speaks version {version} of the API, this command {VERSION}; {same}")
        answer = msgspec.json.decode(line, type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(f"the answer cannot be understood ({error}); {same}") from error
    if answer.error:
        raise ApiError(answer.error)
    return answer
