"""Parts of nftables scripts in JSON, as `table.run_nft` takes them: what our chains have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from skedge.core.names import NFT_TABLE, PREFIX
from skedge.core.objects import NftRule, NftSet

TABLE, FAMILY = NFT_TABLE, "inet"
PLACE = {"family": FAMILY, "table": TABLE}
Expression = dict[str, Any]
FROM_LINK: Expression = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": f"{PREFIX}*"}}
TO_LINK: Expression = {"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": f"{PREFIX}*"}}
# What the host's rules are asked about: ASKING of bpf/nat/admission/ask.h, as nft prints it.
ASKED: Expression = {"match": {"op": "==", "left": {"meta": {"key": "priority"}}, "right": "736b:6673"}}
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


def flush(chain: str) -> dict[str, Any]:
    """Return the command that empties a chain."""
    return {"flush": {"chain": {**PLACE, "name": chain}}}


def delete(kind: str, name: str) -> dict[str, Any]:
    """Return the command that removes a named object, which nothing may refer to."""
    return {"delete": {kind: {**PLACE, "name": name}}}


def rule(chain: str, expressions: Sequence[Expression], comment: str = "") -> dict[str, Any]:
    """Return the command that appends a rule."""
    said = {"comment": comment} if comment else {}
    return {"add": {"rule": {**PLACE, "chain": chain, "expr": list(expressions), **said}}}


def delete_rule(chain: str, handle: int) -> dict[str, Any]:
    """Return the command that removes a rule."""
    return {"delete": {"rule": {**PLACE, "chain": chain, "handle": handle}}}


def element(action: str, name: str, elements: Sequence[Any]) -> dict[str, Any]:
    """Return the command that adds or deletes elements of a set or map."""
    return {action: {"element": {**PLACE, "name": name, "elem": list(elements)}}}


def script(*commands: Mapping[str, Any], family: str = FAMILY) -> dict[str, Any]:
    """Return commands as one script for our table of a family, carried out as one change; the table is made first."""
    made = {"add": {"table": {"family": family, "name": TABLE}}}
    return {"nftables": [made, *(commands if family == FAMILY else (_of_family(one, family) for one in commands))]}


def _of_family(command: Mapping[str, Any], family: str) -> dict[str, Any]:
    """Return a command for an object of another family."""
    return {
        action: {kind: {**value, "family": family} for kind, value in what.items()} for action, what in command.items()
    }


def meant(expressions: Sequence[Expression], label: str = "") -> NftRule:
    """Return the rule that has these expressions; its comment is the label and their digest."""
    return NftRule(f"{label} {digest(ordered(expressions))}".strip(), json.dumps(list(expressions)))


def named_set(name: str, *types: str, verdicts: bool = False, elements: Sequence[Any] = ()) -> NftSet:
    """Return a set of tuples of these types, or the map from them to verdicts."""
    return NftSet(name, " . ".join(types) + (" : verdict" if verdicts else ""), json.dumps(list(elements)))


def add_set(one: NftSet) -> dict[str, Any]:
    """Return the command that makes a set or map."""
    types, _, verdict = one.type.partition(" : ")
    words = types.split(" . ")
    said = {"type": words if len(words) > 1 else words[0]}  # a list of one is taken for a concatenation
    return add("map", one.name, **said, map=verdict) if verdict else add("set", one.name, **said)


def ordered(part: Any) -> Any:
    """Return an expression with the elements of its sets in an order of ours: nft prints them in one of its own."""
    if isinstance(part, Mapping):
        made = {key: ordered(value) for key, value in part.items()}
        return made | {"set": sorted(made["set"], key=json.dumps)} if isinstance(made.get("set"), list) else made
    return [ordered(one) for one in part] if isinstance(part, list | tuple) else part


def digest(value: object) -> str:
    """Return a short name of a value's content."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
