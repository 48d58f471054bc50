"""The default check of a workload of the host: its socket is looked at, and no connection is made to it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from skedge.control.health import accepting
from skedge.control.health.monitor import NOBODY_ACCEPTS, CheckedWorkload, HealthMonitor, HealthState
from skedge.core.model import Health, HealthType, SiteConfig, WorkloadId
from skedge.core.objects import Target
from skedge.daemon.own_host import OwnHost
from skedge.daemon.state import State
from skedge.dataplane.host import sock_diag
from skedge.dataplane.host.translation import Translation
from tests.integration.links.kit import Namespace

W = WorkloadId("edge-a", "web")
OWN = "198.51.100.5"
BASE = "nft add table {0} {1}; nft 'add chain {0} {1} c {{ type nat hook {2} priority {3}; }}'"
Wait = Callable[[Callable[[HealthState], bool]], Awaitable[HealthState]]


@pytest.fixture
def ns() -> Iterator[Namespace]:
    made = Namespace("listen")
    made.ip("addr", "add", f"{OWN}/32", "dev", "lo")
    yield made
    made.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "PATIENCE_S", 0.3)


class Server:
    """Listens, accepts in a thread when told to, and counts what it accepted."""

    def __init__(self, address: str, port: int = 0, backlog: int = 64, *options: tuple[int, int, int | bytes]) -> None:
        self.accepted = 0
        self.socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for option in options:
            self.socket.setsockopt(*option)
        self.socket.bind((address, port))
        self.socket.listen(backlog)
        self.port = self.socket.getsockname()[1]

    def accept(self) -> Server:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def _accept(self) -> None:
        while True:
            try:
                made, _ = self.socket.accept()
            except OSError:
                return
            self.accepted += 1
            made.close()

    def close(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def checked(
    ns: Namespace, at: Target, story: Callable[[Wait], Awaitable[None]], kind: HealthType = HealthType.LISTEN
) -> None:
    """Run a story while a workload is checked every 20 ms; ``wait`` in it waits for a state."""
    config = SiteConfig("line", "edge-a", "100.64.0.0/10", "100.64.0.1", "fd00::1")
    state = State(config, {"web": 61001}, host_addresses=("127.0.0.1/8", f"{OWN}/32", "::1/128"))

    async def run() -> None:
        monitor = HealthMonitor(lambda *_: None, host=OwnHost(state))
        health = Health(kind, interval_s=0.02, timeout_s=0.3, fall=2)
        monitor.set_targets({W: CheckedWorkload(at.address, at.port, health, here=True)})

        async def wait(until: Callable[[HealthState], bool]) -> HealthState:
            async with asyncio.timeout(15):
                while not until(monitor.snapshot()[W]):
                    await asyncio.sleep(0.01)
            return monitor.snapshot()[W]

        try:
            await story(wait)
        finally:
            await monitor.close()

    ns(asyncio.run, run())


def healthy(state: HealthState) -> bool:
    return state.known and state.healthy


def down(state: HealthState) -> bool:
    return state.known and not state.healthy


PLACES = [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", OWN), ("::", "127.0.0.1"), ("::", "::1"), (OWN, OWN)]


@pytest.mark.parametrize(("bound", "at"), PLACES)
def test_a_server_is_never_connected_to_and_followed_down_and_up(
    ns: Namespace, stack: ExitStack, bound: str, at: str
) -> None:
    server = ns(Server, bound).accept()
    stack.callback(server.close)

    async def story(wait: Wait) -> None:
        await wait(lambda state: state.good >= 50 and healthy(state))
        assert server.accepted == 0
        server.close()
        assert (await wait(down)).cause == "Connection refused"
        again = Server(bound, server.port).accept()  # this thread is in the namespace
        stack.callback(again.close)
        before = (await wait(healthy)).good
        await wait(lambda state: state.good > before + 20)
        assert again.accepted == 0

    checked(ns, Target(at, server.port), story)


def test_an_explicit_check_keeps_what_is_said(ns: Namespace, stack: ExitStack) -> None:
    server = ns(Server, "127.0.0.1").accept()
    stack.callback(server.close)

    async def story(wait: Wait) -> None:
        await wait(lambda state: state.good >= 10)
        assert server.accepted >= 9

    checked(ns, Target("127.0.0.1", server.port), story, HealthType.TCP)


def test_a_full_queue_is_down_and_up_when_there_is_room(ns: Namespace, stack: ExitStack) -> None:
    server = ns(Server, "127.0.0.1", 0, 1)
    stack.callback(server.close)

    async def story(wait: Wait) -> None:
        await wait(healthy)
        for _ in range(2):
            stack.callback(socket.create_connection(("127.0.0.1", server.port)).close)
        assert (await wait(down)).cause == "its queue is full: 2 connections wait to be accepted"
        server.accept()
        await wait(healthy)
        assert server.accepted == 2, "the two clients'"

    checked(ns, Target("127.0.0.1", server.port), story)


def test_connections_that_nobody_takes_are_named(ns: Namespace, stack: ExitStack) -> None:
    server = ns(Server, "127.0.0.1")
    stack.callback(server.close)

    async def story(wait: Wait) -> None:
        await wait(lambda state: state.good > 30)
        with socket.create_connection(("127.0.0.1", server.port)):
            assert (await wait(down)).cause == NOBODY_ACCEPTS
            server.accept()
            await wait(healthy)

    checked(ns, Target("127.0.0.1", server.port), story)


def test_sockets_that_take_nothing_of_it_do_not_count(ns: Namespace, stack: ExitStack) -> None:
    ns.ip("link", "add", "eth9", "type", "veth", "peer", "name", "eth8")
    ns.ip("link", "set", "eth9", "up")
    device = (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth9")
    only6 = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    bound = ns(Server, "0.0.0.0", 0, 64, device)
    for server in (bound, ns(Server, "::", 0, 64, only6), ns(Server, "127.0.0.1")):
        stack.callback(server.close)
        assert ns(sock_diag.listening_sockets, Target(OWN, server.port)) == []

    async def story(wait: Wait) -> None:
        assert (await wait(down)).cause == "Connection refused"

    checked(ns, Target(OWN, bound.port), story)


def test_of_a_group_of_sockets_one_with_room_is_enough(ns: Namespace, stack: ExitStack) -> None:
    shared = (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    first = ns(Server, "127.0.0.1", 0, 0, shared)
    stack.callback(first.close)

    async def story(wait: Wait) -> None:
        stack.callback(socket.create_connection(("127.0.0.1", first.port)).close)
        await wait(down)
        second = Server("127.0.0.1", first.port, 64, shared).accept()
        stack.callback(second.close)
        await wait(healthy)

    checked(ns, Target("127.0.0.1", first.port), story)


@pytest.mark.parametrize(("family", "address"), [("ip", "127.0.0.1"), ("ip6", "::1")])
def test_rules_that_may_lead_elsewhere_are_asked_about_once_until_they_change(
    ns: Namespace, stack: ExitStack, family: str, address: str
) -> None:
    server, box = ns(Server, address).accept(), ns(Server, address).accept()
    for one in (server, box):
        stack.callback(one.close)
    ns.sh(BASE.format(family, "masq", "postrouting", 100))
    assert ns(Translation().rules) is None, "what changes senders leads nobody elsewhere"

    async def story(wait: Wait) -> None:
        await wait(lambda state: state.good > 20)
        assert server.accepted == 0
        ns.sh(BASE.format(family, "other", "output", -100))
        before = (await wait(lambda _: server.accepted > 0)).good
        await wait(lambda state: state.good > before + 30)
        assert server.accepted <= 3, "one a change of the rules"
        to = f"[{address}]:{box.port}" if family == "ip6" else f"{address}:{box.port}"
        ns.sh(f"nft 'add rule {family} other c tcp dport {server.port} dnat to {to}'")
        await wait(lambda state: state.at == Target(address, box.port))
        box.close()
        assert (await wait(down)).cause == "Connection refused", "it goes the way that traffic goes"
        ns.sh(f"nft flush chain {family} other c")
        await wait(lambda state: healthy(state) and state.at == Target(address, server.port))
        taken = server.accepted
        before = (await wait(healthy)).good
        await wait(lambda state: state.good > before + 30)
        assert server.accepted <= taken + 1

    checked(ns, Target(address, server.port), story)
