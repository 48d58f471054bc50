"""Packets that connection tracking must leave alone, by two nftables chains in the table of the tunnel guard.

Where a host translates addresses (Docker does, firewalld may), the kernel takes the socket away again that a program of
ours has assigned to a SYN: to `nf_nat` a listening socket, which knows no client, looks like one that early demux found
for the wrong port. It only looks at packets that are tracked. So these are not: everything on link devices, and packets
of the LAN to and from listeners. Rules of the host that ask for a state do not fit them; pre-flight judges by that.
Tracked, as new, is what the host's rules are asked about (`accepted.py`): it never reaches a socket.

Written only where connections are tracked at all, as two more chains cost each packet of the host something.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path

from skedge.core.model import Protocol
from skedge.core.objects import ChainGroup, ListenerKey, NftRule
from skedge.dataplane.nftables import syntax
from skedge.dataplane.nftables.chain_groups import Owned, base
from skedge.dataplane.nftables.syntax import ACCEPT, ASKED, FROM_LINK, OPENS, TO_LINK, Expression, field, match, meant

NAME, IN, OUT = "notrack", "untracked-in", "untracked-out"
OWNED = Owned(NAME, (IN, OUT))
RAW = -300  # before connection tracking, which is at -200
TRACKED = Path("/proc/sys/net/netfilter/nf_conntrack_count")


def tracks(path: Path = TRACKED) -> bool:
    """Return whether this network namespace tracks any connection now."""
    try:
        return int(path.read_text()) > 0
    except (OSError, ValueError):
        return False


def wanted(
    found: Mapping[str, ChainGroup], listeners: Iterable[ListenerKey], *, opening: bool, tracked: bool
) -> Mapping[str, ChainGroup]:
    """Return the group as it should be, or none where nothing is ``tracked`` and it is not there.

    Once there it stays: what is not tracked is no sign that nothing else needs to be.
    """
    return {NAME: group(listeners, opening=opening)} if tracked or NAME in found else {}


def group(listeners: Iterable[ListenerKey], *, opening: bool = False) -> ChainGroup:
    """Return the chains for links and these listeners.

    ``opening``: only packets that open a connection are left alone, as another engine's open ones must be tracked on.
    """
    places = _by_version(listeners)
    into = [meant([ASKED, ACCEPT], "asked"), *_rules(FROM_LINK, "daddr", "dport", places, opening=opening)]
    out = _rules(TO_LINK, "saddr", "sport", places, opening=opening)
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


def _by_version(listeners: Iterable[ListenerKey]) -> dict[int, list[tuple[str, int]]]:
    """Return address and port of the TCP listeners that the LAN may reach, sorted, by version of IP."""
    found: dict[int, set[tuple[str, int]]] = {}
    for one in listeners:
        address = ip_address(one.address)
        if one.protocol is Protocol.TCP and not (address.is_loopback or address.is_unspecified):
            found.setdefault(address.version, set()).add((str(address), one.port))
    return {version: sorted(places) for version, places in sorted(found.items())}
