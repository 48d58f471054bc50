"""The clients and servers that other tests trust: they count right, and see a cut connection."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workloads.hold import ask

HERE = Path(__file__).resolve().parents[2] / "workloads"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_server(name: str, port: int) -> subprocess.Popen[bytes]:
    argv = [sys.executable, HERE / "server.py", "--name", name, "--port", str(port)]
    server = subprocess.Popen(argv)
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        time.sleep(0.02)
    server.kill()
    raise AssertionError("the server does not listen")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def holder(tmp_path: Path, port: int) -> Iterator[str]:
    path = tmp_path / "hold"
    process = subprocess.Popen([sys.executable, HERE / "hold.py", "serve", path, "127.0.0.1", str(port)])
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.02)
    yield str(path)
    process.kill()
    process.wait()


def tell(path: str, *words: str) -> dict:
    return json.loads(ask(path, list(words)))


def stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGKILL)
    server.wait()


def test_connections_are_counted_by_the_name_that_answers(holder: str, port: int) -> None:
    server = start_server("one", port)
    try:
        assert tell(holder, "open", "7")["answers"] == {"one": 7}
        assert tell(holder, "open", "20", "4")["answers"] == {"one": 20}
        assert tell(holder, "count") == {"open": 27, "names": {"one": 27}}
        assert tell(holder, "check") == {"alive": 27, "dead": 0, "alive_by_name": {"one": 27}}
        assert tell(holder, "close") == {"closed": 27}
        assert tell(holder, "count")["open"] == 0
    finally:
        stop(server)


def test_a_refused_connection_is_counted_as_refused(holder: str) -> None:
    assert tell(holder, "open", "3")["failures"] == {"Connection refused": 3}


def test_a_cut_connection_is_seen(holder: str, port: int) -> None:
    server = start_server("one", port)
    tell(holder, "open", "5")
    stop(server)
    for _ in range(100):
        if tell(holder, "count")["open"] == 0:
            return
        time.sleep(0.02)
    pytest.fail("five connections were cut and none was missed")


def test_a_silent_server_is_dead(holder: str, port: int) -> None:
    server = start_server("one", port)
    try:
        tell(holder, "open", "2")
        server.send_signal(signal.SIGSTOP)
        assert tell(holder, "check", "0.3")["dead"] == 2
    finally:
        server.send_signal(signal.SIGCONT)
        stop(server)


def test_keep_replaces_cut_connections_and_says_when(holder: str, port: int) -> None:
    server = start_server("one", port)
    tell(holder, "open", "4")
    tell(holder, "keep")
    before = time.monotonic()
    stop(server)
    time.sleep(0.2)
    server = start_server("two", port)
    try:
        for _ in range(100):
            answer = tell(holder, "events")
            if len(answer["events"]) == 4:
                break
            time.sleep(0.02)
        assert answer["names"] == {"two": 4}
        assert all(e["lost"] == "one" and e["by"] == "two" and e["refused"] > 0 for e in answer["events"])
        assert all(before <= e["cut"] < e["served"] - 0.19 for e in answer["events"])
    finally:
        stop(server)


def test_http_and_names(port: int) -> None:
    server = start_server("web", port)
    try:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.makefile().read().endswith("\r\n\r\nweb\n".replace("\r\n", "\n"))
    finally:
        stop(server)
