"""Parts of nftables scripts in JSON, as `tunnel_guard.run_nft` takes them: what our chains have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from skedge.core.names import PREFIX
from skedge.dataplane.nftables.tunnel_guard import FAMILY, TABLE

PLACE = {"family": FAMILY, "table": TABLE}
Expression = dict[str, Any]
FROM_LINK: Expression = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": f"{PREFIX}*"}}
TO_LINK: Expression = {"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": f"{PREFIX}*"}}
ACCEPT: Expression = {"accept": None}
DROP: Expression = {"drop": None}
L4PROTO: Expression = {"meta": {"key": "l4proto"}}
DPORT: Expression = {"payload": {"protocol": "th", "field": "dport"}}
OPENS: Expression = {
    "match": {
        "op": "==",
        "left": {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["fin", "syn", "rst", "ack"]]},
        "right": "syn",
    }
}


def match(left: Any, right: Any, operator: str = "==") -> Expression:
    """Return a comparison."""
    return {"match": {"op": operator, "left": left, "right": right}}


def field(protocol: str, name: str) -> Expression:
    """Return a field of a packet."""
    return {"payload": {"protocol": protocol, "field": name}}


def ip(family: int) -> str:
    """Return nftables' word for IPv4 or IPv6."""
    return "ip" if family == 4 else "ip6"


def prefix(network: str) -> Any:
    """Return a network as nftables writes it."""
    parsed = ip_network(network)
    return {"prefix": {"addr": str(parsed.network_address), "len": parsed.prefixlen}}


def either(values: Iterable[Any]) -> Any:
    """Return a set of values."""
    return {"set": list(values)}


def add(kind: str, name: str, **values: Any) -> dict[str, Any]:
    """Return the command that makes a named object, no change when it is there."""
    return {"add": {kind: {**PLACE, "name": name, **values}}}


def base_chain(name: str, kind: str, hook: str, priority: int) -> dict[str, Any]:
    """Return the command that makes a chain at a hook, whose policy is to accept."""
    return add("chain", name, type=kind, hook=hook, prio=priority, policy="accept")


def flush(chain: str) -> dict[str, Any]:
    """Return the command that empties a chain."""
    return {"flush": {"chain": {**PLACE, "name": chain}}}


def rule(chain: str, expressions: Sequence[Expression], comment: str = "") -> dict[str, Any]:
    """Return the command that appends a rule."""
    return {
        "add": {
            "rule": {**PLACE, "chain": chain, "expr": list(expressions), **({"comment": comment} if comment else {})}
        }
    }


def element(action: str, name: str, elements: Sequence[Any]) -> dict[str, Any]:
    """Return the command that adds or deletes elements of a set or map."""
    return {action: {"element": {**PLACE, "name": name, "elem": list(elements)}}}


def script(*commands: Mapping[str, Any]) -> dict[str, Any]:
    """Return commands as one script, carried out as one change; the table is made first."""
    return {"nftables": [{"add": {"table": {"family": FAMILY, "name": TABLE}}}, *commands]}


def digest(value: object) -> str:
    """Return a short name of a value's content."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
