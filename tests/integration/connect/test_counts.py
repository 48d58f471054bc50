"""Open connections are counted from the placement to the end of the connection, whatever way it ends."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from skedge.core.objects import Target
from skedge.core.reasons import Reason

from .kit import FAR4, Site, candidate, connect, eventually, run

LISTENER = ("127.0.0.1", 8080)
NO_ROUTE = Target("203.0.113.1", 9)


def unspec(sock: socket.socket) -> None:
    """connect(AF_UNSPEC): dissolve the association; Python has no word for it."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.connect(sock.fileno(), struct.pack("=H14x", socket.AF_UNSPEC), 16) == 0


@pytest.fixture
def service(site: Site) -> Site:
    site.service([candidate("a", 0, site.server().target)], LISTENER)
    return site


def test_counted_before_it_is_established(site: Site) -> None:
    """Counting starts at the choice, so parallel connects that wait for an answer spread at once."""
    with full_backlog() as one, full_backlog(FAR4[0]) as other:
        site.service([candidate("a", 0, one.target), candidate("b", 0, other.target)], LISTENER)
        clients = [socket.socket() for _ in range(6)]
        for client in clients:
            client.setblocking(False)
            assert client.connect_ex(LISTENER) == errno.EINPROGRESS
        assert (site.open("a"), site.open("b")) == (3, 3)
        for client in clients:
            client.close()
        assert site.open() == 0
        assert site.suspended() == set()  # the clients gave up at once: that says nothing about the workloads


