"""The sockets of this host as connections that can be ended (core.ending.Ender): sock_diag finds and destroys them.

The kernel chooses among them by a program of its own kind (INET_DIAG_REQ_BYTECODE), so a look costs what it finds, not
what there is. A socket that is destroyed sends a reset: its program gets ECONNABORTED, the far end's ECONNRESET.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from skedge.core.ending import Ends, Open, Selection, of_workload, parse
from skedge.core.model import Protocol
from skedge.core.objects import Target
from skedge.dataplane.host.netlink import attributes, kernel_errors, split_messages

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _DESTROY = 20, 21
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_NUMBERS = {Protocol.TCP: socket.IPPROTO_TCP, Protocol.UDP: socket.IPPROTO_UDP}
_CONNECTING = 1 << 2  # SYN_SENT
_OPEN = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11  # ESTABLISHED and what follows, but TIME_WAIT
_HEADER = struct.Struct("=IHHII")
_REQUEST_BODY = struct.Struct("=BBBxI")
_ID = struct.Struct(">HH16s16s4x8s")
_FIXED = 72  # size of struct inet_diag_msg
_BYTECODE, _INFO = 1, 2  # attributes of the request, and of the answer
_LAST_SENT, _LAST_RECEIVED, _LAST_ACKNOWLEDGED = 44, 52, 56  # in struct tcp_info: milliseconds ago
_INFO_SIZE = 60
_JMP, _NEAR, _FAR = 1, 7, 8  # INET_DIAG_BC_*
_ANY_PORT = -1
_PATTERNS = 500  # a jump of the program reaches 64 KiB
_ANY_COOKIE = b"\xff" * 8


@dataclass(frozen=True, slots=True)
class _Socket:
    """What a socket is destroyed by: its family, protocol, and struct inet_diag_sockid."""

    family: int
    protocol: Protocol
    ident: bytes

    @property
    def cookie(self) -> int:
        """The kernel's own name of the socket."""
        return int.from_bytes(self.ident[-8:], sys.byteorder)


class SocketEnder:
    """The sockets of the network namespace of whoever calls (needs CAP_NET_ADMIN)."""

    def find(self, selection: Selection) -> Sequence[Open]:
        """Return the sockets that are meant. Raises DataplaneError."""
        if not selection.ends:
            return ()
        now = time.monotonic()
        with kernel_errors("list connections"), _connect() as connection:
            found = [_open(*message, now) for message in _messages(connection, selection)]
        return [one for one in found if selection.means(one)]

    def end(self, found: Sequence[Open]) -> int:
        """Destroy those that are still there; return how many. Raises DataplaneError."""
        with kernel_errors("end connections"), _connect() as connection:
            return sum(_destroy(connection, one.key) for one in found if isinstance(one.key, _Socket))


def end_socket(near: Target, far: Target, protocol: Protocol = Protocol.TCP) -> bool:
    """Destroy the socket of this host with these ends; return whether there was one. Raises DataplaneError."""
    family = socket.AF_INET if ip_address(near.address).version == 4 else socket.AF_INET6
    packed = [ip_address(target.address).packed.ljust(16, b"\0") for target in (near, far)]
    ident = _ID.pack(near.port, far.port, *packed, _ANY_COOKIE)
    with kernel_errors("end a connection"), _connect() as connection:
        return _destroy(connection, _Socket(family, protocol, ident))


def abort_connecting(targets: Collection[Target]) -> int:
    """End every TCP connect that still waits for an answer of one of the targets; the client gets an error at once.

    Returns how many there were. Raises DataplaneError.
    """
    ender = SocketEnder()
    return sum(ender.end(ender.find(Selection(ends, connecting=True))) for ends in _towards(targets))


def end_datagrams(targets: Collection[Target], placed: Callable[[], Collection[int]]) -> int:
    """End connected UDP sockets that send to one of the targets; the client gets an error at once.

    ``placed`` tells the cookies of the sockets that were placed; others, which chose the target themselves, are left
    alone. Returns how many there were. Raises DataplaneError.
    """
    ender = SocketEnder()
    found = [one for ends in _towards(targets) for one in ender.find(Selection(ends, Protocol.UDP))]
    if not found:
        return 0
    cookies = placed()
    return ender.end([one for one in found if isinstance(one.key, _Socket) and one.key.cookie in cookies])


def _towards(targets: Collection[Target]) -> Iterator[tuple[Ends, ...]]:
    """Yield the ends of sockets that speak to one of the targets, as many at a time as one request takes."""
    ends = of_workload(targets)
    for start in range(0, len(ends), _PATTERNS):
        yield ends[start : start + _PATTERNS]


