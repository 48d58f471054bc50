#!/usr/bin/python3
"""Clients that hold connections: opens them, asks each server's name, keeps them, and can tell if one was cut.

``hold.py serve SOCKET HOST PORT`` holds; ``hold.py ask SOCKET COMMAND …`` talks to it and prints JSON. Commands:

    open N [PARALLEL]   open N more, one after another (or PARALLEL at a time): which servers answered, which failed
    count               how many are open, by the server's name
    check [SECONDS]     send a byte on every connection and wait for its answer (5 s): alive and dead
    keep                from now on replace a connection that is cut at once, as real clients do
    events              what `keep` did so far: when a cut was seen, when it was served again, by whom, refusals between
    cuts                how connections were cut so far, by the error's name, or "end"; when the last one was
    close [NAME]        close all, or those of one server
    quit                close all and end

Standard library only; runs on lab hosts. Times are those of CLOCK_MONOTONIC, which all hosts of one machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 5.0
GIVE_UP = 30.0


@dataclass(eq=False)
class Connection:
    """One held connection and the server that answered on it."""

    name: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    answers: int = 0
    gone: bool = False
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    watcher: asyncio.Task[None] | None = None


class Holder:
    """All held connections to one address."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.held: list[Connection] = []
        self.keeping = False
        self.events: list[dict[str, object]] = []
        self.cuts: Counter[str] = Counter()
        self.last_cut = 0.0
        self.tasks: set[asyncio.Task[None]] = set()

    async def connect(self) -> Connection:
        """Open one connection and learn its server's name."""
        streams = asyncio.open_connection(self.host, self.port)
        reader, writer = await asyncio.wait_for(streams, CONNECT_TIMEOUT)
        try:
            writer.write(b"?")
            name = await asyncio.wait_for(reader.readline(), ANSWER_TIMEOUT)
            if not name.endswith(b"\n"):
                raise ConnectionResetError("closed without an answer")
        except BaseException:
            writer.transport.abort()
            raise
        connection = Connection(name.decode().strip(), reader, writer)
        connection.watcher = asyncio.create_task(self._watch(connection))
        self.held.append(connection)
        return connection

    async def _watch(self, connection: Connection) -> None:
        """Read answers until the connection ends; then replace it if asked to."""
        cut = "end"
        try:
            while data := await connection.reader.read(64):
                connection.answers += len(data)
                connection.heard.set()
        except OSError as error:
            cut = _word(error)
        seen = self.last_cut = time.monotonic()
        self.cuts[cut] += 1
        connection.gone = True
        connection.heard.set()
        self.held.remove(connection)
        connection.writer.close()
        if self.keeping:
            task = asyncio.create_task(self._replace(connection.name, seen))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _replace(self, lost: str, seen: float) -> None:
        refused = 0
        while time.monotonic() < seen + GIVE_UP:
            try:
                connection = await self.connect()
            except (OSError, TimeoutError):
                refused += 1
                await asyncio.sleep(0.001)
                continue
            now = time.monotonic()
            self.events.append({"lost": lost, "cut": seen, "served": now, "by": connection.name, "refused": refused})
            return
        self.events.append({"lost": lost, "cut": seen, "served": None, "by": None, "refused": refused})

    async def open(self, count: int, parallel: int = 1) -> dict[str, object]:
        """Open more; one that fails is counted by its error and not retried."""
        answers: Counter[str] = Counter()
        failures: Counter[str] = Counter()
        order: list[str] = []
        todo = iter(range(count))
        started = time.monotonic()

        async def worker() -> None:
            for _ in todo:
                try:
                    name = (await self.connect()).name
                except (OSError, TimeoutError) as error:
                    failures[_word(error)] += 1
                else:
                    answers[name] += 1
                    order.append(name)

        await asyncio.gather(*(worker() for _ in range(parallel)))
        took = round((time.monotonic() - started) * 1000, 1)
        return {"answers": dict(answers), "failures": dict(failures), "order": order, "ms": took}

    async def check(self, patience: float = ANSWER_TIMEOUT) -> dict[str, object]:
        """Ask every connection for a sign of life."""
        connections = list(self.held)
        alive: Counter[str] = Counter()
        dead: Counter[str] = Counter()

        async def one(connection: Connection) -> None:
            before = connection.answers
            connection.heard.clear()
            with contextlib.suppress(OSError, TimeoutError, asyncio.TimeoutError):
                connection.writer.write(b".")
                await asyncio.wait_for(connection.heard.wait(), patience)
            (alive if connection.answers > before and not connection.gone else dead)[connection.name] += 1

        await asyncio.gather(*map(one, connections))
        return {"alive": sum(alive.values()), "dead": sum(dead.values()), "alive_by_name": dict(alive)}

    async def close(self, name: str = "") -> dict[str, object]:
        """Close all, or those of one server."""
        chosen = [c for c in self.held if name in ("", c.name)]
        for connection in chosen:
            if connection.watcher:
                connection.watcher.cancel()
            self.held.remove(connection)
            connection.writer.close()
        for connection in chosen:
            with contextlib.suppress(OSError):
                await connection.writer.wait_closed()
        return {"closed": len(chosen)}

    def count(self) -> dict[str, object]:
        """Count the held ones by name."""
        return {"open": len(self.held), "names": dict(Counter(c.name for c in self.held))}

    async def command(self, words: list[str]) -> dict[str, object]:
        """Do one command."""
        match words:
            case ["open", count]:
                return await self.open(int(count))
            case ["open", count, parallel]:
                return await self.open(int(count), int(parallel))
            case ["count"]:
                return self.count()
            case ["check", *seconds]:
                return await self.check(*map(float, seconds))
            case ["keep"]:
                self.keeping = True
                return {"keeping": True}
            case ["events"]:
                return {"events": self.events, "busy": len(self.tasks), **self.count()}
            case ["cuts"]:
                return {"how": dict(self.cuts), "last": self.last_cut}
            case ["close", *name]:
                self.keeping = False
                return await self.close(*name)
        return {"error": f"unknown command: {' '.join(words)}"}


def _word(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__


async def serve(path: str, host: str, port: int) -> None:
    """Hold connections until told to quit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    holder, end = Holder(host, port), asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = (await reader.readline()).decode().split()
        quit_now = words == ["quit"]
        answer = await holder.command(["close"] if quit_now else words)
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        writer.close()
        if quit_now:
            end.set()

    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    async with await asyncio.start_unix_server(talk, path):
        await end.wait()
    os.unlink(path)


def ask(path: str, words: list[str]) -> str:
    """Send one command to a holder and return its answer, one line of JSON."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(" ".join(words).encode() + b"\n")
        return client.makefile().read().strip()


def main() -> int:
    """Hold, or ask a holder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    hold = modes.add_parser("serve")
    hold.add_argument("socket")
    hold.add_argument("host")
    hold.add_argument("port", type=int)
    question = modes.add_parser("ask")
    question.add_argument("socket")
    question.add_argument("words", nargs="+")
    args = parser.parse_args()
    if args.mode == "serve":
        asyncio.run(serve(args.socket, args.host, args.port))
        return 0
    answer = ask(args.socket, args.words)
    print(answer)
    return 1 if not answer or "error" in json.loads(answer) else 0


if __name__ == "__main__":
    sys.exit(main())
