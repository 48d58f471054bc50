"""What the host must not forward though it could: one nftables chain beside the tunnel guard's, in the same table.

* Nothing but a link's packets goes out over a link: clients enter by listeners, also where the operator's own switch
  makes the host a router.
* Nothing goes between devices that are *closed*: those between which IPv6 is forwarded only because skedge had to
  throw the host's one switch (`forwarding.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

from skedge.core.names import PREFIX
from skedge.dataplane.nftables.tunnel_guard import FAMILY, READ_EVERY_S, TABLE, run_nft

CHAIN = "forwarding"
COUNTER = "not-forwarded"
_PLACE = {"family": FAMILY, "table": TABLE}
_LINKS, _CLOSED = "into links", "closed devices"


class ForwardGuard:
    """The chain of one host. What the kernel has is read again every `READ_EVERY_S` seconds."""

    def __init__(
        self,
        run: Callable[[Mapping[str, Any] | None], Mapping[str, Any]] = run_nft,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._clock = clock
        self._known: frozenset[str] | None = None
        self._read_at = float("-inf")

    def read(self) -> frozenset[str] | None:
        """Return the closed devices, at most `READ_EVERY_S` seconds old; None when the chain is not as we write it."""
        if self._clock() - self._read_at > READ_EVERY_S:
            self._known = _closed(self._run(None))
            self._read_at = self._clock()
        return self._known

    def put(self, closed: Set[str]) -> None:
        """Write the chain anew, atomically."""
        chain = {**_PLACE, "name": CHAIN, "type": "filter", "hook": "forward", "prio": -10, "policy": "accept"}
        commands: list[dict[str, Any]] = [
            {"add": {"table": {"family": FAMILY, "name": TABLE}}},
            {"add": {"counter": {**_PLACE, "name": COUNTER}}},
            {"add": {"chain": chain}},
            {"flush": {"chain": {**_PLACE, "name": CHAIN}}},
        ]
        for comment, expressions in _rules(closed).items():
            commands.append({"add": {"rule": {**_PLACE, "chain": CHAIN, "comment": comment, "expr": expressions}}})
        self._run({"nftables": commands})
        self._read_at = float("-inf")

    def dropped(self) -> int:
        """Return how many packets were not forwarded since the chain was made."""
        for item in self._run(None).get("nftables", []):
            if item.get("counter", {}).get("name") == COUNTER:
                return int(item["counter"]["packets"])
        return 0


def _rules(closed: Set[str]) -> dict[str, list[Any]]:
    """Return the expressions of each rule by its comment."""
    end: list[Any] = [{"counter": COUNTER}, {"drop": None}]
    ours = f"{PREFIX}*"
    rules = {_LINKS: [_match("iifname", "!=", ours), _match("oifname", "==", ours), *end]}
    if closed:
        devices = _devices(closed)
        between = [_match("iifname", "==", devices), _match("oifname", "==", devices)]
        rules[_CLOSED] = [_match("nfproto", "==", "ipv6"), *between, *end]
    return rules


def _devices(names: Iterable[str]) -> Any:
    """Return a set of devices as nft prints it: sorted, and one alone without the set."""
    ordered = sorted(names)
    return ordered[0] if len(ordered) == 1 else {"set": ordered}


def _match(key: str, operator: str, right: Any) -> dict[str, Any]:
    return {"match": {"op": operator, "left": {"meta": {"key": key}}, "right": right}}


def _closed(listing: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the closed devices of a listing whose chain is ours in every expression, else None."""
    rules = [item["rule"] for item in listing.get("nftables", []) if item.get("rule", {}).get("chain") == CHAIN]
    found = {str(rule.get("comment")): [_sorted(part) for part in rule["expr"]] for rule in rules}
    closed: frozenset[str] = frozenset()
    if _CLOSED in found:
        rights = [part["match"]["right"] for part in found[_CLOSED] if "match" in part]
        last = rights[-1] if rights else ""
        closed = frozenset(last["set"] if isinstance(last, Mapping) else [last])
    return closed if len(rules) == len(found) and found == _rules(closed) else None


def _sorted(part: Any) -> Any:
    """Return an expression with the elements of its set in our order."""
    right = part.get("match", {}).get("right")
    if not isinstance(right, Mapping) or "set" not in right:
        return part
    return {"match": {**part["match"], "right": _devices(right["set"])}}
