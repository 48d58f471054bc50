"""What the host's own tables say of a health check's connection: where DNAT led it, and whether anybody accepts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from skedge.control.health import accepting
from skedge.control.health.monitor import NOBODY_ACCEPTS, CheckedWorkload, HealthMonitor, HealthState
from skedge.core.model import Health, HealthType, SiteConfig, WorkloadId
from skedge.core.objects import Target
from skedge.daemon.own_host import OwnHost
from skedge.daemon.state import State
from skedge.dataplane.host import conntrack, sock_diag
from tests.integration.links.kit import Namespace

W = WorkloadId("edge-a", "web")
ENDPOINT = 61001
TCP_DEFER_ACCEPT = 9
NAT = (
    "table {family} published {{ chain out {{ "
    "type nat hook output priority -100; tcp dport {asked} dnat to {to}; }}; }}"
)


@pytest.fixture
def ns() -> Iterator[Namespace]:
    made = Namespace("health")
    made.ip("addr", "add", "198.51.100.5/32", "dev", "lo")
    yield made
    made.close()


def listener(address: str, *options: tuple[int, int, int], port: int = 0, backlog: int = 64) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    for option in options:
        made.setsockopt(*option)
    made.bind((address, port))
    made.listen(backlog)
    return made


def ends(connection: socket.socket) -> tuple[Target, Target]:
    return Target(*connection.getsockname()[:2]), Target(*connection.getpeername()[:2])


@pytest.mark.parametrize(("family", "address"), [("ip", "127.0.0.1"), ("ip6", "::1")])
def test_who_answers_a_connection_is_asked_of_connection_tracking(ns: Namespace, family: str, address: str) -> None:
    with ns(listener, address) as server:
        port = server.getsockname()[1]
        asked = port + 1 if port < 65535 else port - 1
        assert not ns(conntrack.tracks)
        to = f"[{address}]:{port}" if family == "ip6" else f"{address}:{port}"
        ns.sh(f"nft '{NAT.format(family=family, asked=asked, to=to)}'")
        with ns(socket.create_connection, (address, asked)) as translated:
            assert ns(conntrack.tracks)
            assert ns(conntrack.led_to, *ends(translated)) == Target(address, port)
        with ns(socket.create_connection, (address, port)) as straight:
            assert ns(conntrack.led_to, *ends(straight)) == Target(address, port)
        nothing = Target(address, 1), Target(address, 2)
        assert ns(conntrack.led_to, *nothing) == nothing[1]


@pytest.mark.parametrize(("bound", "to"), [("127.0.0.1", "127.0.0.1"), ("::", "127.0.0.1"), ("::", "::1")])
@pytest.mark.parametrize("closed", [False, True])
def test_a_connection_waits_until_it_is_accepted(ns: Namespace, bound: str, to: str, closed: bool) -> None:
    with ns(listener, bound) as server:
        port = server.getsockname()[1]
        client = ns(socket.create_connection, (to, port))
        pair = ends(client)
        if closed:
            client.close()
            time.sleep(0.05)
        assert ns(sock_diag.waits_for_accept, *pair)
        assert not ns(sock_diag.has_accepted, port)
        accepted, _ = server.accept()
        with accepted:
            assert not ns(sock_diag.waits_for_accept, *pair)
            assert ns(sock_diag.has_accepted, port)
        client.close()


# ---- the whole check --------------------------------------------------------------------------------------------


def watched(ns: Namespace, port: int, seconds: float, until: Callable[[HealthState], bool], **more: Any) -> HealthState:
    """Check a workload at 127.0.0.1 until its state is as wanted, or so long; return the last state."""
    config = SiteConfig("line", "edge-a", "100.64.0.0/10", "100.64.0.1", "fd00::1")
    state = State(config, {"web": ENDPOINT}, host_addresses=("127.0.0.1/8", "198.51.100.5/32"))
    health = Health(**{"interval_s": 0.05, "timeout_s": 0.3, "fall": 2, **more})

    async def watch() -> HealthState:
        monitor = HealthMonitor(lambda *_: None, host=OwnHost(state))
        monitor.set_targets({W: CheckedWorkload("127.0.0.1", port, health, here=True)})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not until(monitor.snapshot()[W]):
                    await asyncio.sleep(0.01)
        seen = monitor.snapshot()[W]
        await monitor.close()
        return seen

    return ns(asyncio.run, watch())


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "PATIENCE_S", 0.4)


def unhealthy(state: HealthState) -> bool:
    return state.known and not state.healthy


@pytest.mark.parametrize("more", [{}, {"type": HealthType.HTTP}], ids=["tcp", "http"])
@pytest.mark.parametrize("backlog", [0, 64])
def test_nobody_accepts(ns: Namespace, backlog: int, more: dict[str, Any]) -> None:
    with ns(listener, "0.0.0.0", backlog=backlog) as deaf:
        port = deaf.getsockname()[1]
        seen = watched(ns, port, 8, unhealthy, **more)
        assert (seen.healthy, seen.cause) == (False, NOBODY_ACCEPTS)
        if backlog == 64:
            again = watched(ns, port, 8, lambda now: now.bad > 30, **more)
            assert again.cause == NOBODY_ACCEPTS
            queued = int(ns.sh(f"ss -Hltn 'sport = :{port}'").split()[1])
            assert queued <= 40, "its queue is not filled with more and more"


def test_one_that_accepts_at_last_is_healthy(ns: Namespace) -> None:
    with ns(listener, "127.0.0.1") as late:
        port = late.getsockname()[1]
        threading.Timer(1.5, accept_all, [late]).start()
        calls: list[bool] = []

        def recovered(state: HealthState) -> bool:
            calls.append(unhealthy(state))
            return any(calls) and state.healthy

        assert watched(ns, port, 10, recovered).healthy
        assert any(calls), "first it was found out"
        late.shutdown(socket.SHUT_RDWR)


def accept_all(server: socket.socket, pause_s: float = 0.0) -> None:
    """Accept; hold what came for so long, one after another, as a server without threads does."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            time.sleep(pause_s)
            connection.close()