def _connect() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    made.bind((0, 0))
    return made


def _messages(connection: socket.socket, selection: Selection) -> Iterator[tuple[Protocol, bytes]]:
    """Yield a struct inet_diag_msg with its attributes for each socket that may be meant. Raises OSError."""
    protocol, states = selection.protocol, _CONNECTING if selection.connecting else _OPEN
    code = program(selection.ends)
    filtered = struct.pack("=HH", 4 + len(code), _BYTECODE) + code
    for family in (socket.AF_INET, socket.AF_INET6):
        body = _REQUEST_BODY.pack(family, _NUMBERS[protocol], 1 << (_INFO - 1), states) + bytes(48) + filtered
        connection.send(_HEADER.pack(16 + len(body), _BY_FAMILY, _REQUEST | _DUMP, 1, 0) + body)
        done = False
        while not done:
            for kind, payload in split_messages(connection.recv(1 << 16)):
                if kind == _ERROR:
                    error = -struct.unpack_from("=i", payload)[0]
                    raise OSError(error, os.strerror(error))
                if kind == _DONE:
                    done = True
                elif len(payload) >= _FIXED:
                    yield protocol, payload


def _open(protocol: Protocol, message: bytes, now: float) -> Open:
    family, state, ident = message[0], message[1], message[4:52]
    near_port, far_port, near, far, _ = _ID.unpack(ident)
    sides = Target(_address(family, near), near_port), Target(_address(family, far), far_port)
    info = attributes(message, _FIXED).get(_INFO, b"").ljust(_INFO_SIZE, b"\0")
    sent, received, acknowledged = (
        now - struct.unpack_from("=I", info, at)[0] / 1000 for at in (_LAST_SENT, _LAST_RECEIVED, _LAST_ACKNOWLEDGED)
    )
    return Open(
        (sides,),
        heard_at=max(received, acknowledged),
        active_at=max(sent, received),
        protocol=protocol,
        connecting=bool(1 << state & _CONNECTING),
        key=_Socket(family, protocol, ident),
    )


def _address(family: int, raw: bytes) -> str:
    """Return an address; of a socket for both families the IPv4 address that it speaks to."""
    if family == socket.AF_INET:
        return str(IPv4Address(raw[:4]))
    address = IPv6Address(raw)
    return str(address.ipv4_mapped or address)


def _destroy(connection: socket.socket, one: _Socket) -> bool:
    """Destroy one socket; return whether it was still there. Raises OSError."""
    body = _REQUEST_BODY.pack(one.family, _NUMBERS[one.protocol], 0, 0xFFF) + one.ident
    connection.send(_HEADER.pack(16 + len(body), _DESTROY, _REQUEST | _ACK, 1, 0) + body)
    for kind, payload in split_messages(connection.recv(1 << 16)):
        code = -struct.unpack_from("=i", payload)[0] if kind == _ERROR else 0
        if code == errno.ENOENT:
            return False
        if code:
            raise OSError(code, os.strerror(code))
    return True


# ---- the kernel's filter ----------------------------------------------------------------------------------------


def program(patterns: Sequence[Ends]) -> bytes:
    """Return the program (struct inet_diag_bc_op) that lets through what meets one of the patterns.

    An operation says how far on the next one is, where it holds and where it does not; exactly at the end is "yes",
    beyond it is "no". A pattern whose conditions all hold jumps to the end; where one does not, the next is tried.
    """
    code = b""
    for ends in reversed(patterns):
        text = _operation(_JMP, b"", 4 + len(code)) if code else b""
        for side, network, port in ((_FAR, ends.far, ends.far_port), (_NEAR, ends.near, ends.near_port)):
            if network or port:
                condition = _condition(network, port)
                text = _operation(side, condition, 4 + len(condition) + len(text) + (0 if code else 4)) + text
        code = text + code
    return code


def _operation(kind: int, condition: bytes, otherwise: int) -> bytes:
    return struct.pack("=BBH", kind, 4 + len(condition), otherwise) + condition


def _condition(network: str, port: int) -> bytes:
    """Return a struct inet_diag_hostcond; one of IPv4 is met by mapped addresses, too."""
    wanted = port or _ANY_PORT
    if not network:
        return struct.pack("=BBxxi", socket.AF_UNSPEC, 0, wanted)
    at = parse(network)
    family = socket.AF_INET if at.version == 4 else socket.AF_INET6
    return struct.pack("=BBxxi", family, at.prefixlen, wanted) + at.network_address.packed
