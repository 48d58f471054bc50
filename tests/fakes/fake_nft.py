"""Our nftables table in memory: executes the JSON scripts of the data plane as one change each, and lists itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from skedge.core.errors import DataplaneError


class FakeNft:
    """Callable as `table.run_nft`. ``scripts`` counts those that were run; ``broken`` refuses the next ones."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.rules: list[dict[str, Any]] = []
        self.scripts = 0
        self.broken = False
        self._handle = 0

    def __call__(self, script: Mapping[str, Any] | None) -> Mapping[str, Any]:
        if script is None:
            return self._listing()
        if self.broken:
            raise DataplaneError("nft: refused")
        before = copy.deepcopy((self.objects, self.rules))
        try:
            for command in script["nftables"]:
                self._do(*next(iter(command.items())))
        except DataplaneError:
            self.objects, self.rules = before
            raise
        self.scripts += 1
        return {}

    def elements(self, name: str) -> list[Any]:
        return next(one["elem"] for (_, of), one in self.objects.items() if of == name)

    def chain(self, name: str) -> list[Any]:
        return [rule["expr"] for rule in self.rules if rule["chain"] == name]

    def _listing(self) -> Mapping[str, Any]:
        items = [{kind: copy.deepcopy(one)} for (kind, _), one in self.objects.items()]
        return {"nftables": [*items, *({"rule": copy.deepcopy(rule)} for rule in self.rules)]} if items else {}

    def _do(self, verb: str, what: Mapping[str, Any]) -> None:
        kind, value = next(iter(what.items()))
        match verb, kind:
            case "add", "rule":
                self._need("chain", value["chain"])
                self._references(value["expr"])
                self._handle += 1
                self.rules.append({**value, "handle": self._handle})
            case "delete", "rule":
                found = [
                    rule for rule in self.rules if (rule["chain"], rule["handle"]) == (value["chain"], value["handle"])
                ]
                if not found:
                    raise DataplaneError("no such rule")
                self.rules.remove(found[0])
            case (("add" | "delete"), "element"):
                self._element(verb, value)
            case "flush", "chain":
                self._need("chain", value["name"])
                self.rules = [rule for rule in self.rules if rule["chain"] != value["name"]]
            case "delete", "chain":
                self._need("chain", value["name"])
                if value["name"] in str([one.get("elem") for one in self.objects.values()]):
                    raise DataplaneError(f"chain {value['name']} is in use")
                self.rules = [rule for rule in self.rules if rule["chain"] != value["name"]]
                del self.objects["chain", value["name"]]
            case "delete", "table":
                self.objects, self.rules = {}, []
            case "delete", ("set" | "map" | "counter"):
                self._need(kind, value["name"])
                if f"'{value['name']}'" in str(self.rules) or f"@{value['name']}" in str(self.rules):
                    raise DataplaneError(f"{kind} {value['name']} is in use")
                del self.objects[kind, value["name"]]
            case "add", ("table" | "chain" | "set" | "map" | "counter"):
                extra = {"elem": []} if kind in ("set", "map") else {"packets": 0} if kind == "counter" else {}
                one = self.objects.setdefault((kind, value["name"]), {**value, **extra})
                if kind == "chain" and value.get("hook") != one.get("hook"):
                    raise DataplaneError(f"chain {value['name']} is at another hook")
                one |= {"policy": value["policy"]} if "policy" in value else {}
            case _:
                raise AssertionError(f"{verb} {kind} is not known to this fake")

    def _element(self, verb: str, value: Mapping[str, Any]) -> None:
        one = next((one for (_, name), one in self.objects.items() if name == value["name"] and "elem" in one), None)
        if one is None:
            raise DataplaneError(f"no set {value['name']}")
        for element in value["elem"]:
            if verb == "delete":
                if element not in one["elem"]:
                    raise DataplaneError(f"no element {element}")
                one["elem"].remove(element)
            elif element not in one["elem"]:
                if isinstance(element, list) and any(other[0] == element[0] for other in one["elem"]):
                    raise DataplaneError(f"{element[0]} has another value already")
                for target in [element[1]["goto"]["target"]] if isinstance(element, list) else []:
                    self._need("chain", target)
                one["elem"].append(element)

    def _references(self, expressions: Any) -> None:
        """Every set, map, counter and chain that a rule names must be there."""
        text = str(expressions)
        names = {name for _, name in self.objects}
        for word in text.replace("'", " ").split():
            if word.startswith("@"):
                assert word[1:] in names, f"{word} is not there"

    def _need(self, kind: str, name: str) -> None:
        if (kind, name) not in self.objects:
            raise DataplaneError(f"no {kind} {name}")
