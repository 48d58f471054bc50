"""Listeners and endpoints of the engine `ipvs` in nftables; `chains` has the rules that lead to them.

* A listener is one element of a map: address, protocol and port lead to a chain that marks the packet for a virtual
  service (several in turn, by a counter, for a listener with several services).
* An endpoint is one rule: its port is translated to the workload's address and port. IPVS would have to choose among
  one server, and refuses 127.0.0.1 for what comes from outside; this does neither. (Rules, not a map: nft 1.0.6 makes
  no map to address and port. A rule is looked at once a connection.)

All is in our table; elements are recognised by their keys, chains that mark by their names, which have a digest of
their rules.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from skedge.core.model import Protocol
from skedge.core.objects import Endpoint, EndpointKey, ListenerKey, NftRule, Target
from skedge.dataplane.ipvs.chains import ENDPOINTS, LISTENERS, MAPS, NAME, PORT, set_mark
from skedge.dataplane.nftables import syntax
from skedge.dataplane.nftables.chain_groups import rules_in
from skedge.dataplane.nftables.default_deny import PUBLISHED
from skedge.dataplane.nftables.syntax import Expression, field, match, meant, named_set
from skedge.dataplane.nftables.table import Item, NftTable

TO = "to-"  # chains that mark, by a digest of their rules
_NFPROTO = {"ip": "ipv4", "ip6": "ipv6"}
_NEW = match({"ct": {"key": "state"}}, "new", "in")


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks that new connections to a listener get in turn: one, or a schedule; the IPv6 mark is one higher."""

    turns: tuple[int, ...]

    @property
    def chain(self) -> str:
        """Return the name of the chain that sets them."""
        return _chain_of(self.turns)


@dataclass(frozen=True, slots=True)
class Held:
    """What the kernel has: chain by listener, target and rule by endpoint, ports let in, chains that mark.

    ``whole`` are the chains that mark as they were written, ``strange`` the rules among endpoints that are not ours.
    """

    listeners: Mapping[ListenerKey, str]
    endpoints: Mapping[EndpointKey, tuple[Target, int]]
    published: frozenset[tuple[int, EndpointKey]]
    chains: frozenset[str]
    whole: frozenset[str]
    strange: tuple[int, ...]


class IpvsRules:
    """Reads and writes listeners and endpoints."""

    def __init__(self, table: NftTable | None = None) -> None:
        self._table = table or NftTable()

    def read(self) -> Held:
        """Return what the kernel has. Raises DataplaneError."""
        return _held(self._table.items(NAME))

    def _fresh(self) -> Held:
        return _held(self._table.fresh(NAME))

    def put_listeners(self, wanted: Mapping[ListenerKey, Marks]) -> None:
        """Lead listeners' connections to these marks, in one change from those before."""
        held = self._fresh()
        before = {key: held.listeners[key] for key in wanted if key in held.listeners}
        leads = {key: marks.chain for key, marks in wanted.items()}
        chains: list[dict[str, Any]] = []
        for marks in dict.fromkeys(wanted.values()):
            chains += [syntax.add("chain", marks.chain), syntax.flush(marks.chain)]
            chains += [syntax.rule(marks.chain, parts, rule.comment) for parts, rule in _with_comments(marks.turns)]
        self._write(
            *_objects(),
            *chains,
            *_elements("delete", before),
            *_elements("add", leads),
            *_unused(held, {**held.listeners, **leads}),
        )

    def delete_listeners(self, keys: Collection[ListenerKey]) -> None:
        """Take listeners away in one change; those that are gone are success."""
        held = self._fresh()
        before = {key: held.listeners[key] for key in keys if key in held.listeners}
        if before:
            rest = {one: chain for one, chain in held.listeners.items() if one not in before}
            self._write(*_elements("delete", before), *_unused(held, rest))

    def put_endpoint(self, key: EndpointKey, endpoint: Endpoint) -> None:
        """Publish an endpoint, in one change from what it was; rules among endpoints that are not ours go."""
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
        held = self._fresh()
        before = held.endpoints.get(key)
        handles = [*held.strange, *([] if before is None else [before[1]])]
        return [
            *(syntax.delete_rule(ENDPOINTS, handle) for handle in handles),
            *(
                syntax.element("delete", PUBLISHED[family], [_port(key)])
                for family, published in sorted(held.published, key=str)
                if published == key
            ),
        ]

    def _write(self, *commands: Mapping[str, Any]) -> None:
        self._table.change(NAME, commands)


@lru_cache(maxsize=4096)
def _chain_of(turns: tuple[int, ...]) -> str:
    return TO + syntax.digest([rule.comment for _, rule in _with_comments(turns)])


# ---- what is written ---------------------------------------------------------------------------------------------


def _objects() -> list[dict[str, Any]]:
    """Return the commands that make maps and sets (no change when they are there)."""
    return [syntax.add_set(one) for one in (*MAPS, *(named_set(name, *PORT) for name in PUBLISHED.values()))]


def _with_comments(turns: Sequence[int]) -> list[tuple[list[Expression], NftRule]]:
    return [(parts, meant(parts)) for parts in _marking(turns)]


