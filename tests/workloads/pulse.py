#!/usr/bin/python3
"""Connections whose data waits while there is no path, and when it came through.

``pulse.py serve ADDRESS PORT LATE`` answers; ``pulse.py hold HOST[%SOURCE] PORT COUNT LATE KIND…`` opens COUNT
connections of each kind, and at the end of its input prints, as JSON, when data came on each (seconds of
CLOCK_MONOTONIC). LATE is a file that is not there at first. Kinds:

    ask           the client speaks 20 times a second and is answered
    sees-errors   the same; the client reads errors of the network (IP_RECVERR), and prints what it saw
    stream        the server speaks 20 times a second
    late-client   nobody speaks until the client does, when the file is there, and is answered
    late-server   nobody speaks until the server does, when the file is there

Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
import sys
import time

BEAT_S = 0.05
IP_RECVERR, IPV6_RECVERR = 11, 25


async def wait_for(late: str) -> None:
    while not os.path.exists(late):
        await asyncio.sleep(0.02)


async def answer(late: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection as its first line says."""
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):
        kind = (await reader.readline()).decode().strip()
        if kind == "stream":
            while True:
                writer.write(b".")
                await asyncio.sleep(BEAT_S)
        if kind == "late-server":
            await wait_for(late)
            writer.write(b".")
        while data := await reader.read(4096):
            writer.write(data)
    writer.close()


async def serve(address: str, port: int, late: str) -> None:
    async with await asyncio.start_server(functools.partial(answer, late), address, port) as server:
        await server.serve_forever()


async def hold(kind: str, host: str, port: int, late: str) -> tuple[list[float], socket.socket]:
    """Open one connection; return where the times go at which data comes, and its socket."""
    host, _, source = host.partition("%")
    reader, writer = await asyncio.open_connection(host, port, local_addr=(source, 0) if source else None)
    made = writer.get_extra_info("socket")
    if kind == "sees-errors":
        made.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    times: list[float] = []
    writer.write(f"{kind}\n".encode())

    async def speak() -> None:
        if kind == "late-client":
            await wait_for(late)
            writer.write(b".")
        while kind in ("ask", "sees-errors"):
            writer.write(b".")
            await asyncio.sleep(BEAT_S)

    async def hear() -> None:
        while await reader.read(4096):
            times.append(time.monotonic())

    TASKS.extend(asyncio.create_task(one) for one in (speak(), hear()))
    return times, made


TASKS: list[asyncio.Task[None]] = []


def errors_queued(made: socket.socket) -> int:
    """Return how many errors of the network wait to be read; one that is reported at once ends the connection here."""
    plain = socket.socket(fileno=os.dup(made.fileno()))  # without asyncio's wrapper
    plain.setblocking(False)
    with plain, contextlib.suppress(BlockingIOError):
        return len(plain.recvmsg(1, 1024, socket.MSG_ERRQUEUE)[1])
    return 0


async def client(host: str, port: int, count: int, late: str, kinds: list[str]) -> None:
    held = [(kind, *await hold(kind, host, port, late)) for kind in kinds for _ in range(count)]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    lost = [str(task.exception()) for task in TASKS if task.done() and task.exception()]
    found = (
        [] if lost else [{"kind": kind, "times": times, "errors": errors_queued(made)} for kind, times, made in held]
    )
    print(json.dumps({"lost": lost, "connections": found}), flush=True)


def main(words: list[str]) -> None:
    if words[0] == "serve":
        asyncio.run(serve(words[1], int(words[2]), words[3]))
    else:
        host, port, count, late, *kinds = words[1:]
        asyncio.run(client(host, int(port), int(count), late, kinds))


if __name__ == "__main__":
    main(sys.argv[1:])
