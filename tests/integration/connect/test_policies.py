"""Several services behind one listener: all to the first that is usable, or shared out by weight."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import Counter
from dataclasses import replace

import pytest

from skedge.core.model import Listener, Policy, Protocol, Share
from skedge.core.objects import Candidate, ListenerKey, ListenerTarget, ServiceKey
from skedge.core.placement.policies import listener_target
from skedge.core.reasons import Reason

from .kit import FAR4, Site, candidate, connect, eventually

AT = ListenerKey("127.0.0.1", 8080)
AT6 = ListenerKey("::1", 8080)
OLD, NEW = ServiceKey("old"), ServiceKey("new")
WEIGHTED = Listener("new", 8080, services=(Share("new", 3), Share("old", 7)), policy=Policy.WEIGHTED)
PRIORITY = replace(WEIGHTED, policy=Policy.PRIORITY)


def two_services(site: Site, protocol: Protocol = Protocol.TCP) -> dict[str, Candidate]:
    """``new`` has the workload n, ``old`` the workloads o and p."""
    servers = {name: site.server(at, protocol) for name, at in zip("nop", ["127.0.0.1", *FAR4], strict=False)}
    made = {name: candidate(name, 0, server.target) for name, server in servers.items()}
    site.service([made["n"]], name="new", protocol=protocol)
    site.service([made["o"], made["p"]], name="old", protocol=protocol)
    return made


def follow(site: Site, listener: Listener, *keys: ListenerKey) -> ListenerTarget:
    """Do what a controller does: read tables and suspensions, write where the listener's connections go."""
    wanted = listener_target(listener, site.engine.services.read(), site.engine.suspended())
    for key in keys or (AT,):
        site.engine.listeners.put(key, wanted)
    return wanted


def chosen(site: Site) -> Counter[str]:
    return Counter(
        {workload.site: count.chosen for (_, workload), count in site.engine.counts().items() if count.chosen}
    )


def test_two_thousand_connections_at_three_to_seven(site: Site) -> None:
    two_services(site)
    follow(site, WEIGHTED)
    for _ in range(2000):
        connect("127.0.0.1", 8080).close()
    got = chosen(site)
    assert got["n"] == 600
    assert abs(got["o"] - got["p"]) <= 1  # and within a service by the rule
    assert got.total() == 2000
    eventually(lambda: site.open() == 0, "all released")
    assert site.engine.reconcile_counts() == 0


def test_shares_are_exact_when_four_clients_connect_at_once(site: Site) -> None:
    two_services(site)
    follow(site, WEIGHTED)
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(OSError):
                for _ in range(250):
                    connect("127.0.0.1", 8080).close()
                code = 0
            os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert chosen(site)["n"] == 300


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_service_without_a_workload_takes_no_part(site: Site, address: str) -> None:
    made = two_services(site)
    site.service([replace(made["n"], out=Reason.UNHEALTHY)], name="new")
    follow(site, WEIGHTED, AT, AT6)
    for _ in range(20):
        connect(address, 8080).close()
    assert chosen(site) == {"o": 10, "p": 10}
    site.service([made["n"]], name="new")
    follow(site, WEIGHTED, AT, AT6)
    for _ in range(20):
        connect(address, 8080).close()
    assert chosen(site)["n"] == 6


def test_all_go_to_the_first_service_that_is_usable(site: Site) -> None:
    made = two_services(site)
    assert follow(site, PRIORITY).service == NEW
    held = [connect("127.0.0.1", 8080) for _ in range(5)]
    assert chosen(site) == {"n": 5}
    site.service([replace(made["n"], out=Reason.DRAINED)], name="new")
    assert follow(site, PRIORITY).service == OLD
    held += [connect("127.0.0.1", 8080) for _ in range(4)]
    assert chosen(site) == {"n": 5, "o": 2, "p": 2}
    assert site.open("n") == 5  # what is open goes on
    site.service([made["n"]], name="new")
    assert follow(site, PRIORITY).service == NEW
    held.append(connect("127.0.0.1", 8080))
    assert site.open("n") == 6
    for one in held:
        one.close()


def test_a_suspended_service_is_passed_by_until_it_answers(site: Site) -> None:
    made = two_services(site)
    closed = site.server()
    target = closed.target
    closed.close()
    site.service([candidate("n", 0, target)], name="new")
    follow(site, PRIORITY)
    with pytest.raises(ConnectionRefusedError):
        connect("127.0.0.1", 8080)
    eventually(lambda: site.suspended() == {"n"}, "suspended")
    assert follow(site, PRIORITY).service == OLD
    connect("127.0.0.1", 8080).close()
    assert chosen(site)["o"] == 1
    site.engine.resume(made["n"].workload)
    assert follow(site, PRIORITY).service == NEW


def test_udp_is_shared_out_by_socket(site: Site) -> None:
    two_services(site, Protocol.UDP)
    at_address = ("127.0.0.1", 8080)
    at = ListenerKey(*at_address, Protocol.UDP)
    follow(site, replace(WEIGHTED, protocol=Protocol.UDP), at)
    with contextlib.ExitStack() as clients:
        for number in range(20):
            client = clients.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            client.settimeout(5)
            if number % 2:
                client.connect(at_address)
            for _ in range(3):  # a flow stays where it is
                if number % 2:
                    client.send(b"x")
                else:
                    client.sendto(b"x", at_address)
                assert client.recv(9) == b"x"
        assert chosen(site)["n"] == 6
        assert site.open() == 20
    assert site.open() == 0


def test_a_changed_schedule_is_taken_in_one_step(site: Site) -> None:
    """Connects meanwhile meet the old one or the new one, and never fail."""
    two_services(site)
    follow(site, WEIGHTED)
    stop = threading.Event()

    def change() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            follow(site, WEIGHTED if turn % 2 else PRIORITY)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(300):
            connect("127.0.0.1", 8080).close()
    finally:
        stop.set()
        changer.join()
    assert chosen(site).total() == 300
