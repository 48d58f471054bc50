"""Default deny on link devices by nftables, where no eBPF programs can do it: the same list as `bpf/link/ingress.c`.

From a link come in: new connections to published endpoints, packets of connections that exist, ICMP errors about them,
control and probe traffic of the neighbour itself, transit between sites. The rest is dropped and counted by reason.
The chain holds for every device with our prefix, also before its neighbour is known.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from skedge.core.objects import LinkDevice
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.packet_check import FilterConfig, link_mac
from skedge.dataplane.nftables import syntax
from skedge.dataplane.nftables.syntax import ACCEPT, DROP, FROM_LINK, Expression, field, match
from skedge.dataplane.nftables.tunnel_guard import READ_EVERY_S, run_nft

CHAIN, NEIGHBOURS_CHAIN = "overlay-in", "from-neighbour"
NEIGHBOURS, SENDERS = "neighbours", "senders"
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
_ERRORS = ["destination-unreachable", "packet-too-big", "time-exceeded", "parameter-problem"]
_NOISE = ["mld-listener-query", "mld-listener-report", "mld2-listener-report", "nd-router-solicit"]
_IFNAME: Expression = {"meta": {"key": "iifname"}}
_ETHER: Expression = match({"meta": {"key": "iiftype"}}, "ether")
_FLAGS: Expression = {"&": [field("tcp", "flags"), ["syn", "ack"]]}


class OverlayGuard:
    """The check of one host (`links.Check`). What the kernel has is read again every `READ_EVERY_S` seconds."""

    def __init__(
        self,
        run: Callable[[Mapping[str, Any] | None], Mapping[str, Any]] = run_nft,
        clock: Callable[[], float] = time.monotonic,
        name_of: Callable[[int], str] = socket.if_indextoname,
    ) -> None:
        self._run, self._clock, self._name_of = run, clock, name_of
        self._names: dict[int, str] = {}
        self._known: Mapping[str, Any] = {}
        self._read_at = float("-inf")

    # ---- the chain ----

    def configure(self, config: FilterConfig, devices: Mapping[str, LinkDevice] | None = None) -> bool:
        """Write the chains, unless they are there as they should be; return whether that changed anything.

        ``devices``: links that may be up already. Who is at their far ends is told in the same step, or they would be
        cut off until `protect` tells it.
        """
        rules = _rules(config)
        mark = syntax.digest(rules)
        found = [item["rule"] for item in self._listing() if "rule" in item]
        there = [rule for rule in found if rule["chain"] in (CHAIN, NEIGHBOURS_CHAIN)]
        if len(there) == len(rules) and all(rule.get("comment") == mark for rule in there):
            return False
        self._write(
            *_objects(),
            syntax.add("chain", NEIGHBOURS_CHAIN),
            syntax.base_chain(CHAIN, "filter", "prerouting", PRIORITY),
            syntax.flush(CHAIN),
            syntax.flush(NEIGHBOURS_CHAIN),
            *(syntax.rule(chain, expressions, mark) for chain, expressions in rules),
            *(
                syntax.element("add", set_, [element])
                for name, device in (devices or {}).items()
                for set_, element in _ends(name, device).items()
            ),
        )
        return True

    def drops(self) -> Mapping[Reason, int]:
        """Return how many packets were refused, by reason, since the counters were made."""
        packets = {
            str(item["counter"]["name"]): int(item["counter"]["packets"])
            for item in self._run(None).get("nftables", [])
            if "counter" in item
        }
        return {reason: number for reason in Reason if (number := packets.get(COUNTER + reason.word, 0))}

    # ---- devices ----

    def protect(self, index: int, device: LinkDevice) -> None:
        """Tell who is at the far end of a device."""
        name = self._names[index] = self._name_of(index)
        stale = {set_: self._of_device(set_, name) for set_ in (NEIGHBOURS, SENDERS)}
        gone = [syntax.element("delete", set_, elements) for set_, elements in stale.items() if elements]
        wanted = [syntax.element("add", set_, [element]) for set_, element in _ends(name, device).items()]
        self._write(*_objects(), *gone, *wanted)

    def protected(self, index: int, device: LinkDevice) -> bool:
        """Return whether the kernel knows who is at the far end, and the chain is there."""
        try:
            name = self._names[index] = self._name_of(index)
        except OSError:
            return False
        chained = any(item.get("rule", {}).get("chain") == CHAIN for item in self._listing())
        return chained and all(self._of_device(set_, name) == [end] for set_, end in _ends(name, device).items())

    def forget(self, index: int) -> None:
        """Take a device's far end out: it then lets nothing link-local in."""
        name = self._names.pop(index, "")
        found = {set_: self._of_device(set_, name) for set_ in (NEIGHBOURS, SENDERS)} if name else {}
        gone = [syntax.element("delete", set_, elements) for set_, elements in found.items() if elements]
        if gone:
            self._write(*gone)

    def _of_device(self, set_: str, name: str) -> list[Any]:
        for item in self._listing():
            if item.get("set", {}).get("name") == set_:
                return [element for element in item["set"].get("elem", []) if element["concat"][0] == name]
        return []

    def _listing(self) -> Sequence[Mapping[str, Any]]:
        if self._clock() - self._read_at > READ_EVERY_S:
            self._known = self._run(None)
            self._read_at = self._clock()
        found: Sequence[Mapping[str, Any]] = self._known.get("nftables", [])
        return found

    def _write(self, *commands: Mapping[str, Any]) -> None:
        self._read_at = float("-inf")
        self._run(syntax.script(*commands))


