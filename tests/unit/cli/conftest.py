"""A controller that is not there: a real Unix socket with canned answers."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import msgspec
import pytest

from skedge.core.api.documents import Answer, Request


class FakeController:
    """Serves one line back for each line in, by the function ``reply``, and keeps the requests."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.requests: list[Request] = []
        self.reply: Callable[[Request], Answer | bytes] = lambda request: Answer(error=f"no answer for {request.op}")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(self.path)
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> FakeController:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                stream, _ = self._socket.accept()
            except OSError:
                return
            with stream, stream.makefile("rb") as lines:
                line = lines.readline()
                request = msgspec.json.decode(line, type=Request)
                self.requests.append(request)
                answer = self.reply(request)
                with contextlib.suppress(BrokenPipeError):  # a client that did not wait
                    stream.sendall(answer if isinstance(answer, bytes) else msgspec.json.encode(answer) + b"\n")


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[FakeController]:
    with FakeController(tmp_path / "api.sock") as fake:
        yield fake
