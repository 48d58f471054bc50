"""Where the host's own DNAT led a connection, as the kernel's connection tracking tells (needs CAP_NET_ADMIN)."""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import ip_address
from pathlib import Path

from skedge.core.model import Protocol
from skedge.core.objects import Target
from skedge.dataplane.host.netlink import attributes, kernel_errors, split_messages

TRACKED = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_NETFILTER = 12  # the netlink protocol; not in Python's socket module
_GET = 1 << 8 | 1  # subsystem ctnetlink, IPCTNL_MSG_CT_GET
_REQUEST, _ERROR = 0x1, 2
_NESTED = 0x8000
_FIXED = 4  # size of struct nfgenmsg
_ORIGINAL, _REPLY = 1, 2  # CTA_TUPLE_*
_IP, _PROTO = 1, 2
_SOURCE, _DESTINATION = {4: 1, 6: 3}, {4: 2, 6: 4}  # CTA_IP_V4_*, CTA_IP_V6_*
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_NUMBERS = {Protocol.TCP: socket.IPPROTO_TCP, Protocol.UDP: socket.IPPROTO_UDP}


def tracks() -> bool:
    """Return whether this network namespace tracks any connection now; where it does not, nothing is translated."""
    try:
        return int(TRACKED.read_text()) > 0
    except (OSError, ValueError):
        return False


def led_to(own: Target, asked: Target, protocol: Protocol = Protocol.TCP) -> Target:
    """Return who answers a connection of this host from ``own`` to ``asked``: somebody else where it was translated.

    One that is not tracked went where it was sent. Raises DataplaneError.
    """
    with kernel_errors("look a connection up"):
        found = _find(own, asked, protocol)
    return asked if found is None else found


def _find(own: Target, asked: Target, protocol: Protocol) -> Target | None:
    """Return the source of the answers of a tracked connection; None when there is none. Raises OSError."""
    version = ip_address(asked.address).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    body = struct.pack("=BBH", family, 0, 0) + _tuple(version, own, asked, protocol)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER) as link:
        link.bind((0, 0))
        link.send(struct.pack("=IHHII", 16 + len(body), _GET, _REQUEST, 1, 0) + body)
        kind, payload = split_messages(link.recv(1 << 15))[0]
    if kind == _ERROR:
        code = -struct.unpack_from("=i", payload)[0]
        if code in (0, 2):  # ENOENT: not tracked
            return None
        raise OSError(code, os.strerror(code))
    reply = attributes(attributes(payload, _FIXED).get(_REPLY, b""), 0)
    address = attributes(reply.get(_IP, b""), 0).get(_SOURCE[version], b"")
    port = attributes(reply.get(_PROTO, b""), 0).get(_SOURCE_PORT, b"")
    return Target(str(ip_address(address)), int.from_bytes(port)) if address and port else None


def _tuple(version: int, own: Target, asked: Target, protocol: Protocol) -> bytes:
    """Return the attribute that a connection is looked up by: its first packet's addresses and ports."""
    addresses = _attribute(_SOURCE[version], ip_address(own.address).packed)
    addresses += _attribute(_DESTINATION[version], ip_address(asked.address).packed)
    ports = _attribute(_NUMBER, bytes([_NUMBERS[protocol]]))
    ports += _attribute(_SOURCE_PORT, own.port.to_bytes(2)) + _attribute(_DESTINATION_PORT, asked.port.to_bytes(2))
    return _attribute(_ORIGINAL | _NESTED, _attribute(_IP | _NESTED, addresses) + _attribute(_PROTO | _NESTED, ports))


def _attribute(kind: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + value + padding
