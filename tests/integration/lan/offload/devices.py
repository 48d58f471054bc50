"""What devices make of many packets: how large a super-packet may be, set and read by rtnetlink itself (ip(8) of Debian
12 does not know IPv4's), and how large those are that a device sees."""

from __future__ import annotations

import socket
import struct
import threading

from tests.integration.links.kit import Namespace

NEWLINK, GETLINK = 16, 18
GSO, GRO, GSO4, GRO4 = 41, 58, 63, 64  # IFLA_*_MAX_SIZE, IFLA_*_IPV4_MAX_SIZE
LARGE, USUAL = 200_000, 65_536
ETH_P_ALL = 3
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23


def _ask(kind: int, index: int, attributes: bytes = b"") -> bytes:
    flags = 5 if kind == NEWLINK else 1  # NLM_F_REQUEST, with NLM_F_ACK
    body = struct.pack("=BxHiII", 0, 0, index, 0, 0) + attributes
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
        answer = netlink.recv(1 << 16)
    if struct.unpack_from("=H", answer, 4)[0] == 2 and (code := -struct.unpack_from("=i", answer, 16)[0]):
        raise OSError(code, "rtnetlink")
    return answer


def _sizes(name: str) -> dict[int, int]:
    answer, at, found = _ask(GETLINK, socket.if_nametoindex(name)), 32, {}
    while at + 4 <= len(answer):
        length, kind = struct.unpack_from("=HH", answer, at)
        if length == 8:
            found[kind] = struct.unpack_from("=I", answer, at + 4)[0]
        at += max(length + 3 & ~3, 4)
    return {kind: found[kind] for kind in (GSO, GRO, GSO4, GRO4) if kind in found}


def _set(name: str, size: int) -> None:
    wanted = b"".join(struct.pack("=HHI", 8, kind, size) for kind in _sizes(name))
    _ask(NEWLINK, socket.if_nametoindex(name), wanted)


def set_super_packets(at: Namespace, device: str, size: int) -> None:
    at(_set, device, size)


def kernel_has_big_tcp(at: Namespace, device: str, v: int) -> bool:
    """Return whether the kernel makes super-packets of more than 64 KiB: since Linux 5.19 of IPv6, 6.3 of IPv4."""
    return {4: GSO4, 6: GRO}[v] in at(_sizes, device)


class Sizes:
    """The largest frame that comes in by a device, while in its context."""

    def __init__(self, at: Namespace, device: str) -> None:
        self.largest = 0
        self._socket = at(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        self._socket.bind((device, 0))
        self._socket.settimeout(0.1)
        self._stopped = False
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        room = bytearray(1)
        while not self._stopped:
            try:
                self.largest = max(self.largest, self._socket.recv_into(room, 1, socket.MSG_TRUNC))
            except TimeoutError:
                continue

    def __enter__(self) -> Sizes:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join()
        self._socket.close()
