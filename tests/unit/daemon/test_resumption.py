"""When connections are looked at and told, with a host in memory."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

import pytest

from skedge.core.errors import DataplaneError
from skedge.core.objects import KernelRoute, NextHop
from skedge.core.stalls import Stalled, StallKind
from skedge.daemon.kernel import resumption
from skedge.daemon.kernel.resumption import Resumption

ROUTE = KernelRoute((NextHop("sk-b", "fe80::1"),), "100.64.0.1")
ROUNDS = ((0.02, 4), (0.1, 16), (0.3, 16))
B, C = (bytes(10) + b"\xff\xff\x64\x40\x00" + bytes([number]) for number in (2, 3))
TO_B, TO_C = "100.64.0.2/32", "100.64.0.3/32"


def stalled(kind: StallKind, port: int, far: bytes = B, backoff: int = 0, unanswered_ms: int = 0) -> Stalled:
    return Stalled(kind, bytes(16), port, far, 61000, far, 7, backoff, unanswered_ms)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumption, "ROUNDS", ROUNDS)


class Host:
    """Connections that stand still, until they are told."""

    def __init__(self, sockets: Iterable[Stalled] = (), flows: Iterable[Stalled] = ()) -> None:
        self.standing, self.lan = list(sockets), list(flows)
        self.told: list[tuple[int, int]] = []
        self.looks = 0

    def sockets(self) -> list[Stalled]:
        self.looks += 1
        return self.standing

    def flows(self) -> list[Stalled]:
        return self.lan

    def tell(self, wanted: Iterable[tuple[Stalled, int]]) -> None:
        self.told += [(one.local_port, times) for one, times in wanted]


def play(host: Host | None, script: Callable[[Resumption], Awaitable[None]]) -> Resumption:
    async def main() -> Resumption:
        made = Resumption(host)
        task = asyncio.create_task(made.run())
        await script(made)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return made

    return asyncio.run(main())


async def all_rounds(host: Host, times: int = 1) -> None:
    """Wait for so many times all looks, and for one more that must not come."""
    until = time.monotonic() + 20
    while host.looks < times * len(ROUNDS) and time.monotonic() < until:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)


def test_each_kind_is_dealt_with_and_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "skedge.daemon")
    host = Host(
        [
            stalled(StallKind.SENT, 1, backoff=9),
            stalled(StallKind.SEES_ERRORS, 2, backoff=9),
            stalled(StallKind.PUSHED, 3, backoff=9),
            stalled(StallKind.SENT, 4, far=C, backoff=9),
        ],
        [stalled(StallKind.FLOW, 5, unanswered_ms=6200)],
    )

    async def script(made: Resumption) -> None:
        made.follow({TO_B: ROUTE})
        await all_rounds(host)

    made = play(host, script)
    assert host.told == [(5, 4), (1, 4), (5, 5), (1, 9), (5, 5), (1, 9)]
    assert made.tally == {"told": 1, "left-out": 1, "pushed": 1, "lan": 1}
    assert "op=resume told=1 left-out=1 pushed=1 lan=1" in caplog.text


def test_routes_that_stay_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "skedge.daemon")
    host = Host()

    async def script(made: Resumption) -> None:
        made.follow({TO_B: ROUTE})
        await all_rounds(host)
        made.follow({TO_B: ROUTE})
        made.follow({})
        made.expect({})
        await asyncio.sleep(0.5)

    play(host, script)
    assert host.looks == len(ROUNDS)
    assert "op=resume" not in caplog.text, "nothing stood still"


def test_a_route_that_is_gone_again_is_told_to_nobody() -> None:
    host = Host([stalled(StallKind.SENT, 1, backoff=9), stalled(StallKind.SENT, 2, C, backoff=9)])

    async def script(made: Resumption) -> None:
        made.follow({TO_B: ROUTE, TO_C: ROUTE})
        made.follow({TO_C: ROUTE})
        await all_rounds(host)

    assert play(host, script).tally == {"told": 1}
    assert {port for port, _ in host.told} == {2}


def test_a_flow_whose_far_end_speaks_first_is_told_all_the_same() -> None:
    host = Host(
        flows=[stalled(StallKind.FLOW, 5, unanswered_ms=6200), stalled(StallKind.FLOW, 6, C, unanswered_ms=400)]
    )

    async def script(made: Resumption) -> None:
        made.expect({TO_B: ROUTE})
        await asyncio.sleep(0.1)
        host.lan = []
        made.follow({TO_B: ROUTE})
        await all_rounds(host)
        host.told.clear()
        made.follow({TO_B: ROUTE, TO_C: ROUTE})
        await all_rounds(host, 2)

    assert play(host, script).tally["lan"] == 1
    assert host.told == [], "what was expected then is not known now"


def test_flows_that_stood_still_in_an_outage_are_told_though_the_far_end_was_quicker() -> None:
    host = Host(flows=[stalled(StallKind.FLOW, 5, unanswered_ms=6200)])

    async def script(made: Resumption) -> None:
        made.follow({TO_C: ROUTE})
        await all_rounds(host)
        made.follow({})
        await asyncio.sleep(1.3)
        host.lan = []
        made.follow({TO_B: ROUTE})
        await all_rounds(host, 2)

    assert play(host, script).tally["lan"] == 1


def test_a_route_that_the_kernel_was_just_given_is_news_at_once() -> None:
    host = Host([stalled(StallKind.SENT, 1, backoff=1)])

    async def script(made: Resumption) -> None:
        await asyncio.to_thread(made.came, TO_B, ROUTE)
        await asyncio.sleep(0)
        made.follow({TO_B: ROUTE})
        await all_rounds(host)

    play(host, script)
    assert host.looks == len(ROUNDS), "and not again when the run is over"


def test_an_engine_without_it_has_nothing_to_do() -> None:
    async def script(made: Resumption) -> None:
        made.expect({TO_B: ROUTE})
        made.follow({TO_B: ROUTE})
        await asyncio.sleep(0.1)

    assert play(None, script).tally == {}


def test_what_cannot_be_read_is_said_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    class Older(Host):
        def sockets(self) -> list[Stalled]:
            super().sockets()
            raise DataplaneError("iterate_stalled_v1: No such file or directory; run `skedge-loader load`")

    host = Older()

    async def script(made: Resumption) -> None:
        made.follow({TO_B: ROUTE})
        await all_rounds(host)

    play(host, script)
    assert host.looks == len(ROUNDS)
    assert caplog.text.count("op=resume failed=") == 1
