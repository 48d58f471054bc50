"""sock_diag: which sockets listen, and which of them stopped; what ends sockets is in dataplane/ending/sockets.py."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol
from skedge.core.objects import Target
from skedge.dataplane.host.netlink import attributes, kernel_errors, split_messages

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY = 20
_REQUEST, _DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3
_ESTABLISHED, _SYN_SENT, _FIN_WAIT1, _FIN_WAIT2, _CLOSE, _CLOSE_WAIT, _LISTEN = 1, 2, 4, 5, 7, 8, 10
_NUMBERS = {Protocol.TCP: socket.IPPROTO_TCP, Protocol.UDP: socket.IPPROTO_UDP}
_ID = struct.Struct(">HH16s16s4x8s")  # ports and addresses in network order; interface 0; cookie as it came
_FIXED = 72  # size of struct inet_diag_msg
_EXPIRES = 52  # family, state and identity (addresses, ports, cookie) end here; queue lengths and the like follow
_QUEUED = 56
_LIMIT = 60  # of a listening socket: the most that its queue takes
_DEVICE = 40  # that it is bound to
_LOOPBACK_INDEX = 1
_INODE = 68  # of the file that a program has the socket by; 0 while it has none, as in the queue of a listening socket
_ANY_COOKIE = b"\xff" * 8
_SKV6ONLY = 11


@dataclass(frozen=True, slots=True)
class SocketInfo:
    """One socket as sock_diag tells it; ``cookie`` is its own name, ``queued`` what was not read yet.

    Of a listening socket, ``queued`` is how many connections wait to be accepted; one more than ``limit`` at most.
    ``device`` is the number of the device that it is bound to, 0 for none.
    """

    family: int
    state: int
    local: Target
    remote: Target
    cookie: bytes
    v6only: bool = False
    inode: int = 0
    queued: int = 0
    limit: int = 0
    device: int = 0


def _address(family: int, raw: bytes) -> str:
    return str(ip_address(raw if family == socket.AF_INET6 else raw[:4]))


def _parse(message: bytes) -> SocketInfo:
    """Read one struct inet_diag_msg."""
    family, state = message[0], message[1]
    source_port, port, source, destination, cookie = _ID.unpack_from(message, 4)
    local, remote = Target(_address(family, source), source_port), Target(_address(family, destination), port)
    queued, limit, inode, device = (
        struct.unpack_from("=I", message, at)[0] for at in (_QUEUED, _LIMIT, _INODE, _DEVICE)
    )
    return SocketInfo(family, state, local, remote, cookie, _v6only(message), inode, queued, limit, device)


def _v6only(message: bytes) -> bool:
    """Return the attribute INET_DIAG_SKV6ONLY, which follows the fixed part of a listening IPv6 socket's message."""
    return attributes(message, _FIXED).get(_SKV6ONLY, b"\0")[0] != 0


def _request(kind: int, flags: int, family: int, protocol: Protocol, states: int, ident: bytes) -> bytes:
    """Return one request with a struct inet_diag_req_v2."""
    body = struct.pack("=BBBxI", family, _NUMBERS[protocol], 0, states) + ident
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, 1, 0) + body


def _open() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    made.bind((0, 0))
    return made


def dump(protocol: Protocol, states: int, port: int = 0) -> list[SocketInfo]:
    """Return all sockets of both families in the given states (a bit mask), of one local port where it is given.

    Raises DataplaneError.
    """
    with kernel_errors("list sockets"), _open() as connection:
        return [_parse(message) for message in _messages(connection, protocol, states, port)]


def _messages(connection: socket.socket, protocol: Protocol, states: int, port: int = 0) -> Iterator[bytes]:
    """Yield a struct inet_diag_msg with its attributes for each socket. Raises OSError."""
    ident = port.to_bytes(2) + bytes(46)
    for family in (socket.AF_INET, socket.AF_INET6):
        connection.send(_request(_BY_FAMILY, _DUMP, family, protocol, states, ident))
        done = False
        while not done:
            for kind, payload in split_messages(connection.recv(1 << 15)):
                if kind == _ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    raise OSError(code, os.strerror(code))
                if kind == _DONE:
                    done = True
                elif len(payload) >= _FIXED:
                    yield payload


def _plain(address: str) -> str:
    """Return the IPv4 address of a v4-mapped one, others unchanged."""
    parsed = ip_address(address)
    mapped = parsed.ipv4_mapped if parsed.version == 6 else None
    return address if mapped is None else str(mapped)


def listening(protocol: Protocol = Protocol.TCP) -> list[SocketInfo]:
    """Return all sockets of this namespace that take connections (TCP) or datagrams without a peer (UDP)."""
    state = _LISTEN if protocol is Protocol.TCP else _CLOSE
    return [info for info in dump(protocol, 1 << state) if info.remote.port == 0 and info.local.port]


def datagram_sockets(target: Target) -> list[SocketInfo]:
    """Return the UDP sockets of this namespace that take anybody's datagrams to the target. Raises DataplaneError."""
    bound = [info for info in dump(Protocol.UDP, 1 << _CLOSE, target.port) if info.remote.port == 0]
    version = ip_address(_plain(target.address)).version
    return [info for info in bound if _takes(info, version, str(ip_address(_plain(target.address))))]


