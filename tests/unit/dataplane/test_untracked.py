"""Packets that are not to be tracked, against an nft in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from skedge.core.model import Protocol
from skedge.core.objects import ListenerKey
from skedge.dataplane.nftables.notrack import Untracked, tracks
from skedge.dataplane.nftables.tunnel_guard import READ_EVERY_S


class FakeNft:
    """Our table with the rules of each chain."""

    def __init__(self) -> None:
        self.chains: dict[str, list[dict[str, Any]]] = {}
        self.writes = 0

    def __call__(self, script: Mapping[str, Any] | None) -> Mapping[str, Any]:
        self.writes += script is not None
        for command in (script or {}).get("nftables", []):
            ((verb, what),) = command.items()
            ((kind, item),) = what.items()
            if (verb, kind) == ("add", "chain"):
                self.chains.setdefault(item["name"], [])
            elif (verb, kind) == ("flush", "chain"):
                self.chains[item["name"]].clear()
            elif (verb, kind) == ("add", "rule"):
                self.chains[item["chain"]].append(item)
        return {"nftables": [{"rule": rule} for rules in self.chains.values() for rule in rules]}


LISTENERS = [
    ListenerKey("10.0.0.1", 80), ListenerKey("10.0.0.1", 443), ListenerKey("fd00::1", 80),
    ListenerKey("127.0.0.1", 80), ListenerKey("::1", 80), ListenerKey("10.0.0.1", 53, Protocol.UDP),
]  # fmt: skip


def made(tracked: bool = True) -> tuple[Untracked, FakeNft, list[Any]]:
    nft, world = FakeNft(), [0.0, tracked]
    return Untracked(nft, lambda: world[0], lambda: world[1]), nft, world


def test_nothing_is_written_where_nothing_is_tracked_until_it_is() -> None:
    untracked, nft, world = made(tracked=False)
    assert not untracked.ensure(LISTENERS)
    assert nft.chains == {}
    world[1] = True
    assert untracked.ensure(LISTENERS)
    assert set(nft.chains) == {"untracked-in", "untracked-out"}
    world[:] = [READ_EVERY_S + 1, False]
    assert not untracked.ensure(LISTENERS)
    assert untracked.ensure([]), "once there, it is kept as it should be"


def test_links_and_the_listeners_that_the_lan_reaches_over_tcp() -> None:
    untracked, nft, _ = made()
    untracked.ensure(LISTENERS)
    links, four, six = nft.chains["untracked-in"]
    assert links["expr"][0]["match"] == {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "sk-*"}
    places = [[place["concat"] for place in rule["expr"][0]["match"]["right"]["set"]] for rule in (four, six)]
    assert places == [[["10.0.0.1", 80], ["10.0.0.1", 443]], [["fd00::1", 80]]]
    assert all(rule["expr"][-1] == {"notrack": None} for rules in nft.chains.values() for rule in rules)
    back = nft.chains["untracked-out"][1]["expr"][0]["match"]["left"]["concat"]
    assert [part["payload"]["field"] for part in back] == ["saddr", "sport"]


def test_it_is_written_again_only_when_it_differs() -> None:
    untracked, nft, world = made()
    assert untracked.ensure(LISTENERS)
    assert not untracked.ensure(reversed(LISTENERS))
    assert untracked.ensure(LISTENERS[1:])
    assert [len(rules) for rules in nft.chains.values()] == [3, 3]
    assert untracked.ensure(LISTENERS)
    assert not untracked.ensure(LISTENERS)
    nft.chains["untracked-in"].pop()  # somebody else
    assert not untracked.ensure(LISTENERS)
    world[0] = READ_EVERY_S + 1
    assert untracked.ensure(LISTENERS)
    assert nft.writes == 4


@pytest.mark.parametrize(("text", "answer"), [("0\n", False), ("7\n", True), ("", False), (None, False)])
def test_whether_anything_is_tracked(tmp_path: Path, text: str | None, answer: bool) -> None:
    path = tmp_path / "count"
    if text is not None:
        path.write_text(text)
    assert tracks(path) is answer


def test_while_another_engines_connections_go_on_only_openings_are_untracked() -> None:
    untracked, nft, _ = made()
    assert untracked.ensure(LISTENERS, opening=True)
    assert all("flags" in str(rule["expr"][0]) for rules in nft.chains.values() for rule in rules)
    assert not untracked.ensure(LISTENERS, opening=True)
    nft({"nftables": Untracked.commands(LISTENERS, opening=True)})
    assert untracked.ensure(LISTENERS), "and everything afterwards"
    assert not any("flags" in str(rule["expr"]) for rules in nft.chains.values() for rule in rules)