class full_backlog:
    """A listening socket that answers no SYN, because its queue is full."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.listening = socket.create_server((address, 0), backlog=0)
        self.target = Target(*self.listening.getsockname())
        self.fillers: list[socket.socket] = []

    def __enter__(self) -> full_backlog:
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((self.target.address, self.target.port))
            self.fillers.append(filler)
        return self

    def __exit__(self, *_: object) -> None:
        for one in (*self.fillers, self.listening):
            one.close()


def test_non_blocking(service: Site) -> None:
    with socket.socket() as client:
        client.setblocking(False)
        client.connect_ex(LISTENER)
        assert service.open() == 1
        assert select.select([], [client], [], 5)[1]
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        client.connect_ex(LISTENER)  # asks for the outcome: not a second connection
        assert service.open() == 1
    assert service.open() == 0


def test_fast_open(service: Site) -> None:
    """A connect inside sendto(2) is a connect."""
    with socket.socket() as client:
        client.sendto(b"x", socket.MSG_FASTOPEN, LISTENER)
        assert service.open() == 1
        assert client.getpeername() == LISTENER
    assert service.open() == 0


def test_refused_by_the_workload(site: Site) -> None:
    server = site.server()
    site.service([candidate("a", 0, server.target)], LISTENER)
    server.close()
    client = socket.socket()
    with client, pytest.raises(ConnectionRefusedError):
        client.connect(LISTENER)
    assert (site.open(), site.count("a").refused) == (0, 1)
    assert site.suspended() == {"a"}


def test_no_route(site: Site) -> None:
    site.service([candidate("a", 0, NO_ROUTE)], LISTENER)
    with socket.socket() as client:
        for _ in range(3):
            with pytest.raises(OSError, match="unreachable"):
                client.connect(LISTENER)
            assert site.open() <= 1  # until the socket is used again or closed
        with pytest.raises(ConnectionRefusedError):
            client.connect(("127.0.0.1", 1))  # a foreign destination undoes it too
        assert site.open() == 0
    assert site.open() == 0


def test_timed_out(site: Site) -> None:
    syn_retries(1)
    with full_backlog() as silent:
        site.service([candidate("a", 0, silent.target)], LISTENER)
        with socket.socket() as client, pytest.raises(TimeoutError):
            client.connect(LISTENER)
    assert site.open() == 0
    assert site.suspended() == {"a"}


def test_given_up_after_a_second_counts_as_unanswered(site: Site) -> None:
    with full_backlog() as silent:
        site.service([candidate("a", 0, silent.target)], LISTENER)
        with socket.socket() as client:
            client.settimeout(1.3)
            with pytest.raises(TimeoutError):
                client.connect(LISTENER)
        assert site.open() == 0
        assert site.suspended() == {"a"}


def syn_retries(number: int) -> None:
    Path("/proc/sys/net/ipv4/tcp_syn_retries").write_text(str(number))
    linear = Path("/proc/sys/net/ipv4/tcp_syn_linear_timeouts")
    if linear.exists():
        linear.write_text("0")


def test_reset_by_the_workload(site: Site) -> None:
    server = site.server()
    site.service([candidate("a", 0, server.target)], LISTENER)
    clients = [connect(*LISTENER) for _ in range(5)]
    eventually(lambda: len(server.accepted) == 5, "accepted")
    server.reset_all()
    eventually(lambda: site.open() == 0, "released though the program keeps the descriptors")
    for client in clients:
        client.close()
    assert site.open() == 0


def test_half_closed_by_either_side_is_open(site: Site) -> None:
    server = site.server()
    site.service([candidate("a", 0, server.target)], LISTENER)
    with connect(*LISTENER) as client:
        eventually(lambda: server.accepted, "accepted")
        client.shutdown(socket.SHUT_WR)
        assert server.accepted[0].recv(1) == b""
        server.accepted[0].sendall(b"still here")
        assert client.recv(10) == b"still here"
        assert site.open() == 1
        server.accepted[0].close()
        assert client.recv(1) == b""
        eventually(lambda: site.open() == 0, "both sides closed")


def test_closed_by_the_workload_only(site: Site) -> None:
    """CLOSE-WAIT: the client has not closed yet, so it is open; its last close ends it."""
    server = site.server()
    site.service([candidate("a", 0, server.target)], LISTENER)
    with connect(*LISTENER) as client:
        eventually(lambda: server.accepted, "accepted")
        server.accepted[0].close()
        assert client.recv(1) == b""
        assert site.open() == 1
    assert site.open() == 0


def test_close_ends_it_while_the_fin_is_on_the_way(site: Site) -> None:
    """FIN-WAIT after close(2) is no open connection: the workload may keep its side for hours."""
    site.service([candidate("a", 0, site.server().target)], LISTENER)
    connect(*LISTENER).close()
    assert site.open() == 0


def test_retry_on_the_same_descriptor(site: Site) -> None:
    first, second = site.server(), site.server(FAR4[0])
    site.service([candidate("a", 0, first.target), candidate("b", 5, second.target)], LISTENER)
    first.close()
    with socket.socket() as client:
        with pytest.raises(ConnectionRefusedError):
            client.connect(LISTENER)
        client.connect(LISTENER)
        assert (site.open("a"), site.open("b")) == (0, 1)
    assert site.open() == 0


def test_unspec_ends_it_and_the_descriptor_serves_again(service: Site) -> None:
    with connect(*LISTENER) as client:
        assert service.open() == 1
        unspec(client)
        eventually(lambda: service.open() == 0, "dissolved")
        client.connect(LISTENER)
        assert service.open() == 1
    assert service.open() == 0


def test_several_listeners_in_turn_on_one_socket(site: Site) -> None:
    a, b = site.server(), site.server(FAR4[0])
    one = site.service([candidate("a", 0, a.target)], LISTENER, name="one")
    two = site.service([candidate("b", 0, b.target)], ("127.0.0.1", 8081), name="two")
    with connect(*LISTENER) as client:
        assert (site.open(key=one), site.open(key=two)) == (1, 0)
        unspec(client)
        client.connect(("127.0.0.1", 8081))
        assert (site.open(key=one), site.open(key=two)) == (0, 1)
        assert client.getpeername() == ("127.0.0.1", 8081)
        unspec(client)
        foreign = site.server()
        client.connect((foreign.target.address, foreign.target.port))
        assert client.getpeername() == (foreign.target.address, foreign.target.port)
        assert site.open() == 0


def test_fork_shares_the_connection_until_the_last_close(service: Site) -> None:
    client = connect(*LISTENER)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)  # until the parent lets go
        os._exit(0)
    client.close()
    os.close(read)
    assert service.open() == 1
    os.close(write)
    os.waitpid(child, 0)
    eventually(lambda: service.open() == 0, "last close")


def test_exec_keeps_the_connection(service: Site) -> None:
    client = connect(*LISTENER)
    os.set_inheritable(client.fileno(), True)
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, close_fds=False
    ) as child:
        client.close()
        assert service.open() == 1
        child.communicate(b"")
    eventually(lambda: service.open() == 0, "last close")


def test_killed_client(service: Site) -> None:
    code = "import socket,time; s=[socket.create_connection(('127.0.0.1',8080)) for _ in range(7)]; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code]) as child:
        eventually(lambda: service.open() == 7, "connected")
        child.send_signal(signal.SIGKILL)
    eventually(lambda: service.open() == 0, "killed")


def test_no_workload_is_refused_at_once(site: Site) -> None:
    site.service([], LISTENER)
    before = site.engine.drops().get(Reason.NO_WORKLOAD, 0)
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(LISTENER)
    site.service([candidate("a", 0, site.server().target, out=Reason.UNHEALTHY)])
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(LISTENER)
    assert site.engine.drops()[Reason.NO_WORKLOAD] == before + 2


def test_a_suspended_workload_is_not_preferred_and_comes_back(site: Site) -> None:
    a, b = site.server(), site.server(FAR4[0])
    site.service([candidate("a", 0, a.target), candidate("b", 50, b.target)], LISTENER)
    a.close()
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(LISTENER)
    held = [connect(*LISTENER) for _ in range(3)]
    assert (site.open("a"), site.open("b")) == (0, 3)
    again = site.server()
    site.service([candidate("a", 0, again.target), candidate("b", 50, b.target)])
    assert site.suspended() == {"a"}  # a changed table is not a good probe
    site.engine.resume(next(workload for _, workload in site.engine.suspended()))
    held.append(connect(*LISTENER))
    assert (site.open("a"), site.open("b")) == (1, 3)
    for one in held:
        one.close()


def test_all_suspended_means_none_is(site: Site) -> None:
    server = site.server()
    site.service([candidate("a", 0, server.target)], LISTENER)
    server.close()
    for _ in range(3):
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect(LISTENER)
    assert site.count("a").refused == 3
    assert site.engine.drops().get(Reason.SUSPENDED, 0) == 0
    fresh = site.server()
    site.service([candidate("a", 0, fresh.target)])
    with connect(*LISTENER):
        (receipt,) = site.engine.connections()
        assert receipt.reason is Reason.SUSPENDED  # ignored, and the receipt says so


def test_an_aborted_connect_says_nothing_about_the_workload(site: Site) -> None:
    with full_backlog() as silent:
        site.service([candidate("a", 0, silent.target)], LISTENER)
        with socket.socket() as client:
            client.setblocking(False)
            client.connect_ex(LISTENER)
            assert site.open() == 1
            run("ss", "-K", "dst", f"{silent.target.address}", "dport", "=", str(silent.target.port))
            eventually(lambda: site.open() == 0, "aborted")
    assert site.suspended() == set()
