"""An endpoint whose listener may have sent SYN cookies: its packets are looked up for as long as one may come."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator

from skedge.dataplane.bpf import syscall
from tests.integration.links.packets import SYN, ip, tcp

from ..kit import remote
from ..test_sockets import BOTH, LOOPBACK
from ..world import EDGE_A, LISTEN, World, eventually

PORT = 61001
PUBLISHED, LOOKUP = 1, 2
COOKIES_LAST_S = 120
JAVAS = 50  # the backlog that Java's ServerSocket asks for


class Mark:
    """What the programs of B know of the endpoint's port."""

    def __init__(self, world: World) -> None:
        self._pin = f"{world.b.pin_dir}/endpoint_marks_v1"

    def get(self) -> tuple[int, int]:
        """Return the flags, and when a cookie may have been sent last (seconds since boot)."""
        with syscall.Fd(syscall.obj_get(self._pin)) as fd:
            (word,) = struct.unpack("=I", syscall.map_lookup(fd, struct.pack("=I", PORT), 4) or bytes(4))
        return word & 0xFF, word >> 8

    def set_back(self, seconds: int) -> None:
        """Let the last cookie have been sent so long ago."""
        at = int(time.clock_gettime(time.CLOCK_MONOTONIC)) - seconds & 0xFFFFFF
        with syscall.Fd(syscall.obj_get(self._pin)) as fd:
            syscall.map_update(fd, struct.pack("=I", PORT), struct.pack("=I", PUBLISHED | LOOKUP | at << 8))


@contextlib.contextmanager
def listening(world: World, v: int, backlog: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if v == 6 else socket.AF_INET
    with world.b.ns(socket.socket, family, socket.SOCK_STREAM) as server:
        server.bind((LOOPBACK[v], 0))
        server.listen(backlog)
        server.settimeout(5)
        world.endpoint(PORT, LOOPBACK[v], server.getsockname()[1])
        world.a.service([remote("there", 0, (world.b.overlay(v), PORT))], (EDGE_A[v], LISTEN))
        yield server


def talk(world: World, v: int, server: socket.socket) -> None:
    """One connection, with data both ways."""
    made = world.connect(world.client, (EDGE_A[v], LISTEN))
    made.sendall(b"hello")
    with server.accept()[0] as accepted:
        assert accepted.recv(9) == b"hello"
        accepted.sendall(b"answer")
        assert made.recv(9) == b"answer"
    made.close()


def flood(world: World, v: int, number: int) -> None:
    """SYNs of machines that are not there: nobody answers the answers."""
    family = socket.AF_INET6 if v == 6 else socket.AF_INET
    with world.client(socket.socket, family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for n in range(number):
            source = f"10.60.1.{100 + n}" if v == 4 else f"fd60:1::1:{n:x}"
            raw.sendto(ip(source, EDGE_A[v], tcp(40000 + n, LISTEN, SYN)), (EDGE_A[v], 0))


@BOTH
def test_a_listener_with_javas_backlog_is_not_marked(world: World, v: int) -> None:
    mark = Mark(world)
    with listening(world, v, JAVAS) as server:
        for _ in range(5):
            talk(world, v, server)
        assert mark.get() == (PUBLISHED, 0)


@BOTH
def test_the_mark_comes_with_cookies_and_goes_when_none_can_come_any_more(world: World, v: int) -> None:
    mark = Mark(world)
    with listening(world, v, JAVAS) as server:
        flood(world, v, 2 * JAVAS)
        eventually(lambda: mark.get()[0] == PUBLISHED | LOOKUP, "the queue fills up")
        before = int(world.b.ns.sh("nstat -asz TcpExtSyncookiesRecv | awk 'END {print $2}'"))
        talk(world, v, server)
        after = int(world.b.ns.sh("nstat -asz TcpExtSyncookiesRecv | awk 'END {print $2}'"))
        assert after == before + 1, "by a cookie"
    with listening(world, v, 1024) as server:  # another one of the same endpoint, with room
        mark.set_back(COOKIES_LAST_S - 20)
        talk(world, v, server)
        assert mark.get()[0] == PUBLISHED | LOOKUP, "one may be on its way"
        mark.set_back(COOKIES_LAST_S + 2)
        talk(world, v, server)
        assert mark.get() == (PUBLISHED, 0)


@BOTH
def test_a_queue_as_short_as_syns_come_at_once_is_marked_by_each(world: World, v: int) -> None:
    mark = Mark(world)
    with listening(world, v, 8) as server:
        mark.set_back(COOKIES_LAST_S + 2)
        talk(world, v, server)
        flags, since = mark.get()
        assert flags == PUBLISHED | LOOKUP
        assert abs(int(time.clock_gettime(time.CLOCK_MONOTONIC)) - since) <= 2