def _marking(marks: Sequence[int]) -> list[list[Expression]]:
    """Return the rules of a listener's chain. A schedule moves on with each connection, not with each packet."""
    rules: list[list[Expression]] = []
    for offset, family in ((0, 4), (1, 6)):
        nfproto = match({"meta": {"key": "nfproto"}}, f"ipv{family}")
        turns = [mark + offset for mark in marks]
        if len(turns) == 1:
            rules.append([nfproto, set_mark(turns[0])])
        else:
            counter = {"numgen": {"mode": "inc", "mod": len(turns), "offset": 0}}
            chosen = {"map": {"key": counter, "data": {"set": [[turn, mark] for turn, mark in enumerate(turns)]}}}
            rules.append([nfproto, _NEW, set_mark(chosen)])
    return rules


def _unused(held: Held, listeners: Mapping[ListenerKey, str]) -> list[dict[str, Any]]:
    """Return the commands that remove chains which no listener leads to any more."""
    return [syntax.delete("chain", chain) for chain in sorted(held.chains - set(listeners.values()))]


def _listeners(key: ListenerKey) -> str:
    return LISTENERS[ip_address(key.address).version]


def _listener(key: ListenerKey, chain: str) -> list[Any]:
    return [{"concat": [key.address, key.protocol.value, key.port]}, {"goto": {"target": chain}}]


def _elements(verb: str, leads: Mapping[ListenerKey, str]) -> list[dict[str, Any]]:
    """Return the commands that add or delete elements of the maps, some thousands in each."""
    by_map: dict[str, list[Any]] = {}
    for key, chain in leads.items():
        by_map.setdefault(_listeners(key), []).append(_listener(key, chain))
    return [syntax.element(verb, name, list(some)) for name, all_ in by_map.items() for some in batched(all_)]


def batched(elements: Sequence[Any], size: int = 2048) -> Iterator[Sequence[Any]]:
    """Yield elements in parts of a size."""
    return (elements[at : at + size] for at in range(0, len(elements), size))


def _port(key: EndpointKey) -> dict[str, Any]:
    return {"concat": [key.protocol.value, key.port]}


def _endpoint(key: EndpointKey, target: Target) -> list[Expression]:
    ip = syntax.ip(ip_address(target.address).version)
    to = {"dnat": {"family": ip, "addr": target.address, "port": target.port}}
    return [match({"meta": {"key": "nfproto"}}, _NFPROTO[ip]), match(field(key.protocol.value, "dport"), key.port), to]


# ---- what is read ------------------------------------------------------------------------------------------------


def _held(items: Sequence[Item]) -> Held:
    listeners: dict[ListenerKey, str] = {}
    published: set[tuple[int, EndpointKey]] = set()
    for kind, value in items:
        name = value.get("name", "")
        if kind == "map" and name in LISTENERS.values():
            for element, verdict in value.get("elem", []):
                address, protocol, port = element["concat"]
                listeners[ListenerKey(str(address), int(port), Protocol(protocol))] = verdict["goto"]["target"]
        elif kind == "set" and name in PUBLISHED.values():
            family = next(family for family, one in PUBLISHED.items() if one == name)
            published |= {(family, _endpoint_key(element)) for element in value.get("elem", [])}
    chains = {str(value["name"]) for kind, value in items if kind == "chain" and value["name"].startswith(TO)}
    whole = {chain for chain in chains if _is_whole(chain, rules_in(items, chain))}
    endpoints, strange = _endpoints(rules_in(items, ENDPOINTS))
    return Held(listeners, endpoints, frozenset(published), frozenset(chains), frozenset(whole), strange)


def _is_whole(chain: str, rules: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a chain that marks has the rules that it was written with: their digest is in its name."""
    return chain == TO + syntax.digest([rule.get("comment") for rule in rules])


def _endpoints(
    rules: Iterable[Mapping[str, Any]],
) -> tuple[dict[EndpointKey, tuple[Target, int]], tuple[int, ...]]:
    """Return target and rule by endpoint, and the rules that are none's."""
    found: dict[EndpointKey, tuple[Target, int]] = {}
    strange = []
    for rule in rules:
        known = _endpoint_of(rule["expr"])
        if known is None or known[0] in found:
            strange.append(int(rule["handle"]))
        else:
            found[known[0]] = known[1], int(rule["handle"])
    return found, tuple(strange)


def _endpoint_of(expressions: Sequence[Mapping[str, Any]]) -> tuple[EndpointKey, Target] | None:
    """Return what a rule publishes; None for one that is not as we write it."""
    if [next(iter(part)) for part in expressions] != ["match", "match", "dnat"]:
        return None
    port, to = expressions[1]["match"], expressions[2]["dnat"]
    try:
        key = EndpointKey(int(port["right"]), Protocol(port["left"]["payload"]["protocol"]))
        return key, Target(str(to["addr"]), int(to["port"]))
    except (KeyError, TypeError, ValueError):
        return None


def _endpoint_key(element: Mapping[str, Any]) -> EndpointKey:
    protocol, port = element["concat"]
    return EndpointKey(int(port), Protocol(protocol))
