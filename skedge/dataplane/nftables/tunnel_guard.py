"""Tunnel packets from other than the neighbour's address are dropped, by one chain of our nftables table.

The kernel hands a VXLAN packet to the device of its network identifier whoever sent it. One rule a link drops what
carries that link's identifier from elsewhere, and counts it; other tunnels on the same port are not touched. Each rule
is recognised by its comment, which is the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from skedge.core.objects import LinkDevice
from skedge.dataplane.nftables import syntax
from skedge.dataplane.nftables.chain_groups import adding, base, rules_in, shape
from skedge.dataplane.nftables.syntax import DROP, Expression, match
from skedge.dataplane.nftables.table import Item, NftTable

NAME, CHAIN, COUNTER = "tunnel guard", "tunnels", "wrong-tunnel-peer"
_VNI_OFFSET = 96  # bits: 8 bytes of UDP, 4 of flags; the identifier is the next 24 bits
_PLACE = base(CHAIN, "filter", "input", -10)


@dataclass(frozen=True, slots=True)
class TunnelPeer:
    """Who may send packets with this network identifier to this UDP port."""

    vni: int
    remote: str
    port: int

    @classmethod
    def of(cls, device: LinkDevice) -> TunnelPeer | None:
        """Return the peer of a device, None when its transport needs no guard (encrypted, or no tunnel)."""
        if not device.transport.facts.guarded:
            return None
        return cls(device.vni, str(ip_address(device.remote)), device.port)


def wanted(links: Mapping[str, LinkDevice]) -> Mapping[str, TunnelPeer]:
    """Return who may send to each device that needs a guard."""
    return {name: peer for name, device in links.items() if (peer := TunnelPeer.of(device)) is not None}


@dataclass(slots=True)
class _Found:
    """What the chain has: peer and handle by device, handles of rules that are not as we write them."""

    there: bool
    placed: bool
    rules: dict[str, tuple[TunnelPeer, int]] = field(default_factory=dict)
    strange: list[int] = field(default_factory=list)


class TunnelGuard:
    """Driver[str, TunnelPeer]: the rules of one host, one a VXLAN device."""

    def __init__(self, table: NftTable) -> None:
        self._table = table

    def read(self) -> Mapping[str, TunnelPeer]:
        """Return the guarded devices: none while the chain is at another hook, or any rule not as we write it.

        Raises:
            DataplaneError: nft is missing, or refused.
        """
        found = _find(self._table.items(NAME))
        return {device: peer for device, (peer, _) in found.rules.items()} if found.placed and not found.strange else {}

    def put(self, device: str, peer: TunnelPeer) -> None:
        """Guard a device, atomically in the place of its earlier rule; whatever is strange in the chain goes."""
        found = _find(self._table.fresh(NAME))
        before = found.rules.pop(device, None)
        base_chain = [syntax.add("counter", COUNTER), adding(_PLACE)]
        if not found.placed and found.there:
            others = [_add(other, known) for other, (known, _) in found.rules.items()]
            gone = [syntax.flush(CHAIN), syntax.delete("chain", CHAIN)]
            self._table.change(NAME, [*gone, *base_chain, *others, _add(device, peer)])
        elif before is None or before[0] != peer or found.strange:
            stale = [*found.strange, *([] if before is None else [before[1]])]
            deleted = [syntax.delete_rule(CHAIN, handle) for handle in stale]
            self._table.change(NAME, [*base_chain, *deleted, _add(device, peer)])

    def delete(self, device: str) -> None:
        """End the guarding of a device; one that is not guarded is success."""
        before = _find(self._table.fresh(NAME)).rules.get(device)
        if before is not None:
            self._table.change(NAME, [syntax.delete_rule(CHAIN, before[1])])

    def dropped(self) -> int:
        """Return how many tunnel packets of wrong senders were dropped since the table was made."""
        return self._table.packets(NAME).get(COUNTER, 0)


def _add(device: str, peer: TunnelPeer) -> dict[str, Any]:
    """Return the command for a device's rule. It sees its own family only; the other's socket knows no identifier."""
    sender = syntax.field("ip" if ip_address(peer.remote).version == 4 else "ip6", "saddr")
    expressions: list[Expression] = [
        match(syntax.field("udp", "dport"), peer.port),
        match({"payload": {"base": "th", "offset": _VNI_OFFSET, "len": 24}}, peer.vni),
        match(sender, peer.remote, "!="),
        {"counter": COUNTER},
        DROP,
    ]
    return syntax.rule(CHAIN, expressions, device)


def _find(items: Iterable[Item]) -> _Found:
    listed = list(items)
    chain = next((value for kind, value in listed if kind == "chain" and value["name"] == CHAIN), None)
    found = _Found(chain is not None, chain is not None and shape(chain) == _PLACE)
    for rule in rules_in(listed, CHAIN):
        device, peer = str(rule.get("comment", "")), _peer(rule["expr"])
        if peer is None or not device or device in found.rules:
            found.strange.append(int(rule["handle"]))
        else:
            found.rules[device] = peer, int(rule["handle"])
    return found


def _peer(expressions: Sequence[Mapping[str, Any]]) -> TunnelPeer | None:
    """Return the peer of a rule; None for one that is not as we write it."""
    matches = [part["match"] for part in expressions if "match" in part]
    if [one["op"] for one in matches] != ["==", "==", "!="] or DROP not in expressions or len(expressions) != 5:
        return None
    try:
        port, vni, remote = (one["right"] for one in matches)
        return TunnelPeer(int(vni), str(remote), int(port))
    except (TypeError, ValueError):
        return None
