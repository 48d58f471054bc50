"""Packets that are not to be tracked, against an nft in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from skedge.core.desired.reconcile import reconcile
from skedge.core.model import Protocol
from skedge.core.objects import ListenerKey
from skedge.dataplane.nftables import notrack, syntax
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver
from skedge.dataplane.nftables.notrack import tracks
from skedge.dataplane.nftables.table import READ_EVERY_S, NftTable
from tests.fakes.fake_nft import FakeNft

LISTENERS = [
    ListenerKey("10.0.0.1", 80), ListenerKey("10.0.0.1", 443), ListenerKey("fd00::1", 80),
    ListenerKey("127.0.0.1", 80), ListenerKey("::1", 80), ListenerKey("10.0.0.1", 53, Protocol.UDP),
]  # fmt: skip
CHAINS = ("untracked-in", "untracked-out")


class Notrack:
    """The chains as the controller keeps them."""

    def __init__(self, tracked: bool = True) -> None:
        self.nft, self.now, self.tracked = FakeNft(), 0.0, tracked
        self.chains = ChainGroupDriver(NftTable(self.nft, lambda: self.now), notrack.OWNED)

    def ensure(self, listeners: Iterable[ListenerKey], *, opening: bool = False) -> bool:
        found = self.chains.read()
        wanted = notrack.wanted(found, listeners, opening=opening, tracked=self.tracked)
        return bool(reconcile(self.chains, wanted).changed)

    def all(self) -> list[Any]:
        return [parts for chain in CHAINS for parts in self.nft.chain(chain) if parts[0] != syntax.ASKED]


def test_nothing_is_written_where_nothing_is_tracked_until_it_is() -> None:
    untracked = Notrack(tracked=False)
    assert not untracked.ensure(LISTENERS)
    assert untracked.nft.objects == {}
    untracked.tracked = True
    assert untracked.ensure(LISTENERS)
    assert {name for kind, name in untracked.nft.objects if kind == "chain"} == set(CHAINS)
    untracked.now, untracked.tracked = READ_EVERY_S + 1, False
    assert not untracked.ensure(LISTENERS)
    assert untracked.ensure([]), "once there, it is kept as it should be"


def test_links_and_the_listeners_that_the_lan_reaches_over_tcp() -> None:
    untracked = Notrack()
    untracked.ensure(LISTENERS)
    asked, links, four, six = untracked.nft.chain("untracked-in")
    assert asked == [syntax.ASKED, syntax.ACCEPT], "the host's rules see a new connection"
    assert links[0]["match"] == {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "sk-*"}
    places = [[place["concat"] for place in rule[0]["match"]["right"]["set"]] for rule in (four, six)]
    assert places == [[["10.0.0.1", 80], ["10.0.0.1", 443]], [["fd00::1", 80]]]
    assert all(rule[-1] == {"notrack": None} for rule in untracked.all())
    back = untracked.nft.chain("untracked-out")[1][0]["match"]["left"]["concat"]
    assert [part["payload"]["field"] for part in back] == ["saddr", "sport"]


def test_it_is_written_again_only_when_it_differs() -> None:
    untracked = Notrack()
    nft = untracked.nft
    assert untracked.ensure(LISTENERS)
    assert not untracked.ensure(reversed(LISTENERS))
    assert untracked.ensure(LISTENERS[1:])
    assert [len(nft.chain(chain)) for chain in CHAINS] == [4, 3]
    assert untracked.ensure(LISTENERS)
    assert not untracked.ensure(LISTENERS)
    nft.rules.pop()  # somebody else
    assert not untracked.ensure(LISTENERS)
    untracked.now = READ_EVERY_S + 1
    assert untracked.ensure(LISTENERS)
    assert nft.scripts == 4


@pytest.mark.parametrize(("text", "answer"), [("0\n", False), ("7\n", True), ("", False), (None, False)])
def test_whether_anything_is_tracked(tmp_path: Path, text: str | None, answer: bool) -> None:
    path = tmp_path / "count"
    if text is not None:
        path.write_text(text)
    assert tracks(path) is answer


def test_while_another_engines_connections_go_on_only_openings_are_untracked() -> None:
    untracked = Notrack()
    assert untracked.ensure(LISTENERS, opening=True)
    assert all("flags" in str(rule[0]) for rule in untracked.all())
    assert not untracked.ensure(LISTENERS, opening=True)
    assert untracked.ensure(LISTENERS), "and everything afterwards"
    assert not any("flags" in str(rule) for rule in untracked.all())


def test_where_listeners_share_an_entry_the_kernel_is_asked_which_addresses_are_its_own() -> None:
    every = [*LISTENERS, ListenerKey("0.0.0.0", 80), ListenerKey("::", 80), ListenerKey("0.0.0.0", 53, Protocol.UDP)]
    few, many = notrack.group(every), notrack.group(every, shared=True)
    assert notrack.group(LISTENERS) == few, "not where each address has its own element: each packet would pay"
    for ours, more, address, port in zip(few.chains, many.chains, ("daddr", "saddr"), ("dport", "sport"), strict=True):
        assert more.rules[:-2] == ours.rules
        for rule, ports in zip(more.rules[-2:], ([80], [80]), strict=True):
            untracked, of_port, no_loopback, is_local, end = json.loads(rule.text)
            assert untracked["match"]["op"] == no_loopback["match"]["op"] == "!="
            assert of_port["match"]["left"]["payload"]["field"] == port
            assert of_port["match"]["right"] in (80, {"set": ports})
            assert is_local["match"] == {
                "op": "==",
                "left": {"fib": {"result": "type", "flags": [address]}},
                "right": "local",
            }
            assert end == {"notrack": None}
