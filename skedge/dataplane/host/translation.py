"""Whether the host's rules may lead its own connections elsewhere, and when they changed (needs CAP_NET_ADMIN)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

from skedge.dataplane.host.legacy_iptables import has_table
from skedge.dataplane.host.netlink import attributes, kernel_errors, split_messages

_NETFILTER = 12  # the netlink protocol; not in Python's socket module
_NFTABLES = 10 << 8
_GET_CHAIN, _NEW_CHAIN, _GET_GENERATION, _NEW_GENERATION = (_NFTABLES | kind for kind in (4, 3, 16, 15))
_REQUEST, _DUMP, _ERROR, _DONE = 0x1, 0x300, 2, 3
_FIXED = 4  # size of struct nfgenmsg
_CHAIN_HOOK, _CHAIN_TYPE, _HOOK_NUMBER, _GENERATION = 4, 7, 1, 1  # NFTA_*
_OUTPUT = 3  # NF_INET_LOCAL_OUT
ALWAYS = -1


class Translation:
    """What this namespace's rules may do to connections of its own; chains are listed only when rules changed."""

    def __init__(self) -> None:
        self._generation, self._translates = ALWAYS, False

    def rules(self) -> int | None:
        """Return None where nothing translates, else a number that changes with the rules, or ALWAYS.

        ALWAYS: the rules of old iptables do, and their changes are announced by nobody. Raises DataplaneError.
        """
        if any(has_table("nat", version) for version in (4, 6)):
            return ALWAYS
        with kernel_errors("look for rules that translate"), _open() as link:
            generation = _generation(link)
            if generation != self._generation:
                self._translates = any(_translates(chain) for chain in _messages(link, _GET_CHAIN, _NEW_CHAIN))
                self._generation = generation
        return generation if self._translates else None


def _open() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
    made.bind((0, 0))
    return made


def _generation(link: socket.socket) -> int:
    payload = next(_messages(link, _GET_GENERATION, _NEW_GENERATION, flags=0))
    return int.from_bytes(attributes(payload, _FIXED)[_GENERATION])


def _translates(chain: bytes) -> bool:
    """Tell whether a chain is a base chain of type nat at the output hook."""
    found = attributes(chain, _FIXED)
    number = attributes(found.get(_CHAIN_HOOK, b""), 0).get(_HOOK_NUMBER, b"")
    return found.get(_CHAIN_TYPE, b"").rstrip(b"\0") == b"nat" and int.from_bytes(number) == _OUTPUT


def _messages(link: socket.socket, kind: int, answer: int, flags: int = _DUMP) -> Iterator[bytes]:
    """Yield the payload of each answer of a kind. Raises OSError."""
    body = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
    link.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, 1, 0) + body)
    while True:
        for told, payload in split_messages(link.recv(1 << 16)):
            if told == _DONE:
                return
            if told == _ERROR:
                code = -struct.unpack_from("=i", payload)[0]
                raise OSError(code, os.strerror(code))
            if told == answer:
                yield payload
                if not flags:
                    return