def listening_sockets(target: Target) -> list[SocketInfo]:
    """Return the TCP sockets of this namespace that take connections of its own to the target. Raises DataplaneError.

    One that is bound to a device takes what comes by that, which is lo for the host's own.
    """
    address = _plain(target.address)
    version, wanted = ip_address(address).version, str(ip_address(address))
    bound = [info for info in dump(Protocol.TCP, 1 << _LISTEN, target.port) if info.device in (0, _LOOPBACK_INDEX)]
    return [info for info in bound if _takes(info, version, wanted)]


def waits_for_accept(client: Target, server: Target) -> bool:
    """Return whether a TCP connection lies in the queue of a listening socket here: no program has accepted it yet.

    Raises DataplaneError.
    """
    family = socket.AF_INET if ip_address(server.address).version == 4 else socket.AF_INET6
    packed = [ip_address(target.address).packed.ljust(16, b"\0") for target in (server, client)]
    ident = _ID.pack(server.port, client.port, *packed, _ANY_COOKIE)
    with kernel_errors("look a connection up"), _open() as connection:
        connection.send(_request(_BY_FAMILY, 0, family, Protocol.TCP, 0xFFF, ident))
        kind, payload = split_messages(connection.recv(65536))[0]
        if kind == _ERROR:
            code = -struct.unpack_from("=i", payload)[0]
            if code in (0, errno.ENOENT):
                return False
            raise OSError(code, os.strerror(code))
    info = _parse(payload)
    return info.state in (_ESTABLISHED, _CLOSE_WAIT) and not info.inode


def has_accepted(port: int) -> bool:
    """Return whether any program here holds an open TCP connection at this local port. Raises DataplaneError."""
    return any(info.inode for info in dump(Protocol.TCP, 1 << _ESTABLISHED | 1 << _CLOSE_WAIT, port))


def held(port: int) -> int:
    """Return how many TCP connections at this local port are open, or not yet closed by their program here.

    Raises DataplaneError.
    """
    closing = 1 << _FIN_WAIT1 | 1 << _FIN_WAIT2
    found = dump(Protocol.TCP, 1 << _ESTABLISHED | 1 << _CLOSE_WAIT | closing, port)
    return sum(bool(info.inode) or info.state in (_ESTABLISHED, _CLOSE_WAIT) for info in found)


def delivers(workload: Target, listeners: Collection[SocketInfo]) -> tuple[bool, bool]:
    """Return whether IPv4 and whether IPv6 packets for this workload find a socket, as bpf/link/deliver_tcp.h looks."""
    host = ip_address(_plain(workload.address))
    found = [info for info in listeners if info.local.port == workload.port]
    other = {4: "127.0.0.1", 6: "::1"} if host.is_loopback else {4: "0.0.0.0", 6: "::"}  # noqa: S104 - a comparison

    def at(version: int) -> bool:
        wanted = str(host) if host.version == version else other[version]
        return any(_takes(info, version, wanted) for info in found)

    return at(4), at(6)


def _takes(info: SocketInfo, version: int, address: str) -> bool:
    """Return whether a bound socket takes packets of an IP version to an address."""
    if info.family == socket.AF_INET:
        return version == 4 and info.local.address in (address, "0.0.0.0")  # noqa: S104
    if version == 6:
        return info.local.address in (address, "::")
    return not info.v6only and (info.local.address == "::" or _plain(info.local.address) == address)


class ListenWatch:
    """Tells which listening TCP sockets of this network namespace closed, by a look every ``interval_s``.

    Five looks a second: ten were measured to be a quarter of what a controller at rest takes. (The kernel can announce
    each closed socket, SKNLGRP_INET_TCP_DESTROY, but it then makes a message of every TCP connection that ends:
    measured, 12 to 18 % of a short connection's time.) ``fileno`` is for an event loop's reader, readable when it is
    time for the next look.
    """

    def __init__(self, interval_s: float = 0.2) -> None:
        self._timer = _timer(interval_s)
        self._connection = _open()
        self._had = self._listening()

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        return self._timer

    def read(self) -> frozenset[Target]:
        """Return address and port of the listening sockets that closed since the last look; never blocks."""
        with suppress(BlockingIOError):
            os.read(self._timer, 8)
        before, self._had = self._had, self._listening()
        return frozenset(_local(identity) for identity in before - self._had)

    def close(self) -> None:
        """Stop watching."""
        os.close(self._timer)
        self._connection.close()

    def _listening(self) -> frozenset[bytes]:
        """Return what identifies each socket, in raw form: nearly always nothing has changed, so nothing is parsed."""
        with kernel_errors("list listening sockets"):
            try:
                return frozenset(
                    message[:2] + message[4:_EXPIRES]
                    for message in _messages(self._connection, Protocol.TCP, 1 << _LISTEN)
                )
            except OSError:
                self._connection.close()  # what was left unread of this answer must not be taken for the next one's
                self._connection = _open()
                raise


def _local(identity: bytes) -> Target:
    """Return address and port of what `ListenWatch` keeps of a socket."""
    port, _, source, _, _ = _ID.unpack_from(identity, 2)
    return Target(_plain(_address(identity[0], source)), port)


def _timer(interval_s: float) -> int:
    """Return a timerfd that fires every ``interval_s`` seconds (os.timerfd_create comes with Python 3.13)."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
    seconds, nanoseconds = divmod(int(interval_s * 1e9), 10**9)
    spec = struct.pack("@4l", seconds, nanoseconds, seconds, nanoseconds)
    if descriptor < 0 or libc.timerfd_settime(descriptor, 0, spec, None):
        raise DataplaneError(f"watch listening sockets: {os.strerror(ctypes.get_errno())}")
    return descriptor
