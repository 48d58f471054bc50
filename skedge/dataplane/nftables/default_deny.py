"""Default deny on link devices by nftables, where no eBPF programs can do it: the same list as `bpf/link/ingress.c`.

From a link come in: new connections to published endpoints, packets of connections that exist, ICMP errors about them,
control and probe traffic of the neighbour itself, transit between sites. The rest is dropped and counted by reason.
The chain holds for every device with our prefix, also before its neighbour is known.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from skedge.core.objects import ChainGroup, LinkDevice, NftChain, NftSet
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.packet_check import PacketCheckConfig, link_mac
from skedge.dataplane.nftables import syntax
from skedge.dataplane.nftables.chain_groups import Owned, base, rules_in
from skedge.dataplane.nftables.syntax import ACCEPT, DROP, FROM_LINK, Expression, field, match, meant, named_set
from skedge.dataplane.nftables.table import Item, NftTable

NAME = "default-deny"
CHAINS = NEIGHBOURS_CHAIN, CHAIN = "from-neighbour", "overlay-in"
ENDS = NEIGHBOURS, SENDERS = "neighbours", "senders"
PUBLISHED = {4: "published4", 6: "published6"}
PRIORITY = -140  # behind conntrack, before the translation of endpoints
COUNTER = "denied-"
_DENIED = (
    Reason.NOT_PUBLISHED,
    Reason.NO_SOCKET,
    Reason.NOT_OVERLAY,
    Reason.NOT_NEIGHBOUR,
    Reason.WRONG_TUNNEL_PEER,
)
COUNTERS = tuple(COUNTER + reason.word for reason in _DENIED)
OWNED = Owned(NAME, CHAINS, (*ENDS, *PUBLISHED.values()), COUNTERS)
_ERRORS = ["destination-unreachable", "packet-too-big", "time-exceeded", "parameter-problem"]
_NOISE = ["mld-listener-query", "mld-listener-report", "mld2-listener-report", "nd-router-solicit"]
_IFNAME: Expression = {"meta": {"key": "iifname"}}
_ETHER: Expression = match({"meta": {"key": "iiftype"}}, "ether")
_FLAGS: Expression = {"&": [field("tcp", "flags"), ["syn", "ack"]]}


class DefaultDeny:
    """Who is at the far end of each device (`links.Check`), and what was refused."""

    def __init__(self, table: NftTable, name_of: Callable[[int], str] = socket.if_indextoname) -> None:
        self._table, self._name_of = table, name_of
        self._names: dict[int, str] = {}

    def drops(self) -> Mapping[Reason, int]:
        """Return how many packets were refused, by reason, since the counters were made."""
        packets = self._table.packets(NAME)
        return {reason: number for reason in Reason if (number := packets.get(COUNTER + reason.word, 0))}

    def protect(self, index: int, device: LinkDevice) -> None:
        """Tell who is at the far end of a device."""
        name = self._names[index] = self._name_of(index)
        items = self._table.fresh(NAME)
        stale = {set_: _of_device(items, set_, name) for set_ in ENDS}
        gone = [syntax.element("delete", set_, elements) for set_, elements in stale.items() if elements]
        told = [syntax.element("add", set_, [element]) for set_, element in _ends(name, device).items()]
        self._table.change(NAME, [*(syntax.add_set(one) for one in _sets({})), *gone, *told])

    def protected(self, index: int, device: LinkDevice) -> bool:
        """Return whether the kernel knows who is at the far end, and the chain is there."""
        try:
            name = self._names[index] = self._name_of(index)
        except OSError:
            return False
        items = self._table.items(NAME)
        chained = bool(rules_in(items, CHAIN))
        return chained and all(_of_device(items, set_, name) == [end] for set_, end in _ends(name, device).items())

    def forget(self, index: int) -> None:
        """Take a device's far end out: it then lets nothing link-local in."""
        name = self._names.pop(index, "")
        items = self._table.fresh(NAME) if name else []
        found = {set_: _of_device(items, set_, name) for set_ in ENDS}
        self._table.change(
            NAME, [syntax.element("delete", set_, elements) for set_, elements in found.items() if elements]
        )

    def glance(self, indexes: Iterable[int]) -> Hashable:  # noqa: ARG002  (one shape for both engines)
        """Return nothing: the kernel announces every change of a table."""
        return None


def group(config: PacketCheckConfig, devices: Mapping[str, LinkDevice] | None = None) -> ChainGroup:
    """Return the chains, sets and counters as they should be.

    ``devices``: links that may be up already. Who is at their far ends is told in the same step, or they would be cut
    off until `DefaultDeny.protect` tells it.
    """
    rules = {chain: [meant(parts) for of, parts in _rules(config) if of == chain] for chain in CHAINS}
    return ChainGroup(
        (
            NftChain(NEIGHBOURS_CHAIN, tuple(rules[NEIGHBOURS_CHAIN])),
            base(CHAIN, "filter", "prerouting", PRIORITY, rules[CHAIN]),
        ),
        _sets(devices or {}),
        COUNTERS,
    )


def _sets(devices: Mapping[str, LinkDevice]) -> tuple[NftSet, ...]:
    """Return what rules refer to, with the far ends of these devices."""
    ends = [_ends(name, device) for name, device in devices.items()]
    return (
        named_set(NEIGHBOURS, "ifname", "ipv6_addr", elements=[one[NEIGHBOURS] for one in ends]),
        named_set(SENDERS, "ifname", "ether_addr", elements=[one[SENDERS] for one in ends]),
        *(named_set(name, "inet_proto", "inet_service") for name in PUBLISHED.values()),
    )


