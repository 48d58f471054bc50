"""Many clients and the server that they go to, for tests of capacity; each process holds some thousand sockets.

many.py hold ADDRESS PORT            accept connections and hold them
many.py close ADDRESS PORT           accept connections and close them first
many.py echo ADDRESS PORT            answer datagrams
many.py open SOURCE ADDRESS PORT NUMBER        open connections, say how many, hold them until stdin ends
many.py served SOURCE ADDRESS PORT RATE SECONDS   new connections at a rate, each until the server closes; say how many
many.py asked SOURCE ADDRESS PORT RATE SECONDS    a new UDP client for each question; say how many were answered
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys
import time
from collections.abc import Iterator

BIND_ADDRESS_NO_PORT = 24
AT_ONCE = 128
QUIET_S = 5.0
ACCEPTING = 4  # processes


def client(source: str, kind: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    made.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
    made.bind((source, 0))
    return made


def accept(address: str, port: int, *, closing: bool) -> None:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((address, port))
    listening.listen(4096)
    print("ready", flush=True)
    for _ in range(ACCEPTING - 1):
        if not os.fork():
            break
    held = []
    while True:
        made, _ = listening.accept()
        if closing:
            made.close()
        else:
            held.append(made)


def echo(address: str, port: int) -> None:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind((address, port))
    print("ready", flush=True)
    while True:
        data, peer = bound.recvfrom(100)
        bound.sendto(data, peer)


def opened(source: str, address: str, port: int, number: int) -> list[socket.socket]:
    """Open connections, some at a time, until there are enough or none came for some seconds."""
    found: list[socket.socket] = []
    waiting = selectors.EpollSelector()
    begun, quiet_at = 0, time.monotonic()
    while len(found) < number and time.monotonic() - quiet_at < QUIET_S:
        while begun < number and len(waiting.get_map()) < AT_ONCE:
            one = client(source, socket.SOCK_STREAM)
            one.setblocking(False)
            one.connect_ex((address, port))
            waiting.register(one, selectors.EVENT_WRITE, one)
            begun += 1
        for key, _ in waiting.select(0.1):
            waiting.unregister(key.data)
            if key.data.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                key.data.close()
            else:
                quiet_at = time.monotonic()
                found.append(key.data)
    return found


def paced(rate: int, seconds: int) -> Iterator[int]:
    """Yield numbers at a rate."""
    started = time.monotonic()
    for number in range(rate * seconds):
        ahead = started + number / rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        yield number


def served(source: str, address: str, port: int, rate: int, seconds: int) -> int:
    got = 0
    for _ in paced(rate, seconds):
        with client(source, socket.SOCK_STREAM) as one, contextlib.suppress(OSError):
            one.settimeout(0.5)
            one.connect((address, port))
            got += one.recv(1) == b""
    return got


def asked(source: str, address: str, port: int, rate: int, seconds: int) -> int:
    got = 0
    for _ in paced(rate, seconds):
        with client(source, socket.SOCK_DGRAM) as one, contextlib.suppress(OSError):
            one.settimeout(0.2)
            one.sendto(b"q", (address, port))
            got += one.recv(9) == b"q"
    return got


def main(what: str, *rest: str) -> None:
    if what in ("hold", "close"):
        accept(rest[0], int(rest[1]), closing=what == "close")
    elif what == "echo":
        echo(rest[0], int(rest[1]))
    elif what == "open":
        held = opened(rest[0], rest[1], *map(int, rest[2:]))
        print(len(held), flush=True)
        sys.stdin.read()
    else:
        started = time.monotonic()
        got = (served if what == "served" else asked)(rest[0], rest[1], *map(int, rest[2:]))
        print(got, time.monotonic() - started, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
