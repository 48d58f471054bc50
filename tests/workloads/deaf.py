#!/usr/bin/python3
"""A socket that listens and that nobody accepts on, until a file comes; then a workload that says its name.

As container engines hold a published port, and as a program is that hangs. Standard library only.
"""

from __future__ import annotations

import argparse
import socket
import threading
import time
from pathlib import Path


def serve(connection: socket.socket, name: bytes) -> None:
    """Answer each byte ``?`` with the name, until the client closes."""
    while data := connection.recv(4096):
        connection.sendall((name + b"\n") * data.count(b"?") + b"." * data.count(b"."))
    connection.close()


def main() -> None:
    """Listen where the command line says, and accept once the file is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="deaf")
    parser.add_argument("--address", default="0.0.0.0")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backlog", type=int, default=64)
    parser.add_argument("--until", type=Path, default=Path("/nowhere"))
    args = parser.parse_args()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((args.address, args.port))
    listener.listen(args.backlog)
    while not args.until.exists():
        time.sleep(0.05)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, args.name.encode()), daemon=True).start()


if __name__ == "__main__":
    main()
