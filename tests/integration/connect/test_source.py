"""Sockets that may not, or cannot, go everywhere: bound ones, marked ones, other namespaces, no source port left."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from skedge.core.reasons import Reason

from .kit import FAR4, FAR6, HOST4, HOST6, OVERLAY4, OVERLAY6, Host, Site, candidate, connect, eventually

LISTENER = ("127.0.0.1", 8080)
LISTENER6 = ("::1", 8080)


@pytest.fixture
def local_and_far(site: Site) -> Site:
    here, far = [site.server(address).target for address in ("127.0.0.1", "::1")], []
    far = [site.server(address).target for address in (FAR4[0], FAR6[0])]
    site.service([candidate("far", 0, *far), candidate("here", 100, *here, own_site=True)], LISTENER, LISTENER6)
    return site


@pytest.mark.parametrize(
    ("source", "listener", "reached"),
    [
        (OVERLAY4, LISTENER, "far"),
        ("0.0.0.0", LISTENER, "far"),
        ("127.0.0.1", LISTENER, "here"),
        (HOST4, LISTENER, "here"),
        (OVERLAY6, LISTENER6, "far"),
        ("::", LISTENER6, "far"),
        (HOST6, LISTENER6, "here"),
        ("::1", LISTENER6, "here"),
        ("::ffff:127.0.0.1", ("::ffff:127.0.0.1", 8080), "here"),
        (f"::ffff:{OVERLAY4}", ("::ffff:127.0.0.1", 8080), "far"),
    ],
)
def test_a_bound_socket_stays_at_its_site(
    local_and_far: Site, source: str, listener: tuple[str, int], reached: str
) -> None:
    with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET) as client:
        client.bind((source, 0))
        client.connect(listener)
        client.sendall(b"x")
        assert local_and_far.open(reached) == 1
    assert local_and_far.open() == 0


def test_a_bound_socket_without_a_workload_here_is_refused(site: Site) -> None:
    site.service([candidate("far", 0, site.server(FAR4[0]).target)], LISTENER)
    before = site.engine.drops().get(Reason.SOURCE_BOUND, 0)
    with socket.socket() as client:
        client.bind((HOST4, 0))
        with pytest.raises(ConnectionRefusedError):
            client.connect(LISTENER)
    assert site.engine.drops()[Reason.SOURCE_BOUND] == before + 1
    assert site.open() == 0


def test_a_socket_bound_to_a_device_stays_at_its_site(local_and_far: Site) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        client.connect(LISTENER)
        assert local_and_far.open("here") == 1


def test_a_retry_is_not_taken_for_bound(local_and_far: Site) -> None:
    """The kernel leaves a source address on a socket that was connected; only bind(2) binds."""
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        foreign = socket.socket(type=socket.SOCK_DGRAM)
        foreign.bind(("127.0.0.1", 0))
        server = socket.socket(type=socket.SOCK_DGRAM)
        server.bind((FAR4[0], 0))
        from skedge.core.model import Protocol
        from skedge.core.objects import Target

        far = Target(*server.getsockname())
        local_and_far.service([candidate("udp", 0, far)], ("127.0.0.1", 5353), name="u", protocol=Protocol.UDP)
        client.connect(foreign.getsockname())
        assert client.getsockname()[0] == "127.0.0.1"
        client.connect(("127.0.0.1", 5353))
        assert local_and_far.open("udp") == 1
        foreign.close()
        server.close()


def test_our_own_sockets_are_exempt(site: Site) -> None:
    site.service([candidate("a", 0, site.server().target)], LISTENER)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x736B)
        with pytest.raises(ConnectionRefusedError):  # nothing listens there itself
            client.connect(LISTENER)
    assert site.count("a").chosen == 0


def test_another_namespace_is_none_of_our_business(site: Site, host: Host) -> None:
    """A container's sockets in the same cgroup: its 127.0.0.1 is its own."""
    import ctypes
    import os

    site.service([candidate("a", 0, site.server().target)], LISTENER)
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            assert ctypes.CDLL(None).unshare(0x40000000) == 0
            with socket.socket() as client:
                code = 0 if client.connect_ex(LISTENER) != 0 else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert site.count("a").chosen == 0


@contextlib.contextmanager
def ports(number: int) -> Iterator[None]:
    path = Path("/proc/sys/net/ipv4/ip_local_port_range")
    before = path.read_text()
    path.write_text(f"40000 {40000 + number - 1}")
    try:
        yield
    finally:
        path.write_text(before)


def linger(client: socket.socket) -> socket.socket:
    """Close with RST: no TIME-WAIT that would hold a port."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    return client


def test_a_workload_without_source_ports_is_skipped_while_another_can_serve(site: Site) -> None:
    near, far = site.server(), site.server(FAR4[0])
    with ports(20):
        assert site.engine.refresh_port_limit() == 20
        site.service([candidate("near", 0, near.target), candidate("far", 1000, far.target)], LISTENER)
        before = site.engine.drops().get(Reason.NO_PORT, 0)
        held = [linger(connect(*LISTENER)) for _ in range(22)]
        assert (site.open("near"), site.open("far")) == (20, 2)
        assert site.engine.drops()[Reason.NO_PORT] == before + 2
        site.service([candidate("near", 0, near.target)])
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect(LISTENER)
        for one in held:
            one.close()
        eventually(lambda: site.open() == 0, "closed")
    site.engine.refresh_port_limit()
