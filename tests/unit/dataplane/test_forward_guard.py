"""The forward guard against an nft in memory, and which devices of a host are closed."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from skedge.dataplane.nftables.forward_guard import ForwardGuard
from skedge.dataplane.nftables.tunnel_guard import READ_EVERY_S
from skedge.dataplane.routing.ipv6_forwarding import lasting, outward


class FakeNft:
    """Executes our scripts as nft would, and prints sets in an order of its own."""

    def __init__(self) -> None:
        self.rules: dict[str, list[dict[str, Any]]] = {}
        self.calls = 0

    def __call__(self, script: Mapping[str, Any] | None) -> Mapping[str, Any]:
        self.calls += 1
        for command in (script or {}).get("nftables", []):
            ((verb, what),) = command.items()
            if (verb, *what) == ("add", "chain"):
                self.rules.setdefault(what["chain"]["name"], [])
            elif (verb, *what) == ("flush", "chain"):
                self.rules[what["chain"]["name"]].clear()
            elif (verb, *what) == ("add", "rule"):
                self.rules[what["rule"]["chain"]].append(json.loads(json.dumps(what["rule"])))
        listed = [{"rule": self._printed(rule)} for rules in self.rules.values() for rule in rules]
        counter = {"counter": {"name": "not-forwarded", "packets": 7}}
        return {"nftables": [counter, *listed]} if self.rules else {}

    @staticmethod
    def _printed(rule: dict[str, Any]) -> dict[str, Any]:
        printed = copy.deepcopy(rule)
        for part in printed["expr"]:
            right = part.get("match", {}).get("right")
            if isinstance(right, dict):
                right["set"].reverse()
        return printed


def guard() -> tuple[ForwardGuard, FakeNft, list[float]]:
    nft, now = FakeNft(), [0.0]
    return ForwardGuard(nft, lambda: now[0]), nft, now


@pytest.mark.parametrize("closed", [set(), {"eth0"}, {"eth1", "eth0", "wlan0"}])
def test_what_is_written_is_read(closed: set[str]) -> None:
    made, nft, _ = guard()
    assert made.read() is None
    assert made.dropped() == 0
    made.put(closed)
    assert made.read() == closed
    assert len(nft.rules["forwarding"]) == 1 + bool(closed)
    made.put({"eth7"})
    assert made.read() == {"eth7"}
    assert made.dropped() == 7


def test_nothing_but_links_packets_goes_into_links_and_all_families_are_meant() -> None:
    made, nft, _ = guard()
    made.put(set())
    (rule,) = nft.rules["forwarding"]
    said = [(m["match"]["left"]["meta"]["key"], m["match"]["op"], m["match"]["right"]) for m in rule["expr"][:2]]
    assert said == [("iifname", "!=", "sk-*"), ("oifname", "==", "sk-*")]
    assert rule["expr"][2:] == [{"counter": "not-forwarded"}, {"drop": None}]


@pytest.mark.parametrize("damage", ["rule gone", "rule twice", "condition gone", "one way open", "all gone"])
def test_a_chain_that_somebody_changed_is_seen(damage: str) -> None:
    made, nft, now = guard()
    made.put({"eth0", "eth1"})
    rules = nft.rules["forwarding"]
    if damage == "rule gone":
        del rules[0]
    elif damage == "rule twice":
        rules.append(rules[0])
    elif damage == "condition gone":
        del rules[1]["expr"][0]
    elif damage == "one way open":
        rules[1]["expr"][1]["match"]["right"]["set"].remove("eth1")
    else:
        rules.clear()
    assert made.read() is None
    made.put({"eth0", "eth1"})
    assert made.read() == {"eth0", "eth1"}
    calls = nft.calls
    made.read()
    assert nft.calls == calls
    now[0] += READ_EVERY_S + 1
    made.read()
    assert nft.calls == calls + 1


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
