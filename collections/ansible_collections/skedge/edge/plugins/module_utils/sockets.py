# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Which program holds which port, read from /proc. PRIVATE to the collection."""

from __future__ import annotations

import os
import socket
import struct

TCP_LISTEN = "0A"
UDP_BOUND = "07"
EVERY = ("0.0.0.0", "::")  # noqa: S104 - what a socket may be bound to


class Bound:
    """One listening TCP or bound UDP socket; the kernel's own belong to no program."""

    def __init__(self, protocol, address, port, inode):
        self.protocol = protocol
        self.address = address
        self.port = port
        self.inode = inode

    def overlaps(self, address):
        """Return whether a listener on that address ("*" for all) would catch this socket's clients."""
        return address == "*" or self.address in EVERY or self.address == address


def decode_address(text):
    """Return the address that /proc/net shows as hexadecimal words in host byte order."""
    words = [text[i : i + 8] for i in range(0, len(text), 8)]
    raw = b"".join(struct.pack("=I", int(word, 16)) for word in words)
    if len(raw) == 4:
        return socket.inet_ntop(socket.AF_INET, raw)
    if raw.startswith(bytes(10) + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)


def parse_table(protocol, text):
    """Return the listening or bound sockets of one /proc/net table."""
    wanted = TCP_LISTEN if protocol == "tcp" else UDP_BOUND
    found = []
    for line in text.splitlines()[1:]:
        part = line.split()
        if len(part) > 9 and part[3] == wanted:
            address, port = part[1].split(":")
            found.append(Bound(protocol, decode_address(address), int(port, 16), int(part[9])))
    return found


def bound_sockets():
    """Return every listening TCP and bound UDP socket of this network namespace."""
    found = []
    for protocol in ("tcp", "udp"):
        for table in (protocol, protocol + "6"):
            try:
                with open("/proc/net/" + table) as file:
                    found += parse_table(protocol, file.read())
            except OSError:
                continue
    return found


def programs():
    """Return {socket inode: (program name, pid)} of every process that this user may look into."""
    found = {}
    for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
        try:
            with open("/proc/%s/comm" % pid, encoding="utf-8", errors="replace") as file:
                name = file.read().strip()
            descriptors = os.listdir("/proc/%s/fd" % pid)
        except OSError:
            continue  # it ended, or is another user's
        for descriptor in descriptors:
            try:
                link = os.readlink("/proc/%s/fd/%s" % (pid, descriptor))
            except OSError:
                continue  # closed since
            if link.startswith("socket:["):
                found.setdefault(int(link[8:-1]), (name, int(pid)))
    return found


def units(programs, parse):
    """Return {pid: unit} of the programs that hold sockets; ``parse`` reads /proc/PID/cgroup."""
    found = {}
    for pid in {pid for _, pid in programs.values()}:
        try:
            with open("/proc/%d/cgroup" % pid) as file:
                found[pid] = parse(file.read())
        except OSError:
            continue  # it ended since
    return found
