"""Filters of other VPNs that drop what links bring: known by the names of their chains.

Tailscale takes all of 100.64.0.0/10 for its own, and drops what comes from there by another device. Pre-flight follows
packets through any rules; this is for what was started later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Network
from typing import Any

from skedge.core.names import PREFIX, SHARED_SPACE
from skedge.dataplane.host import legacy_iptables
from skedge.dataplane.nftables.table import READ_EVERY_S, rules_of

CHAIN, INPUT, TABLE = "ts-input", "INPUT", "filter"
_Rules = Sequence[Sequence[Mapping[str, Any]]]
_Read = Callable[[str], _Rules]
_DROPS = {"payload": {"protocol": "ip", "field": "saddr"}}
_RANGE = {"prefix": {"addr": str(SHARED_SPACE.network_address), "len": SHARED_SPACE.prefixlen}}


class OtherFilters:
    """Looks at most every `READ_EVERY_S` seconds."""

    def __init__(self, rules: Mapping[str, _Read] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules, self._clock = rules or _BOTH, clock
        self._known, self._at = "", float("-inf")

    def dropping(self, overlay: str) -> str:
        """Return the chain that drops packets from the overlay on links, "" for none. Raises DataplaneError."""
        if not IPv4Network(overlay).overlaps(SHARED_SPACE):
            return ""
        if self._clock() - self._at > READ_EVERY_S:
            self._known, self._at = self._look(), self._clock()
        return self._known

    def _look(self) -> str:
        return next((chain for chain, rules in self._rules.items() if _is_dropping(rules)), "")


def _is_dropping(rules: _Read) -> bool:
    """Return whether packets of links come to a rule that drops them, in the input chain of one kind of rules."""
    for rule in rules(INPUT):
        if _lets_links_in(rule):
            return False
        if any(_goes_to(part) == CHAIN for part in rule):
            return any(map(_drops, rules(CHAIN)))
    return False


def _lets_links_in(rule: Sequence[Mapping[str, Any]]) -> bool:
    devices = [part["match"] for part in rule if part.get("match", {}).get("left") == {"meta": {"key": "iifname"}}]
    ours = [one for one in devices if one["op"] == "==" and str(one["right"]).startswith(PREFIX)]
    return bool(ours) and any("accept" in part for part in rule)


def _goes_to(part: Mapping[str, Any]) -> str:
    target = (part.get("jump") or part.get("goto") or {}).get("target", "")
    return str(target)


def _drops(rule: Sequence[Mapping[str, Any]]) -> bool:
    ranges = [part["match"]["right"] for part in rule if part.get("match", {}).get("left") == _DROPS]
    return _RANGE in ranges and any("drop" in part for part in rule)


# What iptables of today makes is nftables, in a table that nft lists too.
_BOTH: Mapping[str, _Read] = {
    f"ip {TABLE} {CHAIN}": lambda chain: rules_of("ip", TABLE, chain),
    f"{CHAIN} of iptables-legacy": lambda chain: legacy_iptables.rules_of(TABLE, chain),
}
