"""Rules of old iptables (`iptables-legacy`), which nft does not list: as the kernel has them (needs CAP_NET_ADMIN).

The layouts are those of linux/netfilter_ipv4/ip_tables.h. Rules are told in the words of nft's JSON as far as devices,
source addresses and verdicts go; whatever else one compares is ``{"xt": None}``.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from skedge.dataplane.host.netlink import kernel_errors

Rule = Sequence[Mapping[str, Any]]
_NAMES = {4: "ip_tables_names", 6: "ip6_tables_names"}
_MODULES = {4: "iptable_", 6: "ip6table_"}
_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_*
_INFO = struct.Struct("=32s13I")  # ipt_getinfo: name, hooks, five entries, five underflows, rules, size
_GET = struct.Struct("=32sI4x")  # ipt_get_entries
_INPUT, _POLICY, _SIZE = 3, 8, 13  # places in _INFO
_ENTRY = struct.Struct("=4s4s4s4s16s16s16s16sHBB4xHH20x")  # ipt_entry
_TARGET = struct.Struct("=2x29sx")  # xt_entry_target
_NOT_FROM, _NOT_BY = 0x08, 0x01  # IPT_INV_*
_VERDICTS = {-1: "drop", -2: "accept", -5: "return"}
_HEAD = "ERROR"  # the target of what heads a user's chain


@dataclass(frozen=True)
class _Entry:
    """One rule: what it compares, and what it leads to. ``data`` is what the target has besides its name."""

    at: int
    after: int
    match: tuple[Any, ...]
    extended: bool
    target: str
    data: bytes


def has_table(table: str, version: int = 4) -> bool:
    """Return whether old iptables have a table; where that may not be read, whether its module is there.

    (To ask the kernel for a table makes it.)
    """
    try:
        return table in Path("/proc/thread-self/net", _NAMES[version]).read_text(encoding="ascii").split()
    except FileNotFoundError:
        return False
    except OSError:
        return Path("/sys/module", _MODULES[version] + table).exists()


def rules_of(table: str, chain: str) -> Sequence[Rule]:
    """Return the rules of IPv4's INPUT, or of a user's chain; nothing where it is not there. Raises DataplaneError."""
    if not has_table(table):
        return []
    with kernel_errors(f"read the table {table} of iptables-legacy"):
        start, end, blob = _read(table)
    entries = list(_entries(blob))
    heads = {one.after: _text(one.data) for one in entries if one.target == _HEAD}
    if chain != "INPUT":
        start = next((at for at, name in heads.items() if name == chain), len(blob))
        end = next((one.at for one in entries if one.at >= start and one.target == _HEAD), len(blob)) - 1
    return [_rule(one, heads) for one in entries if start <= one.at <= end]


def _read(table: str) -> tuple[int, int, bytes]:
    """Return where the input chain starts in a table, where its policy is, and the table. Raises OSError."""
    name = table.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asked:
        info = _INFO.unpack(_ask(asked, _GET_INFO, _INFO.pack(name, *bytes(13))))
        found = _ask(asked, _GET_ENTRIES, _GET.pack(name, info[_SIZE]) + bytes(info[_SIZE]))
    return info[_INPUT], info[_POLICY], found[_GET.size :]


def _ask(asked: socket.socket, option: int, said: bytes) -> bytes:
    """Do getsockopt with an argument, which Python's own does not take. Raises OSError."""
    buffer, size = ctypes.create_string_buffer(said, len(said)), ctypes.c_uint32(len(said))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(asked.fileno(), socket.SOL_IP, option, buffer, ctypes.byref(size)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return buffer.raw


def _entries(blob: bytes) -> Iterator[_Entry]:
    at = 0
    while at + _ENTRY.size <= len(blob):
        *match, target, following = _ENTRY.unpack_from(blob, at)
        if following < _ENTRY.size:
            return
        data = blob[at + target + _TARGET.size : at + following]
        name = _text(_TARGET.unpack_from(blob, at + target)[0])
        yield _Entry(at, at + following, tuple(match), target > _ENTRY.size, name, data)
        at += following


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")


def _rule(one: _Entry, heads: Mapping[int, str]) -> Rule:
    source, _, source_mask, destination_mask, by, _, by_mask, out_mask, protocol, _, inverted = one.match
    found: list[Mapping[str, Any]] = []
    if any(by_mask):
        name = _text(by)
        exact = any(by_mask[len(name) :])  # then its end is compared, too
        shown = name if exact else name.removesuffix("+") + "*"
        found.append(_compared({"meta": {"key": "iifname"}}, shown, inverted & _NOT_BY))
    if any(source_mask):
        network = IPv4Network((source, socket.inet_ntoa(source_mask)), strict=False)
        said = {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}
        found.append(_compared({"payload": {"protocol": "ip", "field": "saddr"}}, said, inverted & _NOT_FROM))
    if one.extended or protocol or any((*destination_mask, *out_mask)):
        found.append({"xt": None})
    return [*found, *_verdict(one, heads)]


def _compared(left: Mapping[str, Any], right: Any, inverted: int) -> Mapping[str, Any]:
    return {"match": {"op": "!=" if inverted else "==", "left": left, "right": right}}


def _verdict(one: _Entry, heads: Mapping[int, str]) -> list[Mapping[str, Any]]:
    if one.target or len(one.data) < 4:
        return [{"xt": None}]
    number = struct.unpack_from("=i", one.data)[0]
    if number in _VERDICTS:
        return [{_VERDICTS[number]: None}]
    return [{"jump": {"target": heads[number]}}] if number in heads else []
