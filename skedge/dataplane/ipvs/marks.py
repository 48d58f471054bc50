"""The nftables part of the engine `ipvs`: which connections get which mark, endpoints, and source addresses.

* A listener is one element of a map: address, protocol and port lead to a chain that marks the packet for a virtual
  service (several in turn, by a counter, for a listener with several services).
* An endpoint is one rule: its port is translated to the workload's address and port. IPVS would have to choose among
  one server, and refuses 127.0.0.1 for what comes from outside; this does neither. (Rules, not a map: nft 1.0.6 makes
  no map to address and port. A rule is looked at once a connection.)
* What leaves over a link from an address that is not of the overlay gets the site's own.

All is in our table; elements and chains are recognised by their names alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from skedge.core.model import Protocol
from skedge.core.objects import Endpoint, EndpointKey, ListenerKey, Target
from skedge.dataplane.ebpf.packet_check import FilterConfig
from skedge.dataplane.ipvs.procfs import MARK, MARK_MASK
from skedge.dataplane.nftables import syntax
from skedge.dataplane.nftables.default_deny import PUBLISHED
from skedge.dataplane.nftables.syntax import DPORT, FROM_LINK, L4PROTO, OPENS, TO_LINK, Expression, field, match
from skedge.dataplane.nftables.tunnel_guard import READ_EVERY_S, run_nft

LISTENERS = {4: "listeners4", 6: "listeners6"}
MARKING = {"listeners-in": "prerouting", "listeners-out": "output"}
DELIVERY, ENDPOINTS, SOURCES = "endpoints-in", "endpoints", "sources"
CHAINS = (*MARKING, DELIVERY, SOURCES)
TO = "to-"  # chains that mark, by a digest of the marks
_MARK_PRIORITY = -150  # behind conntrack, before IPVS
SOURCES_PRIORITY = 100
_SOURCE_PORTS = (1024, 60999)
_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
_NFPROTO = {"ip": "ipv4", "ip6": "ipv6"}
_NEW = match({"ct": {"key": "state"}}, "new", "in")


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks that new connections to a listener get in turn: one, or a schedule; the IPv6 mark is one higher."""

    turns: tuple[int, ...]

    @property
    def chain(self) -> str:
        """Return the name of the chain that sets them."""
        return TO + syntax.digest(self.turns)


@dataclass(frozen=True, slots=True)
class Held:
    """What the kernel has: chain by listener, target and rule by endpoint, chains that mark, base rules' digest."""

    listeners: Mapping[ListenerKey, str]
    endpoints: Mapping[EndpointKey, tuple[Target, int]]
    published: frozenset[tuple[int, EndpointKey]]
    chains: frozenset[str]
    base: str


