"""Connections that ask again and again: which are lost, and how long one stands still."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2] / "workloads"


@contextmanager
def pulses(port: int, count: int, stop: Path) -> Iterator[dict[str, Any]]:
    """Hold connections; what became of them is in what is yielded when the block is over."""
    said: dict[str, Any] = {}
    command = [sys.executable, HERE / "steady.py", "127.0.0.1", str(port), str(count), "0.05", stop]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield said
        finally:
            stop.touch()
            said |= json.loads(process.communicate(timeout=20)[0])


def answer(one: socket.socket, pause: threading.Event) -> None:
    while data := one.recv(64):
        pause.wait()
        one.sendall(data)


def test_a_server_that_answers_late_and_one_that_hangs_up_are_told_apart(tmp_path: Path) -> None:
    going = threading.Event()
    going.set()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pulses(server.getsockname()[1], 2, tmp_path / "stop") as said,
    ):
        ones = [server.accept()[0] for _ in range(2)]
        for one in ones:
            threading.Thread(target=answer, args=(one, going), daemon=True).start()
        time.sleep(0.3)
        going.clear()
        began = time.monotonic()
        time.sleep(0.4)
        going.set()
        time.sleep(0.2)
        ones[0].shutdown(socket.SHUT_RDWR)
        again = server.accept()[0]
        threading.Thread(target=answer, args=(again, going), daemon=True).start()
        time.sleep(0.2)
    assert said["open"] == 2, "the one that ended was replaced"
    assert [why for _, why in said["lost"]] == ["closed"]
    assert said["unopened"] == []
    stalls = [(asked, took) for asked, took in said["stalls"] if took > 0.3]
    assert len(stalls) == 2
    assert all(asked - 0.1 < began < asked + took for asked, took in stalls)


def test_a_port_where_nobody_listens_is_tried_again_and_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pulses(taken.getsockname()[1], 1, tmp_path / "stop") as said:
            time.sleep(0.8)
    assert said["open"] == 0
    assert len(said["unopened"]) > 1
    assert {why for _, why in said["unopened"]} == {"ECONNREFUSED"}
