"""The driver of our nftables chains: groups of chains, with the sets and counters that their rules name.

A rule is known by its comment, which has a digest of what it was meant to be. A rule of somebody else in a chain of
ours, a rule that is gone, another order, hook, priority or policy: all read as another value than the one written.
Elements of sets are left alone, and named counters go on counting, when a group is written anew.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skedge.core.objects import ChainGroup, NftChain, NftRule, NftSet
from skedge.dataplane.nftables import syntax
from skedge.dataplane.nftables.table import Item, NftTable

STRANGE = "not ours"


@dataclass(frozen=True, slots=True)
class Owned:
    """The names of a group, by which it is found.

    ``exact``: its rules are compared with their digests. That is for expressions which every nft prints as they were
    written. ``filled``: chains whose rules other drivers keep; they count as empty.
    """

    name: str
    chains: tuple[str, ...]
    sets: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()
    exact: bool = False
    filled: tuple[str, ...] = ()

    def find(self, items: Iterable[Item]) -> ChainGroup:
        """Return what a listing has of the group."""
        found = list(items)
        chains = {str(value["name"]): value for kind, value in found if kind == "chain"}
        sets = {str(value["name"]): value for kind, value in found if kind in ("set", "map")}
        counters = {value["name"] for kind, value in found if kind == "counter"}
        return ChainGroup(
            tuple(
                self._chain(chains[name], [] if name in self.filled else rules_in(found, name))
                for name in self.chains
                if name in chains
            ),
            tuple(_set(sets[name]) for name in self.sets if name in sets),
            tuple(name for name in self.counters if name in counters),
        )

    def _chain(self, chain: Mapping[str, Any], rules: Iterable[Mapping[str, Any]]) -> NftChain:
        return shape(chain, tuple(NftRule(self._comment(rule)) for rule in rules))

    def _comment(self, rule: Mapping[str, Any]) -> str:
        comment = str(rule.get("comment", STRANGE))
        changed = self.exact and syntax.digest(syntax.ordered(rule["expr"])) != comment.rpartition(" ")[2]
        return STRANGE if changed else comment

    def writing(self, found: ChainGroup, wanted: ChainGroup) -> list[dict[str, Any]]:
        """Return the commands that lead from what is found to what is wanted.

        A chain at another hook, and a set of other types, cannot be changed; they are made anew.
        """
        chains, sets = {one.name: one for one in wanted.chains}, {one.name: one for one in wanted.sets}
        misplaced = [one.name for one in found.chains if place(one) != place(chains[one.name])]
        mistyped = [one for one in found.sets if one != sets[one.name]]
        emptied = [one.name for one in found.chains if one.name not in self.filled or one.name in misplaced]
        return [
            *(syntax.flush(name) for name in emptied),  # what rules refer to cannot go
            *(syntax.delete("chain", name) for name in misplaced),
            *(syntax.delete(_kind(one), one.name) for one in mistyped),
            *(syntax.add("counter", name) for name in wanted.counters),
            *(syntax.add_set(one) for one in wanted.sets),
            *(adding(chain) for chain in wanted.chains),
            *(command for chain in wanted.chains for command in _rules(chain)),
            *(command for one in wanted.sets for command in _elements(one)),
        ]


class ChainGroupDriver:
    """Driver[str, ChainGroup]: name of a group -> its chains, of the groups that it is made for."""

    def __init__(self, table: NftTable, *owned: Owned) -> None:
        self._table = table
        self._owned = {one.name: one for one in owned}

    def read(self) -> Mapping[str, ChainGroup]:
        """Return the groups of which there is anything."""
        items = self._table.items(" and ".join(self._owned))
        found = {name: one.find(items) for name, one in self._owned.items()}
        return {name: group for name, group in found.items() if group != ChainGroup()}

    def put(self, key: str, value: ChainGroup) -> None:
        """Write a group, in one change from what it was."""
        self.change({key: value})

    def delete(self, key: str) -> None:
        """Remove a group with its sets and counters; one that is gone is success."""
        self.change({}, (key,))

    def change(self, put: Mapping[str, ChainGroup], delete: Collection[str] = ()) -> None:
        """Write groups and remove others, all in one change."""
        who = " and ".join((*put, *delete))
        items = self._table.fresh(who)
        commands = [one for key, value in put.items() for one in self._writing(key, items, value)]
        commands += [one for key in delete for one in removing(self._owned[key].find(items))]
        self._table.change(who, commands)

    def _writing(self, key: str, items: Sequence[Item], value: ChainGroup) -> list[dict[str, Any]]:
        owned = self._owned[key]
        return owned.writing(owned.find(items), value)


def removing(found: ChainGroup) -> list[dict[str, Any]]:
    """Return the commands that take away what is found."""
    return [
        *(syntax.flush(chain.name) for chain in found.chains),
        *(syntax.delete("chain", chain.name) for chain in found.chains),
        *(syntax.delete(_kind(one), one.name) for one in found.sets),
        *(syntax.delete("counter", name) for name in found.counters),
    ]


def adding(chain: NftChain) -> dict[str, Any]:
    """Return the command that makes a chain without its rules; of one that is there, it sets the policy."""
    if not chain.hook:
        return syntax.add("chain", chain.name)
    at = {"type": chain.kind, "hook": chain.hook, "prio": chain.priority, "policy": chain.policy}
    return syntax.add("chain", chain.name, **at)


def shape(chain: Mapping[str, Any], rules: tuple[NftRule, ...] = ()) -> NftChain:
    """Return a chain as it is listed, with these rules."""
    kind, hook, policy = (str(chain.get(key, "")) for key in ("type", "hook", "policy"))
    return NftChain(str(chain["name"]), rules, kind, hook, int(chain.get("prio", 0)), policy)


def place(chain: NftChain) -> tuple[str, str, int]:
    """Return what of a chain cannot be changed."""
    return chain.kind, chain.hook, chain.priority


def base(name: str, kind: str, hook: str, priority: int, rules: Sequence[NftRule] = ()) -> NftChain:
    """Return a chain at a hook, whose policy is to accept."""
    return NftChain(name, tuple(rules), kind, hook, priority, "accept")


def rules_in(items: Iterable[Item], chain: str) -> list[Mapping[str, Any]]:
    """Return the rules that a listing has of a chain, in order."""
    return [value for kind, value in items if kind == "rule" and value["chain"] == chain]


def _rules(chain: NftChain) -> list[dict[str, Any]]:
    return [syntax.rule(chain.name, json.loads(rule.text), rule.comment) for rule in chain.rules]


def _elements(one: NftSet) -> list[dict[str, Any]]:
    elements = json.loads(one.elements or "[]")
    return [syntax.element("add", one.name, elements)] if elements else []


def _set(one: Mapping[str, Any]) -> NftSet:
    types = one["type"] if isinstance(one["type"], list) else [one["type"]]
    return syntax.named_set(str(one["name"]), *types, verdicts=one.get("map") == "verdict")


def _kind(one: NftSet) -> str:
    return "map" if ":" in one.type else "set"