def _ends(name: str, device: LinkDevice) -> Mapping[str, Any]:
    """Return the elements that say who may send over a device."""
    mac = link_mac(device, device.peer_link_local).hex(":")
    return {NEIGHBOURS: {"concat": [name, device.peer_link_local]}, SENDERS: {"concat": [name, mac]}}


def _objects() -> list[dict[str, Any]]:
    """Return the commands that make what rules refer to."""
    return [
        syntax.add("set", NEIGHBOURS, type=["ifname", "ipv6_addr"]),
        syntax.add("set", SENDERS, type=["ifname", "ether_addr"]),
        *(syntax.add("set", name, type=["inet_proto", "inet_service"]) for name in PUBLISHED.values()),
        *(syntax.add("counter", COUNTER + reason.word) for reason in _DENIED),
    ]


def _deny(reason: Reason) -> list[Expression]:
    return [{"counter": COUNTER + reason.word}, DROP]


def _rules(config: FilterConfig) -> list[tuple[str, list[Expression]]]:
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


def _own_rules(config: FilterConfig) -> list[list[Expression]]:
    """Return what may come to this site's own overlay addresses beside published endpoints.

    A TCP packet from an endpoint that opens nothing is let in without a look: the kernel answers a stray one with a
    reset, and connections that were there before this chain go on.
    """
    ports = {"range": list(config.endpoint_ports)}
    return [
        [match({"ct": {"key": "state"}}, syntax.either(["established", "related"]), "=="), ACCEPT],
        [match(field("tcp", "sport"), ports), match(_FLAGS, "syn", "!="), ACCEPT],
        [match(field("udp", "dport"), config.load_port), ACCEPT],
        [match(field("tcp", "flags"), "syn", "in"), *_deny(Reason.NOT_PUBLISHED)],
        [match(syntax.L4PROTO, "tcp"), *_deny(Reason.NO_SOCKET)],
        _deny(Reason.NOT_PUBLISHED),
    ]


def _neighbour_rules(config: FilterConfig) -> list[tuple[str, list[Expression]]]:
    """Return what the neighbour may send to a link-local address."""
    kind, port = field("icmpv6", "type"), config.control_port
    discovery = match(kind, syntax.either(["nd-neighbor-solicit", "nd-neighbor-advert"]))
    probes = match(kind, syntax.either(["echo-request", "echo-reply", *_ERRORS]))
    to_us = match(field("ip6", "daddr"), syntax.prefix("fe80::/10"))
    rules: list[list[Expression]] = [
        [match(kind, syntax.either(_NOISE)), DROP],
        [match({"concat": [_IFNAME, field("ip6", "saddr")]}, f"@{NEIGHBOURS}", "!="), *_deny(Reason.NOT_NEIGHBOUR)],
        [discovery, match(field("ip6", "hoplimit"), 255), ACCEPT],
        [to_us, probes, ACCEPT],
        [to_us, match(field("tcp", "dport"), port), ACCEPT],
        [to_us, match(field("tcp", "sport"), port), match(_FLAGS, "syn", "!="), ACCEPT],
        _deny(Reason.NOT_NEIGHBOUR),
    ]
    return [(NEIGHBOURS_CHAIN, rule) for rule in rules]
