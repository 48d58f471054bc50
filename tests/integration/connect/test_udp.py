"""UDP: connected sockets, and unconnected ones that talk to a listener from datagram to datagram."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from skedge.core.desired.compute import Desired
from skedge.core.model import Protocol
from skedge.core.objects import ServiceTable
from skedge.core.reasons import Reason
from skedge.daemon.kernel.withdrawals import Withdrawals
from skedge.dataplane.ending import sockets

from .kit import FAR4, FAR6, Site, candidate, eventually
from .test_counts import unspec

UDP = Protocol.UDP
LISTENER = ("127.0.0.1", 5353)


def udp(family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(5)
    return made


def two(site: Site) -> Site:
    a, b = site.server("127.0.0.1", UDP), site.server(FAR4[0], UDP)
    site.service([candidate("a", 0, a.target), candidate("b", 0, b.target)], LISTENER, protocol=UDP)
    return site


def test_connected(site: Site) -> None:
    two(site)
    with udp() as one, udp() as other:
        for client in (one, other):
            client.connect(LISTENER)
            client.send(b"x")
            assert client.recvfrom(9) == (b"x", LISTENER)
            assert client.getpeername() == LISTENER
        assert (site.open("a"), site.open("b")) == (1, 1)
        one.connect(LISTENER)  # a second connect undoes the first
        assert site.open() == 2
        unspec(one)
        one.connect(("127.0.0.1", 9))
        assert site.open() == 1
    assert site.open() == 0


@pytest.mark.parametrize(
    ("family", "listener", "asked", "servers"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1", ["127.0.0.1"]),
        (socket.AF_INET6, "::1", "::1", ["::1"]),
        (socket.AF_INET6, "::1", "::1", [FAR4[0], FAR6[0]]),
        (socket.AF_INET6, "127.0.0.1", "::ffff:127.0.0.1", ["127.0.0.1"]),
    ],
)
def test_unconnected(site: Site, family: socket.AddressFamily, listener: str, asked: str, servers: list[str]) -> None:
    targets = [site.server(address, UDP).target for address in servers]
    site.service([candidate("a", 0, *targets)], (listener, 5353), protocol=UDP)
    with udp(family) as client:
        for _ in range(3):
            client.sendto(b"x", (asked, 5353))
            data, sender = client.recvfrom(9)
            assert (data, sender[:2]) == (b"x", (asked, 5353))
        assert (site.open("a"), site.count("a").chosen) == (1, 1)  # one flow, not one a datagram
    assert site.open() == 0


def test_connected_v6_reaches_a_workload_on_ipv4_loopback(site: Site) -> None:
    site.service([candidate("a", 0, site.server("127.0.0.1", UDP).target)], ("::1", 5353), protocol=UDP)
    with udp(socket.AF_INET6) as client:
        client.connect(("::1", 5353))
        client.send(b"x")
        assert client.recvfrom(9)[1][:2] == ("::1", 5353)
        assert client.getpeername()[:2] == ("::1", 5353)
    assert site.open() == 0


def test_unconnected_v6_cannot_be_sent_to_ipv4(site: Site) -> None:
    """The kernel lets no program turn an IPv6 datagram into an IPv4 one: the reason is counted."""
    site.service([candidate("a", 0, site.server("127.0.0.1", UDP).target)], ("::1", 5353), protocol=UDP)
    before = site.engine.drops().get(Reason.NO_FAMILY, 0)
    with udp(socket.AF_INET6) as client, pytest.raises(ConnectionRefusedError):
        client.sendto(b"x", ("::1", 5353))
    assert site.engine.drops()[Reason.NO_FAMILY] == before + 1


def test_one_socket_talks_to_several_listeners(site: Site) -> None:
    for number in range(10):
        target = site.server("127.0.0.1", UDP).target
        listener = ("127.0.0.1", 5400 + number)
        site.service([candidate(f"w{number}", 0, target)], listener, name=f"u{number}", protocol=UDP)
    with udp() as client:
        for _ in range(2):
            for number in range(8):
                client.sendto(b"x", ("127.0.0.1", 5400 + number))
                assert client.recvfrom(9)[1] == ("127.0.0.1", 5400 + number)
        assert site.open() == 8
        client.sendto(b"x", ("127.0.0.1", 5408))  # takes the room of the flow that was idle longest
        assert client.recvfrom(9)[1] == ("127.0.0.1", 5408)
        assert (site.open(), site.open("w0"), site.open("w8")) == (8, 0, 1)
    assert site.open() == 0


def test_a_workload_that_is_behind_two_listeners_answers_as_the_one_asked_last(site: Site) -> None:
    """A datagram does not say which question it answers; of one that asks and waits the last is meant."""
    listeners = [("127.0.0.1", 5400 + number) for number in range(3)]
    site.service([candidate("a", 0, site.server("127.0.0.1", UDP).target)], *listeners, protocol=UDP)
    with udp() as client:
        for listener in [*listeners, *reversed(listeners), listeners[1]]:
            client.sendto(b"x", listener)
            assert client.recvfrom(9)[1] == listener
        assert site.open() == 3
    assert site.open() == 0


def test_idle_flows_end_and_begin_again(site: Site) -> None:
    two(site)
    with udp() as client, udp() as connected:
        client.sendto(b"x", LISTENER)
        client.recvfrom(9)
        connected.connect(LISTENER)
        site.engine.sweep_udp(time.monotonic(), 60.0)
        assert site.open() == 2
        time.sleep(0.05)
        site.engine.sweep_udp(time.monotonic(), 0.02)
        assert site.open() == 1  # a connected socket is open until it is closed
        assert site.engine.reconcile_counts() == 0
        client.sendto(b"x", LISTENER)
        assert client.recvfrom(9)[1] == LISTENER
        assert site.open() == 2
    assert site.open() == 0


def test_a_late_answer_of_an_ended_flow_still_comes_from_the_listener(site: Site) -> None:
    two(site)
    with udp() as client:
        client.sendto(b"x", LISTENER)
        eventually(lambda: True, "")
        time.sleep(0.02)
        site.engine.sweep_udp(time.monotonic(), 0.01)
        assert site.open() == 0
        assert client.recvfrom(9)[1] == LISTENER


def test_a_flow_leaves_a_workload_that_is_gone_but_not_one_that_is_drained(site: Site) -> None:
    a, b = site.server("127.0.0.1", UDP), site.server(FAR4[0], UDP)
    put = [candidate("a", 0, a.target), candidate("b", 9, b.target)]
    site.service(put, LISTENER, protocol=UDP)
    with udp() as client:
        client.sendto(b"x", LISTENER)
        client.recvfrom(9)
        site.service([candidate("a", 0, a.target, out=Reason.DRAINED), put[1]], protocol=UDP)
        client.sendto(b"x", LISTENER)
        client.recvfrom(9)
        assert (site.open("a"), site.open("b")) == (1, 0)
        site.service([candidate("a", 0, a.target, out=Reason.UNHEALTHY), put[1]], protocol=UDP)
        client.sendto(b"x", LISTENER)
        assert client.recvfrom(9)[1] == LISTENER
        assert (site.open("a"), site.open("b")) == (0, 1)
    assert site.open() == 0


def test_threads_on_one_socket(site: Site) -> None:
    """Two threads send to two listeners, and two connect, on one socket whose flows are swept: what it stores is
    what is counted, and its close ends all."""
    listeners = [("127.0.0.1", 5400 + number) for number in range(2)]
    for number, listener in enumerate(listeners):
        target = site.server("127.0.0.1", UDP).target
        site.service([candidate(f"w{number}", 0, target)], listener, name=f"u{number}", protocol=UDP)
    until = time.monotonic() + 1.5

    def again_and_again(act: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            while time.monotonic() < until:
                with contextlib.suppress(OSError):
                    act()

        return run

    with udp() as client:
        acts = [again_and_again(lambda to=to: client.sendto(b"x", to)) for to in listeners]
        acts += [again_and_again(lambda to=to: client.connect(to)) for to in listeners]
        acts.append(again_and_again(lambda: site.engine.sweep_udp(time.monotonic(), 0.0015)))
        threads = [threading.Thread(target=act) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= site.open() <= 3
        assert site.engine.reconcile_counts() == 0
    assert site.open() == 0
    assert site.engine.stale_picks() == 0


def test_no_workload(site: Site) -> None:
    site.service([], LISTENER, protocol=UDP)
    with udp() as client:
        with pytest.raises(ConnectionRefusedError):
            client.sendto(b"x", LISTENER)
        with pytest.raises(ConnectionRefusedError):
            client.connect(LISTENER)


# ---- a connected socket whose workload is gone -------------------------------------------------------------------


class SocketHost:
    """The host of `Withdrawals`, with nothing but the kernel behind it."""

    abort_connecting = staticmethod(sockets.abort_connecting)
    end_datagrams = staticmethod(sockets.end_datagrams)


def desired_of(site: Site, out: Reason = Reason.NONE) -> Desired:
    """What the site has, with the workloads of one site out."""
    tables = site.engine.services.read()
    changed = {
        key: ServiceTable(
            tuple(replace(one, out=out if one.workload.site == "a" else one.out) for one in table.candidates)
        )
        for key, table in tables.items()
    }
    return Desired(services=changed)


@pytest.mark.parametrize("out", [Reason.UNREACHABLE, Reason.UNHEALTHY, Reason.DRAINED])
def test_connected_clients_of_a_workload_that_is_gone_are_told_and_nobody_else(site: Site, out: Reason) -> None:
    a, b = site.server("127.0.0.1", UDP), site.server(FAR4[0], UDP)
    key = site.service([candidate("a", 0, a.target), candidate("b", 5, b.target)], LISTENER, protocol=UDP)
    withdrawals = Withdrawals(SocketHost())
    withdrawals.follow(desired_of(site), site.engine)
    with udp() as placed, udp() as elsewhere, udp() as direct:
        placed.connect(LISTENER)
        direct.connect((a.target.address, a.target.port))  # chose that server itself
        gone = desired_of(site, out)
        site.engine.services.put(key, gone.services[key])
        elsewhere.connect(LISTENER)
        assert (site.open("a"), site.open("b")) == (1, 1)
        withdrawals.follow(gone, site.engine)
        with pytest.raises(ConnectionAbortedError):
            placed.recv(1)
        for one in (elsewhere, direct):
            one.send(b"x")
            assert one.recv(9) == b"x"
        placed.connect(LISTENER)  # the same socket goes on, at another workload
        placed.send(b"y")
        assert placed.recv(9) == b"y"
        assert (site.open("a"), site.open("b")) == (0, 2)
