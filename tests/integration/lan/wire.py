"""Frames on the other end of the LAN's cable."""

from __future__ import annotations

import select
import socket
import struct
import time

from .kit import Bench

_SOL_PACKET, _PACKET_AUXDATA, _TAGGED = 263, 8, 1 << 4  # TP_STATUS_VLAN_VALID


class Wire:
    """The other end of the LAN's cable."""

    def __init__(self, bench: Bench, device: str = "lan1") -> None:
        self.bench = bench
        self.socket = bench.site.ns(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind((device, 0))
        self.socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)

    def send(self, data: bytes) -> None:
        self.socket.send(data)

    def flows(self, within: float = 2.0, expected: int = 1) -> int:
        """Return how many flows there are, after a time in which `expected` ones would have come."""
        until = time.monotonic() + within
        while (found := len(list(self.bench.site.flows.records()))) < expected and time.monotonic() < until:
            time.sleep(0.01)
        return found

    def received(self, packet: bytes, within: float = 2.0) -> bool:
        """Return whether the first frame out of the LAN device with this IP packet in it has a tag."""
        until = time.monotonic() + within
        while select.select([self.socket], [], [], max(0.0, until - time.monotonic()))[0]:
            data, said, _, where = self.socket.recvmsg(2000, 200)
            if where[2] != socket.PACKET_OUTGOING and packet in data:
                return bool(struct.unpack_from("=I", said[0][2])[0] & _TAGGED) or data[12:14] == b"\x81\x00"
        raise AssertionError("no such frame")
