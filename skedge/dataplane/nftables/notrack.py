"""Packets that connection tracking must leave alone, by two nftables chains in the table of the tunnel guard.

Where a host translates addresses (Docker does, firewalld may), the kernel takes the socket away again that a program of
ours has assigned to a SYN: to `nf_nat` a listening socket, which knows no client, looks like one that early demux found
for the wrong port. It only looks at packets that are tracked. So these are not: everything on link devices, and packets
of the LAN to and from listeners. Rules of the host that ask for a state do not fit them; pre-flight judges by that.

Written only where connections are tracked at all, as two more chains cost each packet of the host something.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from skedge.core.model import Protocol
from skedge.core.names import PREFIX
from skedge.core.objects import ListenerKey
from skedge.dataplane.nftables import syntax
from skedge.dataplane.nftables.tunnel_guard import FAMILY, READ_EVERY_S, TABLE, run_nft

IN, OUT = "untracked-in", "untracked-out"
RAW = -300  # before connection tracking, which is at -200
TRACKED = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_PLACE = {"family": FAMILY, "table": TABLE}


def tracks(path: Path = TRACKED) -> bool:
    """Return whether this network namespace tracks any connection now."""
    try:
        return int(path.read_text()) > 0
    except (OSError, ValueError):
        return False


class Untracked:
    """The chains of one host. What the kernel has is read again every `READ_EVERY_S` seconds."""

    def __init__(
        self,
        run: Callable[[Mapping[str, Any] | None], Mapping[str, Any]] = run_nft,
        clock: Callable[[], float] = time.monotonic,
        tracks: Callable[[], bool] = tracks,
    ) -> None:
        self._run = run
        self._clock = clock
        self._tracks = tracks
        self._known: list[str] = []
        self._read_at = float("-inf")

    def ensure(self, listeners: Iterable[ListenerKey], *, opening: bool = False) -> bool:
        """Write the chains for links and these listeners, if they are needed and not there; return whether they were.

        Once there they stay: what is not tracked is no sign that nothing else needs to be. ``opening``: only packets
        that open a connection are left alone, as another engine's open ones must be tracked on.

        Raises:
            DataplaneError: nft is missing, or refused.
        """
        wanted = _rules(listeners, opening=opening)
        comments = sorted(f"{chain} {comment}" for chain, comment in wanted)
        known = self._read()
        if known == comments or not (known or self._tracks()):
            return False
        self._run({"nftables": _commands(wanted)})
        self._read_at = float("-inf")
        return True

    @staticmethod
    def commands(listeners: Iterable[ListenerKey], *, opening: bool) -> list[dict[str, Any]]:
        """Return the commands by which `ensure` writes the chains, to be carried out together with others."""
        return _commands(_rules(listeners, opening=opening))

    @staticmethod
    def removal() -> list[dict[str, Any]]:
        """Return the commands that take the chains away, whether or not they are there."""
        return [*_base(), *({"delete": {"chain": {**_PLACE, "name": name}}} for name in (IN, OUT))]

    def _read(self) -> list[str]:
        if self._clock() - self._read_at > READ_EVERY_S:
            items = self._run(None).get("nftables", [])
            rules = [item["rule"] for item in items if item.get("rule", {}).get("chain") in (IN, OUT)]
            self._known = sorted(f"{rule['chain']} {rule.get('comment')}" for rule in rules)
            self._read_at = self._clock()
        return self._known


def _commands(rules: Mapping[tuple[str, str], list[Any]]) -> list[dict[str, Any]]:
    return [*_base(), *(_add(*place, parts) for place, parts in rules.items())]


def _base() -> list[dict[str, Any]]:
    """Return the commands that make table and chains, and empty these."""
    commands: list[dict[str, Any]] = [{"add": {"table": {"family": FAMILY, "name": TABLE}}}]
    for name, hook in ((IN, "prerouting"), (OUT, "output")):
        chain = {**_PLACE, "name": name, "type": "filter", "hook": hook, "prio": RAW, "policy": "accept"}
        commands += [{"add": {"chain": chain}}, {"flush": {"chain": {**_PLACE, "name": name}}}]
    return commands


def _add(chain: str, comment: str, expressions: list[Any]) -> dict[str, Any]:
    return {"add": {"rule": {**_PLACE, "chain": chain, "comment": comment, "expr": [*expressions, {"notrack": None}]}}}


def _rules(listeners: Iterable[ListenerKey], *, opening: bool) -> dict[tuple[str, str], list[Any]]:
    """Return what each rule matches, by chain and comment; the comment says all that differs from site to site."""
    rules: dict[tuple[str, str], list[Any]] = {}
    by_version = _by_version(listeners)
    what, first = ("openings, ", [syntax.OPENS]) if opening else ("", [])
    for chain, device, address, port in ((IN, "iifname", "daddr", "dport"), (OUT, "oifname", "saddr", "sport")):
        rules[chain, f"{what}links"] = [*first, _match({"meta": {"key": device}}, f"{PREFIX}*")]
        for version, places in by_version.items():
            family = "ip" if version == 4 else "ip6"
            left = {"concat": [_field(family, address), _field("tcp", port)]}
            right = {"set": [{"concat": [host, number]} for host, number in places]}
            digest = hashlib.sha256(repr(places).encode()).hexdigest()[:12]
            rules[chain, f"{what}listeners {family} {digest}"] = [*first, _match(left, right)]
    return rules


def _by_version(listeners: Iterable[ListenerKey]) -> dict[int, list[tuple[str, int]]]:
    """Return address and port of the TCP listeners that the LAN may reach, sorted, by version of IP."""
    found: dict[int, set[tuple[str, int]]] = {}
    for one in listeners:
        address = ip_address(one.address)
        if one.protocol is Protocol.TCP and not address.is_loopback:
            found.setdefault(address.version, set()).add((str(address), one.port))
    return {version: sorted(places) for version, places in sorted(found.items())}


def _field(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


def _match(left: dict[str, Any], right: Any) -> dict[str, Any]:
    return {"match": {"op": "==", "left": left, "right": right}}
