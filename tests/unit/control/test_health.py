"""Health checks against real servers on loopback, and the counting rule alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from skedge.control.health.host import NoHost
from skedge.control.health.monitor import CheckedWorkload, Counter, HealthMonitor, HealthState
from skedge.control.health.probe_failed import ProbeFailed
from skedge.control.health.probes import http_status
from skedge.core.model import Health, HealthType, WorkloadId

W = WorkloadId("edge-a", "backend")


# ---- the rule ---------------------------------------------------------------------------------------------------


def feed(counter: Counter, results: str) -> str:
    """Feed + and - ; return the health after each as U (up) or D (down)."""
    out = ""
    for result in results:
        counter.result(result == "+")
        out += "U" if counter.healthy else "D"
    return out


@pytest.mark.parametrize(
    ("fall", "rise", "results", "health"),
    [
        (2, 1, "+-+--+", "UUUUDU"),
        (1, 1, "+-+-", "UDUD"),
        (3, 2, "+--+---++", "UUUUUUDDU"),
        (2, 3, "-++-+++", "DDDDDDU"),
        (5, 5, "-", "D"),
        (5, 5, "+", "U"),
    ],
)
def test_fall_and_rise(fall: int, rise: int, results: str, health: str) -> None:
    assert feed(Counter(fall, rise), results) == health


def test_changes_are_told_once() -> None:
    counter = Counter(2, 2)
    assert [counter.result(good) for good in (True, True, False, False, False, True, True)] == [
        True, False, False, True, False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize("line", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 503\r\n", b"HTTP/1.1 301 \r\n", b"HTTP/1.1 404\n"])
def test_status_lines(line: bytes) -> None:
    assert http_status(line) == int(line[9:12])


@pytest.mark.parametrize(
    "line", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 2000 OK\r\n", b"HTTP/1.1 20\r\n", b"HTTP/2 200 OK\r\n"]
)
def test_no_status_lines(line: bytes) -> None:
    with pytest.raises(ProbeFailed):
        http_status(line)


# ---- against servers --------------------------------------------------------------------------------------------


class Watch:
    """A monitor and what it said."""

    def __init__(self) -> None:
        self.changes: list[HealthState] = []
        self.good = 0
        self.monitor = HealthMonitor(lambda _w, state: self.changes.append(state), self._good)

    def _good(self, _workload: WorkloadId) -> None:
        self.good += 1

    async def until(self, condition: Callable[[], bool], within: float = 5.0) -> float:
        """Wait for a condition; return how long it took."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        while not condition():
            assert loop.time() - start < within, f"not within {within} s; states {self.changes}"
            await asyncio.sleep(0.005)
        return loop.time() - start


@contextlib.asynccontextmanager
async def watching(target: CheckedWorkload) -> AsyncIterator[Watch]:
    watch = Watch()
    watch.monitor.set_targets({W: target})
    try:
        yield watch
    finally:
        await watch.monitor.close()


@contextlib.asynccontextmanager
async def serving(answer: bytes = b"", port: int = 0, delay: float = 0.0) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if answer:
                await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(delay)
                writer.write(answer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_a_server_comes_goes_and_comes_back() -> None:
    async def work() -> None:
        port = free_port()
        health = Health(interval_s=0.05, timeout_s=0.5, fall=2, rise=1)
        async with watching(CheckedWorkload("127.0.0.1", port, health)) as watch:
            await watch.until(lambda: len(watch.changes) == 1)
            assert not watch.changes[0].healthy
            assert watch.changes[0].cause == "Connection refused"
            async with serving(port=port):
                await watch.until(lambda: len(watch.changes) == 2)
                assert watch.changes[1].healthy
                assert watch.changes[1].address == "127.0.0.1"
                await watch.until(lambda: watch.good >= 3)
            await watch.until(lambda: len(watch.changes) == 3)
            assert not watch.monitor.snapshot()[W].healthy

    asyncio.run(work())


def test_a_suspicion_is_settled_at_once() -> None:
    """With an interval of a minute, `probe_now` finds a dead server within a fraction of a second."""

    async def work() -> None:
        health = Health(interval_s=60, timeout_s=0.5, fall=3, rise=1)
        watch = Watch()
        async with serving() as port:
            watch.monitor.set_targets({W: CheckedWorkload("127.0.0.1", port, health)})
            await watch.until(lambda: len(watch.changes) == 1)
        for _ in range(1000):
            watch.monitor.probe_now(W)
        assert await watch.until(lambda: len(watch.changes) == 2) < 1.0
        assert not watch.changes[1].healthy
        assert watch.monitor.snapshot()[W].bad == 3
        async with serving(port=port):
            watch.monitor.probe_now(W)
            assert await watch.until(lambda: len(watch.changes) == 3) < 1.0
        await watch.monitor.close()

    asyncio.run(work())


def test_a_thousand_suspicions_are_few_probes() -> None:
    async def work() -> None:
        async with (
            serving() as port,
            watching(CheckedWorkload("127.0.0.1", port, Health(interval_s=60, timeout_s=0.5))) as watch,
        ):
            for _ in range(100):
                watch.monitor.probe_now(W)
                await asyncio.sleep(0.003)
            assert 2 <= watch.good <= 10

    asyncio.run(work())


@pytest.mark.parametrize(
    ("answer", "healthy", "cause"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True, ""),
        (b"HTTP/1.1 302 Found\r\n\r\n", True, ""),
        (b"HTTP/1.1 500 Oops\r\n\r\n", False, "answered 500"),
        (b"SSH-2.0-OpenSSH\r\n", False, "the answer is not HTTP"),
        (b"x" * 100_000, False, "the answer is not HTTP"),
        (b"", False, "closed without an answer"),
    ],
    ids=["200", "302", "500", "ssh", "long", "closed"],
)
def test_http(answer: bytes, healthy: bool, cause: str) -> None:
    async def work() -> None:
        health = Health(type=HealthType.HTTP, path="/healthz", interval_s=60, timeout_s=2)
        async with serving(answer) as port, watching(CheckedWorkload("127.0.0.1", port, health)) as watch:
            await watch.until(lambda: len(watch.changes) == 1)
            assert (watch.changes[0].healthy, watch.changes[0].cause) == (healthy, cause) or (
                not answer and watch.changes[0].cause == "Connection reset by peer"
            )

    asyncio.run(work())


