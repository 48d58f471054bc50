"""Packets that connection tracking must leave alone, by two nftables chains in the table of the tunnel guard.

Where a host translates addresses (Docker does, firewalld may), the kernel takes the socket away again that a program of
ours has assigned to a SYN: to `nf_nat` a listening socket, which knows no client, looks like one that early demux found
for the wrong port. It only looks at packets that are tracked. So these are not: everything on link devices, and packets
of the LAN to and from listeners. Rules of the host that ask for a state do not fit them; pre-flight judges by that.
Tracked, as new, is what the host's rules are asked about (`accepted.py`): it never reaches a socket.

Written only where connections are tracked at all, as two more chains cost each packet of the host something.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path

from skedge.core.model import Protocol
from skedge.core.objects import ChainGroup, ListenerKey, NftRule
from skedge.dataplane.nftables import syntax
from skedge.dataplane.nftables.chain_groups import Owned, base
from skedge.dataplane.nftables.syntax import ACCEPT, ASKED, FROM_LINK, OPENS, TO_LINK, Expression, field, match, meant

NAME, IN, OUT = "notrack", "untracked-in", "untracked-out"
OWNED = Owned(NAME, (IN, OUT))
_LOOPBACK = {4: "127.0.0.0/8", 6: "::1/128"}
RAW = -300  # before connection tracking, which is at -200
TRACKED = Path("/proc/sys/net/netfilter/nf_conntrack_count")


def tracks(path: Path = TRACKED) -> bool:
    """Return whether this network namespace tracks any connection now."""
    try:
        return int(path.read_text()) > 0
    except (OSError, ValueError):
        return False


def wanted(
    found: Mapping[str, ChainGroup],
    listeners: Collection[ListenerKey],
    *,
    opening: bool,
    tracked: bool,
    shared: bool = False,
) -> Mapping[str, ChainGroup]:
    """Return the group as it should be, or none where nothing is ``tracked`` and it is not there.

    Once there it stays: what is not tracked is no sign that nothing else needs to be.
    """
    return {NAME: group(listeners, opening=opening, shared=shared)} if tracked or NAME in found else {}


def group(listeners: Collection[ListenerKey], *, opening: bool = False, shared: bool = False) -> ChainGroup:
    """Return the chains for links and these listeners.

    ``opening``: only packets that open a connection are left alone, as another engine's open ones must be tracked on.
    ``shared``: the host has more addresses than listeners have elements for, so the kernel is asked which are its own.
    """
    places, ports = _by_version(listeners), _everywhere(listeners) if shared else {}
    into = [meant([ASKED, ACCEPT], "asked"), *_rules(FROM_LINK, "daddr", "dport", places, opening=opening)]
    into += _any_address("daddr", "dport", ports, opening=opening)
    out = _rules(TO_LINK, "saddr", "sport", places, opening=opening)
    out += _any_address("saddr", "sport", ports, opening=opening)
    return ChainGroup((base(IN, "filter", "prerouting", RAW, into), base(OUT, "filter", "output", RAW, out)))


def _rules(
    link: Expression, address: str, port: str, places: Mapping[int, list[tuple[str, int]]], *, opening: bool
) -> list[NftRule]:
    first, what = ([OPENS], "openings, ") if opening else ([], "")
    end: Expression = {"notrack": None}
    rules = [meant([*first, link, end], f"{what}links")]
    for version, pairs in places.items():
        ip = syntax.ip(version)
        left = {"concat": [field(ip, address), field("tcp", port)]}
        right = syntax.either({"concat": [host, number]} for host, number in pairs)
        rules.append(meant([*first, match(left, right), end], f"{what}listeners {ip}"))
    return rules


def _any_address(address: str, port: str, ports: Mapping[int, list[int]], *, opening: bool) -> list[NftRule]:
    """Return the rules for what no rule before has met: listeners at whatever is the host's own, but loopback."""
    rules = []
    for version, numbers in ports.items():
        ip = syntax.ip(version)
        parts = [
            match({"ct": {"key": "state"}}, "untracked", "!="),
            match(field("tcp", port), syntax.either(numbers)),
            match(field(ip, address), syntax.prefix(_LOOPBACK[version]), "!="),
            match({"fib": {"result": "type", "flags": [address]}}, "local"),
            {"notrack": None},
        ]
        rules.append(meant([OPENS, *parts] if opening else parts, f"listeners {ip} anywhere"))
    return rules


def _everywhere(listeners: Iterable[ListenerKey]) -> dict[int, list[int]]:
    """Return the TCP ports of listeners on every address, by version of IP."""
    found: dict[int, set[int]] = {}
    for one in listeners:
        address = ip_address(one.address)
        if one.protocol is Protocol.TCP and address.is_unspecified:
            found.setdefault(address.version, set()).add(one.port)
    return {version: sorted(ports) for version, ports in sorted(found.items())}


def _by_version(listeners: Iterable[ListenerKey]) -> dict[int, list[tuple[str, int]]]:
    """Return address and port of the TCP listeners that the LAN may reach, sorted, by version of IP."""
    found: dict[int, set[tuple[str, int]]] = {}
    for one in listeners:
        address = ip_address(one.address)
        if one.protocol is Protocol.TCP and not (address.is_loopback or address.is_unspecified):
            found.setdefault(address.version, set()).add((str(address), one.port))
    return {version: sorted(places) for version, places in sorted(found.items())}
