"""Connections of IPVS that are ended by the client's socket, where that is here. Real sockets; the table is given."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest

from skedge.core.ending import Ends, Selection
from skedge.core.model import Protocol
from skedge.core.objects import Target
from skedge.dataplane.ending.ipvs import IpvsEnder
from skedge.dataplane.ipvs.procfs import Connection

SERVER = Target("100.64.0.2", 61000)
OTHER = Target("100.64.0.3", 61000)
TO_B = (Ends(far=SERVER.address),)
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    """Three connections, as to a listener of this host."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = [(socket.create_connection(listener.getsockname()), listener.accept()[0]) for _ in range(3)]
        yield made
        for pair in made:
            for one in pair:
                one.close()


def entry(
    client: Target, virtual: Target, server: Target, state: str = "ESTABLISHED", expires_s: int = 800
) -> Connection:
    return Connection(Protocol.TCP, client, virtual, server, state, expires_s)


def of(pair: Pair, server: Target, **more: object) -> Connection:
    client, virtual = (Target(*pair[0].getsockname()), Target(*pair[0].getpeername()))
    return entry(client, virtual, server, **more)  # type: ignore[arg-type]


def test_the_sockets_of_this_host_are_found_by_where_ipvs_led_them(pairs: list[Pair]) -> None:
    ender = IpvsEnder(lambda: [of(pairs[0], SERVER), of(pairs[1], OTHER), of(pairs[2], SERVER, state="CLOSE")])
    found = ender.find(Selection(TO_B))
    assert [one.sides for one in found] == [((Target(*pairs[0][0].getsockname()), SERVER),)]
    if os.geteuid() == 0:
        assert ender.end(found) == 1
        with pytest.raises(ConnectionAbortedError):
            pairs[0][0].recv(1)


def test_what_was_heard_of_late_is_left_alone(pairs: list[Pair]) -> None:
    ender = IpvsEnder(lambda: [of(pair, SERVER) for pair in pairs])
    time.sleep(0.3)
    since = time.monotonic()
    time.sleep(0.05)
    pairs[0][1].sendall(b"x")
    found = ender.find(Selection(TO_B, silent_since=since))
    assert sorted(one.sides[0][0].port for one in found) == sorted(one.getsockname()[1] for one, _ in pairs[1:])


def test_a_client_elsewhere_is_found_and_left() -> None:
    far = Target("10.0.0.9", 5000)
    ender = IpvsEnder(lambda: [entry(far, Target("10.0.0.1", 8080), SERVER)])
    (one,) = ender.find(Selection(TO_B))
    assert one.sides == ((far, SERVER),)
    assert ender.end([one]) == 0
    assert ender.find(Selection(TO_B, silent_since=time.monotonic() - 200)) == [], "idle for 100 s"
    assert len(ender.find(Selection(TO_B, silent_since=time.monotonic() - 50))) == 1


def test_an_empty_table_needs_no_look_at_sockets() -> None:
    assert list(IpvsEnder(list).find(Selection(TO_B))) == []
