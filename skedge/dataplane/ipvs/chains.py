"""The chains of the engine `ipvs` that lead to listeners, endpoints and source addresses, as one group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skedge.core.objects import ChainGroup, NftChain, NftRule
from skedge.dataplane.ebpf.packet_check import PacketCheckConfig
from skedge.dataplane.ipvs.procfs import MARK, MARK_MASK
from skedge.dataplane.nftables import syntax
from skedge.dataplane.nftables.chain_groups import Owned, base
from skedge.dataplane.nftables.syntax import (
    DPORT,
    FROM_LINK,
    L4PROTO,
    OPENS,
    TO_LINK,
    Expression,
    field,
    match,
    meant,
    named_set,
)

NAME = "marks"
LISTENERS = {4: "listeners4", 6: "listeners6"}
MARKING = {"listeners-in": "prerouting", "listeners-out": "output"}
DELIVERY, ENDPOINTS, SOURCES = "endpoints-in", "endpoints", "sources"
CHAINS = (*MARKING, ENDPOINTS, DELIVERY, SOURCES)
OWNED = Owned(NAME, CHAINS, tuple(LISTENERS.values()), filled=(ENDPOINTS,))
_MARK_PRIORITY = -150  # behind conntrack, before IPVS
SOURCES_PRIORITY = 100
_SOURCE_PORTS = (1024, 60999)
_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
PORT = ("inet_proto", "inet_service")
MAPS = tuple(named_set(LISTENERS[family], _TYPES[family], *PORT, verdicts=True) for family in (4, 6))


def group(config: PacketCheckConfig) -> ChainGroup:
    """Return the chains that lead to listeners and endpoints, and the maps, as they should be."""
    rules: dict[str, list[NftRule]] = {}
    for chain, parts in _base_rules(config):
        rules.setdefault(chain, []).append(meant(parts))
    return ChainGroup(
        (
            *(base(chain, "filter", hook, _MARK_PRIORITY, rules[chain]) for chain, hook in MARKING.items()),
            NftChain(ENDPOINTS),
            base(DELIVERY, "nat", "prerouting", -100, rules[DELIVERY]),
            base(SOURCES, "nat", "postrouting", SOURCES_PRIORITY, rules[SOURCES]),
        ),
        MAPS,
    )


def wanted(config: PacketCheckConfig, found: Mapping[str, ChainGroup], *, serving: bool) -> Mapping[str, ChainGroup]:
    """Return the group as it should be; as it was found while another engine serves.

    Until then no packet is marked or translated: the kernel would take sockets away from connections that the other
    engine's programs deliver (see `notrack`).
    """
    return {NAME: group(config)} if serving else {name: one for name, one in found.items() if name == NAME}


def _base_rules(config: PacketCheckConfig) -> list[tuple[str, list[Expression]]]:
    """Return chain and expressions of every rule that is not a listener's."""
    made: list[tuple[str, list[Expression]]] = []
    for chain in MARKING:
        # A tunnel's packet carries the mark of the one inside it; by that IPVS would lead it on, and again, for ever.
        made.append((chain, [match({"&": [{"meta": {"key": "mark"}}, MARK_MASK]}, MARK), set_mark(0)]))
        for family in (4, 6):
            key = {"concat": [field(syntax.ip(family), "daddr"), L4PROTO, DPORT]}
            made.append((chain, [{"vmap": {"key": key, "data": f"@{LISTENERS[family]}"}}]))
    for family, overlay, own in ((4, config.network4, config.overlay4), (6, config.network6, config.overlay6)):
        ip = syntax.ip(family)
        here = [FROM_LINK, match(field(ip, "daddr"), own)]
        for opens in ([OPENS], [match(L4PROTO, "udp")]):
            made.append((DELIVERY, [*here, *opens, {"jump": {"target": ENDPOINTS}}]))
        net = syntax.prefix(overlay)  # what is from another site is transit, and stays as it is
        away = [TO_LINK, match(field(ip, "daddr"), net), match(field(ip, "saddr"), net, "!=")]
        source = {"snat": {"family": ip, "addr": own, "port": {"range": list(_SOURCE_PORTS)}}}
        size = {"mangle": {"key": {"tcp option": {"name": "maxseg", "field": "size"}}, "value": {"rt": {"key": "mtu"}}}}
        made.append((SOURCES, [*away, OPENS, size]))
        made.append((SOURCES, [*away, match(L4PROTO, syntax.either(["tcp", "udp"])), source]))
    return made


def set_mark(value: Any) -> Expression:
    """Return the change of a packet's mark."""
    return {"mangle": {"key": {"meta": {"key": "mark"}}, "value": value}}
