"""The forward guard against an nft in memory, and which devices of a host are closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest

from skedge.dataplane.ebpf.packet_check import PacketCheckConfig
from skedge.dataplane.nftables import arrivals, forward_guard
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver
from skedge.dataplane.nftables.table import READ_EVERY_S, NftTable
from skedge.dataplane.routing.ipv6_forwarding import lasting, outward
from tests.fakes.fake_nft import FakeNft


class Nft(FakeNft):
    """Prints sets in an order of its own."""

    calls = 0

    def __call__(self, script: Mapping[str, Any] | None) -> Mapping[str, Any]:
        self.calls += 1
        listed = super().__call__(script)
        for item in listed.get("nftables", []):
            for part in item.get("rule", {}).get("expr", []):
                if isinstance(right := part.get("match", {}).get("right"), dict):
                    right["set"].reverse()
        return listed


class Guard:
    """The chain as the controller keeps it."""

    def __init__(self) -> None:
        self.nft, self.now = Nft(), 0.0
        self.table = NftTable(self.nft, lambda: self.now)
        self.chains = ChainGroupDriver(self.table, forward_guard.OWNED)

    def put(self, closed: set[str]) -> None:
        self.chains.put(forward_guard.NAME, forward_guard.group(closed))

    def closes(self, closed: set[str]) -> bool:
        return self.chains.read() == {forward_guard.NAME: forward_guard.group(closed)}

    def dropped(self) -> int:
        return self.table.packets("test").get(forward_guard.COUNTER, 0)


def test_no_rule_asks_for_tracking_where_nothing_is_translated() -> None:
    """One such rule has the kernel track every packet of the host."""
    config = PacketCheckConfig("100.64.0.1", "fd00::1", "100.64.0.0/10", "fd00::/48", 7401, 7402, (61000, 62999))
    for make in (partial(forward_guard.group, set(), config), partial(arrivals.group, config)):
        texts = [[rule.text for one in make(translates=both).chains for rule in one.rules] for both in (True, False)]
        assert [any('"ct"' in text for text in said) for said in texts] == [True, False]
        assert len(texts[1]) > 1


@pytest.mark.parametrize("closed", [set(), {"eth0"}, {"eth1", "eth0", "wlan0"}])
def test_what_is_written_is_read(closed: set[str]) -> None:
    made = Guard()
    assert made.chains.read() == {}
    assert made.dropped() == 0
    made.put(closed)
    assert made.closes(closed)
    assert len(made.nft.chain("forwarding")) == 1 + bool(closed)
    made.nft.objects["counter", "not-forwarded"]["packets"] = 7
    made.put({"eth7"})
    assert made.closes({"eth7"})
    assert made.dropped() == 7, "it goes on counting"


def test_nothing_but_links_packets_goes_into_links_and_all_families_are_meant() -> None:
    made = Guard()
    made.put(set())
    (rule,) = made.nft.chain("forwarding")
    said = [(m["match"]["left"]["meta"]["key"], m["match"]["op"], m["match"]["right"]) for m in rule[:2]]
    assert said == [("iifname", "!=", "sk-*"), ("oifname", "==", "sk-*")]
    assert rule[2:] == [{"counter": "not-forwarded"}, {"drop": None}]


@pytest.mark.parametrize(
    "damage", ["rule gone", "rule twice", "condition gone", "one way open", "all gone", "policy", "hook"]
)
def test_a_chain_that_somebody_changed_is_seen(damage: str) -> None:
    made = Guard()
    closed = {"eth0", "eth1"}
    made.put(closed)
    rules, chain = made.nft.rules, made.nft.objects["chain", "forwarding"]
    if damage == "rule gone":
        del rules[0]
    elif damage == "rule twice":
        rules.append(rules[0])
    elif damage == "condition gone":
        del rules[1]["expr"][0]
    elif damage == "one way open":
        rules[1]["expr"][1]["match"]["right"]["set"].remove("eth1")
    elif damage == "all gone":
        rules.clear()
    else:
        chain |= {"policy": "drop"} if damage == "policy" else {"hook": "input"}
    assert not made.closes(closed)
    assert made.chains.read() != {}, "there, but not whole"
    made.put(closed)
    assert made.closes(closed)
    calls = made.nft.calls
    made.chains.read()
    assert made.nft.calls == calls
    made.now += READ_EVERY_S + 1
    made.chains.read()
    assert made.nft.calls == calls + 1


# ---- devices ---------------------------------------------------------------------------------------------------


class Link(dict[str, Any]):
    """A device as netlink tells it."""

    def __init__(self, index: int, name: str, kind: str = "", master: int | None = None, flags: int = 0) -> None:
        super().__init__(index=index, flags=flags)
        info = Attributes(IFLA_INFO_KIND=kind) if kind else None
        self._attributes = {"IFLA_IFNAME": name, "IFLA_MASTER": master, "IFLA_LINKINFO": info}

    def get_attr(self, name: str) -> Any:
        return self._attributes[name]


class Attributes(dict[str, Any]):
    def get_attr(self, name: str) -> Any:
        return self[name]


HOST: Sequence[Link] = (
    Link(1, "lo", flags=0x8),
    Link(2, "eth0"),
    Link(3, "eth1", master=7),
    Link(4, "bond0", "bond"),
    Link(5, "bond0.7", "vlan"),
    Link(6, "docker0", "bridge"),
    Link(7, "br-lan", "bridge"),
    Link(8, "veth1", "veth", master=6),
    Link(9, "wg0", "wireguard"),
    Link(10, "sk-far-1234", "vxlan"),
)


def test_a_bridge_with_hardware_is_the_hosts_and_one_without_is_a_containers() -> None:
    assert outward(HOST) == {"eth0", "eth1", "bond0", "bond0.7", "br-lan", "veth1", "wg0"}


def test_only_hardware_is_closed_when_it_comes_later() -> None:
    assert lasting(HOST) == {"eth0", "eth1", "bond0", "bond0.7"}
