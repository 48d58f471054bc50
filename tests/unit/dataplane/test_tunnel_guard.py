"""The tunnel guard against an nft in memory: what it writes, and what it makes of what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from skedge.core.errors import DataplaneError
from skedge.core.model import LinkId
from skedge.core.objects import LinkDevice
from skedge.core.transports import Transport
from skedge.dataplane.nftables.table import READ_EVERY_S, NftTable, run_nft
from skedge.dataplane.nftables.tunnel_guard import TunnelGuard, TunnelPeer
from tests.fakes.fake_nft import FakeNft

PEER = TunnelPeer(vni=77, remote="10.0.0.2", port=4790)
OTHER = TunnelPeer(vni=5, remote="fd00::2", port=4790)


class Nft(FakeNft):
    calls = 0

    def __call__(self, script: Mapping[str, Any] | None) -> Mapping[str, Any]:
        self.calls += 1
        return super().__call__(script)


def guard() -> tuple[TunnelGuard, Nft, list[float]]:
    nft, now = Nft(), [0.0]
    return TunnelGuard(NftTable(nft, lambda: now[0])), nft, now


def test_put_read_delete() -> None:
    made, nft, _ = guard()
    assert made.read() == {}
    made.put("sk-a", PEER)
    made.put("sk-b", OTHER)
    assert made.read() == {"sk-a": PEER, "sk-b": OTHER}
    made.put("sk-a", TunnelPeer(77, "10.0.0.3", 4790))
    assert made.read()["sk-a"].remote == "10.0.0.3"
    assert len(nft.rules) == 2
    made.delete("sk-a")
    made.delete("sk-a")
    assert set(made.read()) == {"sk-b"}


def test_the_same_peer_is_not_written_again() -> None:
    made, nft, _ = guard()
    made.put("sk-a", PEER)
    handles = [rule["handle"] for rule in nft.rules]
    made.put("sk-a", PEER)
    assert [rule["handle"] for rule in nft.rules] == handles


def test_only_the_links_own_identifier_is_judged() -> None:
    made, nft, _ = guard()
    made.put("sk-a", PEER)
    (rule,) = nft.rules
    rights = [part["match"]["right"] for part in rule["expr"] if "match" in part]
    assert rights == [4790, 77, "10.0.0.2"]
    assert rule["expr"][2]["match"]["op"] == "!="
    assert rule["expr"][-1] == {"drop": None}


def test_reading_is_spared_for_a_while_and_then_sees_damage() -> None:
    made, nft, now = guard()
    made.put("sk-a", PEER)
    made.read()
    calls = nft.calls
    nft.rules.clear()
    assert made.read() == {"sk-a": PEER}
    assert nft.calls == calls
    now[0] += READ_EVERY_S + 1
    assert made.read() == {}


def test_a_rule_that_somebody_changed_is_not_taken_for_ours() -> None:
    made, nft, _ = guard()
    made.put("sk-a", PEER)
    (rule,) = nft.rules
    del rule["expr"][1]
    made.put("sk-b", TunnelPeer(5, "10.0.0.9", 4790))
    assert set(made.read()) == {"sk-b"}


def test_a_rule_of_somebody_else_and_another_hook_count_as_no_guard_and_go() -> None:
    made, nft, now = guard()
    made.put("sk-a", PEER)
    made.put("sk-b", OTHER)
    nft.rules.insert(0, {"chain": "tunnels", "handle": 999, "expr": [{"accept": None}]})
    now[0] += READ_EVERY_S + 1
    assert made.read() == {}
    made.put("sk-a", PEER)
    assert made.read() == {"sk-a": PEER, "sk-b": OTHER}
    nft.objects["chain", "tunnels"]["hook"] = "output"
    now[0] += READ_EVERY_S + 1
    assert made.read() == {}
    made.put("sk-b", OTHER)
    assert made.read() == {"sk-a": PEER, "sk-b": OTHER}
    assert len(nft.rules) == 2


def test_dropped_and_purge() -> None:
    nft = Nft()
    table = NftTable(nft)
    made = TunnelGuard(table)
    assert made.dropped() == 0
    table.remove()
    made.put("sk-a", PEER)
    nft.objects["counter", "wrong-tunnel-peer"]["packets"] = 3
    assert made.dropped() == 3
    assert table.names() == ["inet skedge"]
    table.remove()
    assert table.names() == []
    assert made.read() == {}


def test_which_devices_are_guarded() -> None:
    device = LinkDevice(LinkId("a", "b"), Transport.VXLAN, "fe80::1", "fe80::2", vni=77, remote="10.0.0.2", port=4790)
    assert TunnelPeer.of(device) == PEER
    assert TunnelPeer.of(LinkDevice(LinkId("a", "b"), Transport.DIRECT, "fe80::1", "fe80::2", underlay="eth0")) is None


def test_a_missing_nft_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skedge.dataplane.nftables.table.shutil.which", lambda *_, **__: None)
    with pytest.raises(DataplaneError, match="install the package nftables"):
        run_nft(None)


def test_an_nft_that_does_not_end_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "nft"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setattr("skedge.dataplane.nftables.table.shutil.which", lambda *_, **__: str(slow))
    monkeypatch.setattr("skedge.dataplane.nftables.table.NFT_TIMEOUT_S", 0.2)
    with pytest.raises(DataplaneError, match=r"nft: not done after 0\.2 s"):
        run_nft(None)