def test_a_server_that_does_not_answer_in_time_is_bad() -> None:
    async def work() -> None:
        health = Health(type=HealthType.HTTP, interval_s=60, timeout_s=0.1)
        async with (
            serving(b"HTTP/1.1 200 OK\r\n\r\n", delay=5) as port,
            watching(CheckedWorkload("127.0.0.1", port, health)) as watch,
        ):
            assert await watch.until(lambda: len(watch.changes) == 1) < 1.0
            assert watch.changes[0].cause == "no answer within 0.1 s"

    asyncio.run(work())


def test_names_are_resolved_and_every_address_is_tried() -> None:
    """``localhost`` may be ::1 first; the server listens on 127.0.0.1 only."""

    async def work() -> None:
        async with (
            serving() as port,
            watching(CheckedWorkload("localhost", port, Health(interval_s=60))) as watch,
        ):
            await watch.until(lambda: len(watch.changes) == 1)
            assert watch.changes[0].healthy
            assert watch.changes[0].address == "127.0.0.1"

    asyncio.run(work())


def test_a_name_that_does_not_exist_is_a_cause() -> None:
    async def work() -> None:
        async with watching(CheckedWorkload("nowhere.invalid", 80, Health(interval_s=60, timeout_s=10))) as watch:
            await watch.until(lambda: len(watch.changes) == 1, within=15)
            assert watch.changes[0].cause.startswith("cannot resolve nowhere.invalid")

    asyncio.run(work())


def test_unchecked_workloads_are_healthy() -> None:
    async def work() -> None:
        health = Health(type=HealthType.NONE, interval_s=0.05)
        async with watching(CheckedWorkload("127.0.0.1", free_port(), health)) as watch:
            await watch.until(lambda: watch.good >= 3)  # so that a suspension ends here too
            assert [state.healthy for state in watch.changes] == [True]

    asyncio.run(work())


def test_a_changed_target_keeps_its_health_until_it_is_probed() -> None:
    async def work() -> None:
        health = Health(interval_s=0.05, timeout_s=0.5)
        async with serving() as one, serving() as two, watching(CheckedWorkload("127.0.0.1", one, health)) as watch:
            await watch.until(lambda: len(watch.changes) == 1)
            watch.monitor.set_targets({W: CheckedWorkload("127.0.0.1", two, health)})
            assert watch.monitor.snapshot()[W].healthy
            good = watch.good
            await watch.until(lambda: watch.good > good + 2)
            assert len(watch.changes) == 1
            watch.monitor.set_targets({W: CheckedWorkload("127.0.0.1", free_port(), health)})
            await watch.until(lambda: len(watch.changes) == 2)
            watch.monitor.set_targets({})
            assert watch.monitor.snapshot() == {}

    asyncio.run(work())


def test_a_check_that_fails_itself_is_no_good_probe() -> None:
    faults: list[Exception] = []

    class Host(NoHost):
        def bound(self, address: str, port: int) -> None:
            for fault in faults:
                raise fault

    async def work() -> None:
        watch = Watch()
        watch.monitor = HealthMonitor(lambda _w, state: watch.changes.append(state), host=Host())
        checked = Health(HealthType.SOCKET, interval_s=0.02, fall=1, rise=1)
        watch.monitor.set_targets({W: CheckedWorkload("127.0.0.1", 53, checked, here=True)})
        try:
            await watch.until(lambda: bool(watch.changes) and watch.changes[-1].healthy)
            faults.append(RuntimeError("a fault of ours"))
            await watch.until(lambda: not watch.changes[-1].healthy)
            assert watch.changes[-1].cause == "the check failed: a fault of ours"
            faults.clear()
            await watch.until(lambda: watch.changes[-1].healthy)
        finally:
            await watch.monitor.close()

    asyncio.run(work())


def test_a_workload_is_healthy_while_its_socket_is_bound() -> None:
    asked: list[tuple[str, int]] = []
    gone = False

    class Host(NoHost):
        def bound(self, address: str, port: int) -> None:
            asked.append((address, port))
            if gone:
                raise ProbeFailed("no UDP socket is bound to it")

    async def main() -> None:
        nonlocal gone
        changes: list[HealthState] = []
        monitor = HealthMonitor(lambda _w, state: changes.append(state), host=Host())
        health = Health(HealthType.SOCKET, interval_s=0.02)
        monitor.set_targets({W: CheckedWorkload("localhost", 53, health, here=True)})
        try:
            async with asyncio.timeout(5):
                while not changes:
                    await asyncio.sleep(0.005)
                assert (changes[0].healthy, changes[0].address) in ((True, "127.0.0.1"), (True, "::1"))
                gone = True
                while len(changes) < 2:
                    await asyncio.sleep(0.005)
        finally:
            await monitor.close()
        assert (changes[1].healthy, changes[1].cause) == (False, "no UDP socket is bound to it")
        assert set(asked) == {(changes[0].address, 53)}

    asyncio.run(main())
