#!/usr/bin/python3
"""Clients through a fault: new connections at a steady rate, and held ones that never stop talking.

``through.py HOST PORT SECONDS [RATE] [HELD]`` prints ``begun``, and one JSON document at the end:

    new    of every connect: [its start, seconds until the server's name was there, error such as EHOSTUNREACH or ""]
    held   of every held connection: [when its longest silence began, its seconds, error or ""]

A held connection asks every 10 ms, and asks again only when it was answered. Standard library only; times are those of
CLOCK_MONOTONIC.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import sys
import time

GIVE_UP_S = 10.0
PACE_S = 0.01


def word(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    return errno.errorcode.get(number, str(number)) if number else type(error).__name__


async def new(host: str, port: int, results: list[tuple[float, float, str]]) -> None:
    began, text = time.monotonic(), ""
    try:
        async with asyncio.timeout(GIVE_UP_S):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"?")
            if not await reader.readline():
                text = "EOF"
    except (OSError, TimeoutError) as error:
        text = word(error)
    else:
        writer.close()
    results.append((began, time.monotonic() - began, text))


async def held(host: str, port: int, until: float, results: list[tuple[float, float, str]]) -> None:
    worst, text = (0.0, 0.0), ""
    try:
        reader, writer = await asyncio.open_connection(host, port)
        while (asked := time.monotonic()) < until:
            writer.write(b".")
            async with asyncio.timeout(GIVE_UP_S):
                if not await reader.readexactly(1):
                    break
            worst = max(worst, (time.monotonic() - asked, asked))
            await asyncio.sleep(PACE_S)
        writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        text = word(error)
    results.append((worst[1], worst[0], text))


async def main(host: str, port: int, seconds: float, rate: float, holding: int) -> None:
    made: list[tuple[float, float, str]] = []
    kept: list[tuple[float, float, str]] = []
    print("begun", flush=True)
    began = time.monotonic()
    tasks = [asyncio.create_task(held(host, port, began + seconds, kept)) for _ in range(holding)]
    for number in range(int(seconds * rate)):
        with contextlib.suppress(ValueError):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        tasks.append(asyncio.create_task(new(host, port, made)))
    await asyncio.gather(*tasks)
    print(json.dumps({"new": made, "held": kept}), flush=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    options = [float(one) for one in words[2:]]
    asyncio.run(main(words[0], int(words[1]), options[0], *(options[1:2] or [200.0]), int((options[2:3] or [0])[0])))