class IpvsRules:
    """Reads and writes our rules; what the kernel has is read again every `READ_EVERY_S` seconds."""

    def __init__(
        self,
        run: Callable[[Mapping[str, Any] | None], Mapping[str, Any]] = run_nft,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._clock = run, clock
        self._known: Held | None = None
        self._read_at = float("-inf")

    def read(self) -> Held:
        """Return what the kernel has. Raises DataplaneError."""
        if self._known is None or self._clock() - self._read_at > READ_EVERY_S:
            self._known = _held(self._run(None))
            self._read_at = self._clock()
        return self._known

    def configure(self, config: FilterConfig, also: Sequence[Mapping[str, Any]] = ()) -> bool:
        """Write the chains that lead to the maps, with other commands in one step; return whether that was needed."""
        rules = _base_rules(config)
        wanted = syntax.digest(rules)
        if self.read().base == f"{wanted}*{len(rules)}":
            return False
        self._write(
            *_objects(),
            *(syntax.base_chain(chain, "filter", hook, _MARK_PRIORITY) for chain, hook in MARKING.items()),
            syntax.add("chain", ENDPOINTS),
            syntax.base_chain(DELIVERY, "nat", "prerouting", -100),
            syntax.base_chain(SOURCES, "nat", "postrouting", SOURCES_PRIORITY),
            *(syntax.flush(chain) for chain in CHAINS),
            *(syntax.rule(chain, expressions, wanted) for chain, expressions in rules),
            *also,
        )
        return True

    def put_listener(self, key: ListenerKey, marks: Marks) -> None:
        """Lead a listener's connections to these marks, in one change from those before."""
        held = self.read()
        before = held.listeners.get(key)
        gone = [syntax.element("delete", _listeners(key), [_listener(key, before)])] if before else []
        self._write(
            *_objects(),
            syntax.add("chain", marks.chain),
            syntax.flush(marks.chain),
            *(syntax.rule(marks.chain, expressions) for expressions in _marking(marks)),
            *gone,
            syntax.element("add", _listeners(key), [_listener(key, marks.chain)]),
            *_unused(held, {**held.listeners, key: marks.chain}),
        )

    def delete_listener(self, key: ListenerKey) -> None:
        """Take a listener away; one that is gone is success."""
        held = self.read()
        before = held.listeners.get(key)
        if before is not None:
            rest = {one: chain for one, chain in held.listeners.items() if one != key}
            self._write(syntax.element("delete", _listeners(key), [_listener(key, before)]), *_unused(held, rest))

    def put_endpoint(self, key: EndpointKey, endpoint: Endpoint) -> None:
        """Publish an endpoint, in one change from what it was."""
        target = Target(endpoint.host, endpoint.port)
        family = ip_address(endpoint.host).version
        self._write(
            *_objects(),
            syntax.add("chain", ENDPOINTS),
            *self._unpublish(key),
            syntax.rule(ENDPOINTS, _endpoint(key, target)),
            syntax.element("add", PUBLISHED[family], [_port(key)]),
        )

    def delete_endpoint(self, key: EndpointKey) -> None:
        """End an endpoint; one that is gone is success."""
        if commands := self._unpublish(key):
            self._write(*commands)

    def _unpublish(self, key: EndpointKey) -> list[dict[str, Any]]:
        held, commands = self.read(), []
        if (before := held.endpoints.get(key)) is not None:
            commands.append({"delete": {"rule": {**syntax.PLACE, "chain": ENDPOINTS, "handle": before[1]}}})
        commands += [
            syntax.element("delete", PUBLISHED[family], [_port(key)])
            for family, published in sorted(held.published, key=str)
            if published == key
        ]
        return commands

    def _write(self, *commands: Mapping[str, Any]) -> None:
        self._known = None
        self._run(syntax.script(*commands))


# ---- what is written ---------------------------------------------------------------------------------------------


def _objects() -> list[dict[str, Any]]:
    """Return the commands that make maps and sets (no change when they are there)."""
    port = ["inet_proto", "inet_service"]
    return [
        *(syntax.add("map", LISTENERS[family], type=[_TYPES[family], *port], map="verdict") for family in (4, 6)),
        *(syntax.add("set", PUBLISHED[family], type=port) for family in (4, 6)),
    ]


def _base_rules(config: FilterConfig) -> list[tuple[str, list[Expression]]]:
    """Return chain and expressions of every rule that is not a listener's."""
    made: list[tuple[str, list[Expression]]] = []
    for chain in MARKING:
        # A tunnel's packet carries the mark of the one inside it; by that IPVS would lead it on, and again, for ever.
        made.append((chain, [match({"&": [{"meta": {"key": "mark"}}, MARK_MASK]}, MARK), _mark(0)]))
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


def _marking(marks: Marks) -> list[list[Expression]]:
    """Return the rules of a listener's chain. A schedule moves on with each connection, not with each packet."""
    rules: list[list[Expression]] = []
    for offset, family in ((0, 4), (1, 6)):
        nfproto = match({"meta": {"key": "nfproto"}}, f"ipv{family}")
        turns = [mark + offset for mark in marks.turns]
        if len(turns) == 1:
            rules.append([nfproto, _mark(turns[0])])
        else:
            counter = {"numgen": {"mode": "inc", "mod": len(turns), "offset": 0}}
            chosen = {"map": {"key": counter, "data": {"set": [[turn, mark] for turn, mark in enumerate(turns)]}}}
            rules.append([nfproto, _NEW, _mark(chosen)])
    return rules


def _mark(value: Any) -> Expression:
    return {"mangle": {"key": {"meta": {"key": "mark"}}, "value": value}}


def _unused(held: Held, listeners: Mapping[ListenerKey, str]) -> list[dict[str, Any]]:
    """Return the commands that remove chains which no listener leads to any more."""
    return [
        {"delete": {"chain": {**syntax.PLACE, "name": chain}}}
        for chain in sorted(held.chains - set(listeners.values()))
    ]


def _listeners(key: ListenerKey) -> str:
    return LISTENERS[ip_address(key.address).version]


def _listener(key: ListenerKey, chain: str) -> list[Any]:
    return [{"concat": [key.address, key.protocol.value, key.port]}, {"goto": {"target": chain}}]


def _port(key: EndpointKey) -> dict[str, Any]:
    return {"concat": [key.protocol.value, key.port]}


def _endpoint(key: EndpointKey, target: Target) -> list[Expression]:
    ip = syntax.ip(ip_address(target.address).version)
    to = {"dnat": {"family": ip, "addr": target.address, "port": target.port}}
    return [match({"meta": {"key": "nfproto"}}, _NFPROTO[ip]), match(field(key.protocol.value, "dport"), key.port), to]


# ---- what is read ------------------------------------------------------------------------------------------------


def _held(listing: Mapping[str, Any]) -> Held:
    items: Sequence[Mapping[str, Any]] = listing.get("nftables", [])
    listeners: dict[ListenerKey, str] = {}
    endpoints: dict[EndpointKey, tuple[Target, int]] = {}
    published: set[tuple[int, EndpointKey]] = set()
    chains, base = set(), []
    for item in items:
        name = next(iter(item.values())).get("name", "")
        if "map" in item and name in LISTENERS.values():
            for element, verdict in item["map"].get("elem", []):
                address, protocol, port = element["concat"]
                listeners[ListenerKey(str(address), int(port), Protocol(protocol))] = verdict["goto"]["target"]
        elif "set" in item and name in PUBLISHED.values():
            family = next(family for family, one in PUBLISHED.items() if one == name)
            published |= {(family, _endpoint_key(element)) for element in item["set"].get("elem", [])}
        elif "chain" in item and name.startswith(TO):
            chains.add(name)
        elif "rule" in item and item["rule"]["chain"] == ENDPOINTS:
            key, target = _endpoint_of(item["rule"]["expr"])
            endpoints[key] = (target, int(item["rule"]["handle"]))
        elif "rule" in item and item["rule"]["chain"] in CHAINS:
            base.append(str(item["rule"].get("comment")))
    digest = f"{base[0]}*{len(base)}" if len(set(base)) == 1 else ""
    return Held(listeners, endpoints, frozenset(published), frozenset(chains), digest)


def _endpoint_of(expressions: Sequence[Mapping[str, Any]]) -> tuple[EndpointKey, Target]:
    port = next(part["match"] for part in expressions if "payload" in part.get("match", {}).get("left", {}))
    to = next(part["dnat"] for part in expressions if "dnat" in part)
    protocol = Protocol(port["left"]["payload"]["protocol"])
    return EndpointKey(int(port["right"]), protocol), Target(str(to["addr"]), int(to["port"]))


def _endpoint_key(element: Mapping[str, Any]) -> EndpointKey:
    protocol, port = element["concat"]
    return EndpointKey(int(port), Protocol(protocol))
