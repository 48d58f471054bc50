"""Sockets of the host that are ended on purpose: whichever end is destroyed, both learn of it, and the count ends."""

from __future__ import annotations

import socket
import time

import pytest

from skedge.core.ending import Ends, Selection, of_workload
from skedge.dataplane.ending.sockets import SocketEnder

from .kit import FAR4, FAR6, Server, Site, candidate, connect, eventually

LISTENER = {4: ("127.0.0.1", 8080), 6: ("::1", 8080)}
FAR = {4: FAR4[0], 6: FAR6[0]}


def held(site: Site, v: int, number: int = 5) -> tuple[Server, list[socket.socket]]:
    server = site.server(FAR[v])
    site.service([candidate("b", 0, server.target)], LISTENER[v])
    made = [connect(*LISTENER[v]) for _ in range(number)]
    for one in made:
        one.sendall(b"x")
    assert site.open("b") == number
    return server, made


@pytest.mark.parametrize("v", [4, 6])
def test_the_clients_end(site: Site, v: int) -> None:
    server, made = held(site, v)
    ender = SocketEnder()
    found = [one for one in ender.find(Selection(of_workload([server.target]))) if one.sides[0][1] == server.target]
    assert len(found) == 5
    assert ender.end(found[:2]) == 2
    assert site.open("b") == 3
    assert ender.end(found) == 3, "of those that are still there"
    for one in made:
        with pytest.raises(ConnectionAbortedError):
            one.recv(1)
        one.close()
    assert site.open("b") == 0
    assert site.engine.reconcile_counts() == 0


@pytest.mark.parametrize("v", [4, 6])
def test_the_servers_end(site: Site, v: int) -> None:
    server, made = held(site, v)
    ender = SocketEnder()
    found = ender.find(Selection(of_workload((), [server.target])))
    assert ender.end(found) == 5
    for one in made:
        with pytest.raises(ConnectionResetError):
            one.recv(1)
        one.close()
    eventually(lambda: site.open("b") == 0, "the count")


def test_who_spoke_of_late_is_left_alone(site: Site) -> None:
    server, made = held(site, 4)
    time.sleep(0.3)
    since = time.monotonic()
    time.sleep(0.05)
    made[0].sendall(b"x")
    time.sleep(0.1)
    found = SocketEnder().find(Selection(of_workload([server.target]), silent_since=since))
    assert sorted(one.sides[0][0].port for one in found) == sorted(one.getsockname()[1] for one in made[1:])
    for one in made:
        one.close()


def test_a_connect_that_is_not_answered_is_meant_by_itself_only(site: Site) -> None:
    del site  # in whose host
    waiting = socket.socket()
    waiting.setblocking(False)
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    others = [socket.socket() for _ in range(3)]
    for one in (*others, waiting):
        one.setblocking(False)
        one.connect_ex(full.getsockname())
    ends = (Ends(far="127.0.0.1", far_port=full.getsockname()[1]),)
    ender = SocketEnder()
    found = ender.find(Selection(ends, connecting=True))
    assert waiting.getsockname()[1] in {one.sides[0][0].port for one in found}
    assert all(one.connecting for one in found)
    assert len(found) + len(ender.find(Selection(ends))) == 4
    assert ender.end(found) == len(found)
    assert waiting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
    for one in (*others, waiting, full):
        one.close()
