"""Streams of many bytes, large windows, and what arrives of them."""

from __future__ import annotations

import hashlib
import socket
import threading

from tests.integration.links.kit import Namespace

SIZE = 100_000_000
BLOCK = hashlib.sha256(b"block").digest() * (1 << 15)


def windows(*hosts: Namespace) -> None:
    """Let connections of these hosts have much on the way, and not wait for a clock (as BBR does)."""
    for ns in {one.name: one for one in hosts}.values():
        ns.sh("sysctl -qw net.ipv4.tcp_congestion_control=cubic", check=False)
        ns.sh("sysctl -qw net.ipv4.tcp_wmem='4096 4194304 8388608' net.ipv4.tcp_rmem='4096 4194304 8388608'")


def pour(source: socket.socket, sink: socket.socket, size: int = SIZE) -> None:
    """Send so many bytes and see them arrive as they are."""
    source.settimeout(20)
    sink.settimeout(20)
    failed: list[OSError] = []

    def send() -> None:
        try:
            for at in range(0, size, len(BLOCK)):
                source.sendall(BLOCK[: size - at])
            source.shutdown(socket.SHUT_WR)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    room, found, expected, got = bytearray(1 << 20), hashlib.sha256(), hashlib.sha256(), 0
    while part := sink.recv_into(room):
        found.update(memoryview(room)[:part])
        got += part
    thread.join()
    for at in range(0, size, len(BLOCK)):
        expected.update(BLOCK[: size - at])
    assert (failed, got, found.digest()) == ([], size, expected.digest())
