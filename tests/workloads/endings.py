#!/usr/bin/python3
"""Connections that end in every way there is, as fast as they go: ``endings.py HOST PORT COUNT SEED``.

Prints JSON: how often each ending was made, and the errors by name. ``HOST:PORT`` is a listener behind which
tests/workloads/server.py answers. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import socket
import struct
import sys
from collections import Counter

NOBODY = ("127.0.0.1", 1)  # where nobody listens
LINGER_0 = struct.pack("ii", 1, 0)
AF_UNSPEC = struct.pack("H14x", 0)
HELD_BY_ONE = 5
PATIENCE_S = 20.0
Address = tuple[str, int]


def opened(address: Address) -> socket.socket:
    """Connect and be answered."""
    made = socket.create_connection(address, PATIENCE_S)
    made.sendall(b".")
    if made.recv(1) != b".":
        raise ConnectionResetError(errno.ECONNRESET, "")
    return made


def close(address: Address) -> None:
    """The client closes first."""
    opened(address).close()


def abort(address: Address) -> None:
    """The client resets."""
    with opened(address) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)


def served(address: Address) -> None:
    """The server closes first."""
    with opened(address) as made:
        made.sendall(b"GET / HTTP/1.0\r\n\r\n")
        while made.recv(4096):
            pass


def half(address: Address) -> None:
    """The client says that it is done, and reads to the end."""
    with opened(address) as made:
        made.shutdown(socket.SHUT_WR)
        while made.recv(4096):
            pass


def silent(address: Address) -> None:
    """Nothing is ever said."""
    socket.create_connection(address, PATIENCE_S).close()


def unfinished(address: Address) -> None:
    """The client does not wait for the connection."""
    with socket.socket() as made:
        made.setblocking(False)
        made.connect_ex(address)


def second_try(address: Address) -> None:
    """A socket that was refused elsewhere before."""
    with socket.socket() as made:
        made.connect_ex(NOBODY)  # blocking: Linux aborts the connect after one that was refused meanwhile
        made.connect(address)


def left(address: Address) -> None:
    """The client leaves its peer with connect(AF_UNSPEC), and closes the socket later."""
    with opened(address) as made:
        libc_connect(made.fileno())


def killed(address: Address) -> None:
    """A process ends with its connections open."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            held = [opened(address) for _ in range(HELD_BY_ONE)]
            held[0].sendall(b".")
        os._exit(0)
    os.waitpid(child, 0)


def libc_connect(number: int) -> None:
    """connect() of an address of no family, which Python's socket does not take."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(number, AF_UNSPEC, len(AF_UNSPEC)) != 0:
        raise OSError(ctypes.get_errno(), "connect")


ENDINGS = (close, abort, served, half, silent, unfinished, second_try, left)
RARE = 500  # one in so many is a process that ends


def main() -> None:
    """Make so many connections."""
    host, port, count, seed = sys.argv[1:]
    chance, address = random.Random(int(seed)), (host, int(port))
    made: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    while made.total() < int(count):
        ending = killed if chance.randrange(RARE) == 0 else chance.choice(ENDINGS)
        try:
            ending(address)
        except OSError as error:
            errors[f"{ending.__name__}: {errno.errorcode.get(error.errno or 0, type(error).__name__)}"] += 1
        made[ending.__name__] += HELD_BY_ONE if ending is killed else 1
    print(json.dumps({"made": made, "errors": errors}))


if __name__ == "__main__":
    main()