def _of_device(items: Iterable[Item], set_: str, name: str) -> list[Any]:
    """Return the elements of a set that are of a device."""
    elements = [value.get("elem", []) for kind, value in items if kind == "set" and value["name"] == set_]
    return [element for found in elements for element in found if element["concat"][0] == name]


def _ends(name: str, device: LinkDevice) -> Mapping[str, Any]:
    """Return the elements that say who may send over a device."""
    mac = link_mac(device, device.peer_link_local).hex(":")
    return {NEIGHBOURS: {"concat": [name, device.peer_link_local]}, SENDERS: {"concat": [name, mac]}}


def _deny(reason: Reason) -> list[Expression]:
    return [{"counter": COUNTER + reason.word}, DROP]


def _rules(config: PacketCheckConfig) -> list[tuple[str, list[Expression]]]:
    """Return chain and expressions of every rule, in order."""
    made: list[tuple[str, list[Expression]]] = [
        (CHAIN, [match(_IFNAME, FROM_LINK["match"]["right"], "!="), ACCEPT]),
        (CHAIN, [_ETHER, match({"concat": [_IFNAME, field("ether", "saddr")]}, f"@{SENDERS}", "!="),
                 *_deny(Reason.WRONG_TUNNEL_PEER)]),
    ]  # fmt: skip
    local = (
        [match(field("ip6", "saddr"), syntax.prefix("fe80::/10"))],
        [match(field("ip6", "daddr"), syntax.either([syntax.prefix("fe80::/10"), syntax.prefix("ff00::/8")]))],
    )
    made += [(CHAIN, [*expressions, {"goto": {"target": NEIGHBOURS_CHAIN}}]) for expressions in local]
    for family, overlay, own in ((4, config.network4, config.overlay4), (6, config.network6, config.overlay6)):
        ip = syntax.ip(family)
        for expression in (
            match(field(ip, "saddr"), syntax.prefix(overlay), "!="),
            match(field(ip, "daddr"), syntax.prefix(overlay), "!="),
            match(field(ip, "saddr"), own),
        ):
            made.append((CHAIN, [expression, *_deny(Reason.NOT_OVERLAY)]))
        made.append((CHAIN, [match(field(ip, "daddr"), own, "!="), ACCEPT]))
        published = match({"concat": [syntax.L4PROTO, syntax.DPORT]}, f"@{PUBLISHED[family]}")
        made.append((CHAIN, [match({"meta": {"key": "nfproto"}}, f"ipv{family}"), published, ACCEPT]))
    return [*made, *((CHAIN, rule) for rule in _own_rules(config)), *_neighbour_rules(config)]


def _own_rules(config: PacketCheckConfig) -> list[list[Expression]]:
    """Return what may come to this site's own overlay addresses beside published endpoints.

    A TCP packet from an endpoint that opens nothing is let in without a look where a socket of ours may have the port:
    the kernel answers a stray one with a reset, and connections that were there before this chain go on. To any other
    port it would tell which are open.
    """
    ports, not_open = {"range": list(config.endpoint_ports)}, match(_FLAGS, "syn", "!=")
    return [
        [match({"ct": {"key": "state"}}, syntax.either(["established", "related"]), "=="), ACCEPT],
        *([match(field("tcp", "sport"), ports), not_open, to, ACCEPT] for to in _to_ephemeral(config)),
        [match(field("udp", "dport"), config.load_port), ACCEPT],
        [match(field("tcp", "flags"), "syn", "in"), *_deny(Reason.NOT_PUBLISHED)],
        [match(syntax.L4PROTO, "tcp"), *_deny(Reason.NO_SOCKET)],
        _deny(Reason.NOT_PUBLISHED),
    ]


def _to_ephemeral(config: PacketCheckConfig) -> list[Expression]:
    """Return the match of ports that the kernel may have given to a socket of this host; none where there are none."""
    ranges = [{"range": list(one)} if one[0] != one[1] else one[0] for one in config.ephemeral]
    return [match(field("tcp", "dport"), syntax.either(ranges) if len(ranges) > 1 else ranges[0])] if ranges else []


def _neighbour_rules(config: PacketCheckConfig) -> list[tuple[str, list[Expression]]]:
    """Return what the neighbour may send to a link-local address.

    Of its ICMP errors only those about what was sent from there: tracking takes no error for related to a conversation
    of another address than the one that the error itself is sent to.
    """
    not_open = match(_FLAGS, "syn", "!=")
    kind, port = field("icmpv6", "type"), config.control_port
    discovery = match(kind, syntax.either(["nd-neighbor-solicit", "nd-neighbor-advert"]))
    probes = match(kind, syntax.either(["echo-request", "echo-reply"]))
    about_ours = [match(kind, syntax.either(_ERRORS)), match({"ct": {"key": "state"}}, "related", "in")]
    to_us = match(field("ip6", "daddr"), syntax.prefix("fe80::/10"))
    rules: list[list[Expression]] = [
        [match(kind, syntax.either(_NOISE)), DROP],
        [match({"concat": [_IFNAME, field("ip6", "saddr")]}, f"@{NEIGHBOURS}", "!="), *_deny(Reason.NOT_NEIGHBOUR)],
        [discovery, match(field("ip6", "hoplimit"), 255), ACCEPT],
        [to_us, probes, ACCEPT],
        [to_us, *about_ours, ACCEPT],
        [to_us, match(field("tcp", "dport"), port), ACCEPT],
        [to_us, match({"ct": {"key": "state"}}, "established", "in"), match(field("tcp", "sport"), port), ACCEPT],
        *([to_us, match(field("tcp", "sport"), port), not_open, to, ACCEPT] for to in _to_ephemeral(config)),
        _deny(Reason.NOT_NEIGHBOUR),
    ]
    return [(NEIGHBOURS_CHAIN, rule) for rule in rules]
