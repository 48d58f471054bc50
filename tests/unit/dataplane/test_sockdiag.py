"""Which packets find a workload's socket, from what sock_diag says of it."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

import pytest

from skedge.core.model import Protocol
from skedge.core.objects import Target
from skedge.dataplane.host import sock_diag
from skedge.dataplane.host.netlink import attributes, split_messages
from skedge.dataplane.host.sock_diag import SocketInfo, delivers

PORT = 9090


def bound(address: str, v6only: bool = False) -> SocketInfo:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return SocketInfo(family, 10, Target(address, PORT), Target("0.0.0.0", 0), b"\0" * 8, v6only)


@pytest.mark.parametrize(
    ("host", "sockets", "expected"),
    [
        ("127.0.0.1", [], (False, False)),
        ("127.0.0.1", [bound("127.0.0.1")], (True, False)),
        ("127.0.0.1", [bound("0.0.0.0")], (True, False)),
        ("127.0.0.1", [bound("::")], (True, True)),
        ("127.0.0.1", [bound("::", v6only=True)], (False, True)),
        ("127.0.0.1", [bound("::1")], (False, True)),
        ("127.0.0.1", [bound("::ffff:127.0.0.1")], (True, False)),
        ("127.0.0.1", [bound("10.0.0.5")], (False, False)),
        ("::1", [bound("127.0.0.1"), bound("::1")], (True, True)),
        ("10.0.0.5", [bound("10.0.0.5")], (True, False)),
        ("10.0.0.5", [bound("10.0.0.5"), bound("::1")], (True, False)),
        ("10.0.0.5", [bound("::")], (True, True)),
        ("fd00::5", [bound("fd00::5"), bound("127.0.0.1")], (False, True)),
    ],
)
def test_delivers(host: str, sockets: list[SocketInfo], expected: tuple[bool, bool]) -> None:
    assert delivers(Target(host, PORT), sockets) == expected


def test_another_port_is_another_workload() -> None:
    assert delivers(Target("127.0.0.1", PORT + 1), [bound("::")]) == (False, False)


def test_messages_and_attributes_cut_short_end_the_parsing() -> None:
    message = struct.pack("=IHHII", 20, 20, 0, 1, 0) + b"abcd"
    assert split_messages(message * 2) == [(20, b"abcd")] * 2
    assert split_messages(message[:10]) == []
    assert split_messages(struct.pack("=IHHII", 0, 1, 0, 0, 0) * 2) == [(1, b""), (1, b"")]
    assert attributes(b"\x08\0\x0b\x80abcd\x05\0\x02\0z\0\0\0", 0) == {11: b"abcd", 2: b"z"}
    assert attributes(b"\0\0\x01\0", 0) == {1: b""}


def test_one_inet_diag_message() -> None:
    ident = struct.pack(">HH16s16s", 9090, 0, ip_address("::1").packed, bytes(16)) + bytes(4) + b"cookie!!"
    message = bytes([socket.AF_INET6, 10, 0, 0]) + ident + bytes(20) + struct.pack("=HHBxxx", 5, 11, 1)
    info = sock_diag._parse(message)
    assert info.local == Target("::1", 9090)
    assert info.v6only
    assert info.cookie == b"cookie!!"


@pytest.mark.parametrize(
    ("bind", "asked", "taken"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "::1", False),
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "127.0.0.1", True),
        ("::", "::1", True),
        ("::1", "::1", True),
        ("::1", "127.0.0.1", False),
    ],
)
def test_the_kernel_tells_whether_a_udp_socket_is_bound(bind: str, asked: str, taken: bool) -> None:
    with socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((bind, 0))
        port = server.getsockname()[1]
        assert bool(sock_diag.datagram_sockets(Target(asked, port))) is taken
        assert [info.local.port for info in sock_diag.dump(Protocol.UDP, 1 << 7, port)] == [port]
    assert not sock_diag.datagram_sockets(Target(asked, port))


def test_a_connected_udp_socket_takes_nobody_elses_datagrams() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        one.connect(("127.0.0.1", 9))
        assert not sock_diag.datagram_sockets(Target("127.0.0.1", one.getsockname()[1]))
