#!/usr/bin/python3
"""Clients that come at a steady rate: each connects, asks for the server's name and closes. Standard library only.

``rate.py HOST PORT PER_SECOND STOP`` goes on until the file STOP is there; then it prints JSON: how many there were,
the servers that answered, each failure with when it was (seconds since the start), and those that took long.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter

SLOW_S = 0.15
PATIENCE_S = 10.0  # as real clients have it; a busy test machine stands still for some seconds


class Clients:
    """All clients of one run, and what became of them."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.started = time.monotonic()
        self.answers: Counter[str] = Counter()
        self.failures: list[tuple[float, str]] = []
        self.slow: list[tuple[float, float]] = []

    async def one(self) -> None:
        """Be one client."""
        began = time.monotonic() - self.started
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                try:
                    writer.write(b"?")
                    name = await reader.readline()
                finally:
                    writer.close()
            if not name.endswith(b"\n"):
                raise ConnectionResetError("closed without an answer")
            self.answers[name.decode().strip()] += 1
            if (took := time.monotonic() - self.started - began) > SLOW_S:
                self.slow.append((round(began, 3), round(took, 3)))
        except (OSError, TimeoutError) as error:
            self.failures.append((round(began, 3), str(error) or type(error).__name__))

    async def run(self, per_second: float, stop: str) -> None:
        """Start clients at the rate until the file is there, and wait for the last."""
        tasks: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while not os.path.exists(stop):
            task = asyncio.create_task(self.one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due = max(due + 1 / per_second, time.monotonic() - 0.05)  # a pause of this machine is not made up for
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*tasks)


def main() -> None:
    """Run until told to stop."""
    host, port, per_second, stop = sys.argv[1:]
    clients = Clients(host, int(port))
    asyncio.run(clients.run(float(per_second), stop))
    took = time.monotonic() - clients.started
    count = sum(clients.answers.values()) + len(clients.failures)
    told = {"count": count, "seconds": took, "started": clients.started, "answers": clients.answers}
    print(json.dumps({**told, "failures": clients.failures, "slow": clients.slow}))


if __name__ == "__main__":
    main()