def fresh(ns: Namespace, *options: tuple[int, int, int], port: int = 0, backlog: int = 64) -> socket.socket:
    return ns(lambda: listener("127.0.0.1", *options, port=port, backlog=backlog))


def test_a_busy_server_is_not_blamed(ns: Namespace) -> None:
    """One connection at a time, each for longer than the check is patient, and a queue that only grows."""
    with fresh(ns, backlog=512) as server:
        port = server.getsockname()[1]
        threading.Thread(target=accept_all, args=[server, 1.2], daemon=True).start()
        waiting = [ns(socket.create_connection, ("127.0.0.1", port)) for _ in range(20)]
        seen = watched(ns, port, 3, unhealthy)
        assert seen.healthy, seen
        assert seen.bad == 0, "the queue is deep, and the server slow, but it accepts"
        for one in waiting:
            one.close()
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "option", [(socket.IPPROTO_TCP, TCP_DEFER_ACCEPT, 5), (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)], ids=str
)
def test_unusual_listeners_are_not_blamed(
    ns: Namespace, option: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that are deferred until data come; a group of which one member hangs while the other serves."""
    monkeypatch.setattr(accepting, "PATIENCE_S", 1.0)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(fresh(ns, option))
        port = server.getsockname()[1]
        if option[1] == socket.SO_REUSEPORT:
            stack.enter_context(fresh(ns, option, port=port))
        threading.Thread(target=accept_all, args=[server], daemon=True).start()
        seen = watched(ns, port, 2, unhealthy)
        assert (seen.healthy, seen.bad) == (True, 0), seen
        server.shutdown(socket.SHUT_RDWR)


def test_the_translated_place_is_told_and_its_own_socket_is_not_asked(ns: Namespace) -> None:
    with ns(listener, "0.0.0.0") as reserved, ns(listener, "198.51.100.5") as container:
        asked, port = reserved.getsockname()[1], container.getsockname()[1]
        threading.Thread(target=accept_all, args=[container], daemon=True).start()
        ns.sh(f"nft '{NAT.format(family='ip', asked=asked, to=f'198.51.100.5:{port}')}'")
        seen = watched(ns, asked, 1.5, unhealthy)
        assert seen.healthy, seen
        assert seen.at == Target("198.51.100.5", port)
        ns.sh("nft delete table ip published")
        seen = watched(ns, asked, 5, unhealthy)
        assert (seen.cause, seen.at) == (NOBODY_ACCEPTS, Target("127.0.0.1", asked))
        container.shutdown(socket.SHUT_RDWR)


# ---- datagrams --------------------------------------------------------------------------------------------------


def bound_udp(ns: Namespace) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("127.0.0.1", 0))
        made.settimeout(5)
        return made

    return ns(make)


def test_datagrams_that_nobody_reads(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container engine reserves a UDP port; one who reads is not blamed, however much comes."""
    monkeypatch.setattr(accepting, "UNREAD_S", 0.4)
    with bound_udp(ns) as deaf, bound_udp(ns) as sender:
        port = deaf.getsockname()[1]
        assert watched(ns, port, 1, unhealthy, type=HealthType.SOCKET).healthy, "nothing came yet"
        sender.sendto(b"?", ("127.0.0.1", port))
        seen = watched(ns, port, 5, unhealthy, type=HealthType.SOCKET)
        assert seen.cause == "a UDP socket is bound to it, but nothing reads from that"
        deaf.recv(100)
        assert watched(ns, port, 1, unhealthy, type=HealthType.SOCKET).healthy, "it was read"


def test_a_udp_server_that_reads_is_not_blamed(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "UNREAD_S", 0.4)
    with bound_udp(ns) as server, bound_udp(ns) as sender:
        port = server.getsockname()[1]
        over = threading.Event()

        def send() -> None:
            while not over.is_set():
                for _ in range(5):
                    sender.sendto(b"?" * 500, ("127.0.0.1", port))
                time.sleep(0.02)

        def read() -> None:  # for a moment, then not for longer than the check is patient less two looks
            while not over.is_set():
                for _ in range(60):
                    server.recv(1000)
                time.sleep(0.25)

        threads = [threading.Thread(target=one, daemon=True) for one in (send, read)]
        for one in threads:
            one.start()
        seen = watched(ns, port, 2.5, unhealthy, type=HealthType.SOCKET)
        assert (seen.healthy, seen.bad) == (True, 0), seen
        over.set()
        for one in threads:
            one.join(10)
