"""Each of our nftables objects after somebody else has changed it: seen, healed by one reconcile, at rest after it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from skedge.core.desired.listener_addresses import REST
from skedge.core.desired.reconcile import reconcile
from skedge.core.model import LinkId, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey, LinkDevice, ListenerKey
from skedge.core.transports import Transport
from skedge.dataplane.ebpf.packet_check import PacketCheckConfig
from skedge.dataplane.ipvs import chains
from skedge.dataplane.ipvs.marks import IpvsRules, Marks
from skedge.dataplane.nftables import arrivals, default_deny, forward_guard, notrack, tunnel_guard
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver
from skedge.dataplane.nftables.default_deny import DefaultDeny
from skedge.dataplane.nftables.table import NftTable
from skedge.dataplane.nftables.tunnel_guard import TunnelGuard, TunnelPeer
from tests.integration.links.kit import CIDR, Namespace
from tests.unit.dataplane import contract
from tests.unit.dataplane.contract import Case

pytestmark = [pytest.mark.needs_root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

CONFIG = PacketCheckConfig(
    "100.64.0.1", "fd00:1:2::1", CIDR, "fd00:1:2::/48", 7401, 7402, (61000, 62999), ephemeral=((32768, 60999),)
)
OTHER = PacketCheckConfig("100.64.0.9", "fd00:1:2::9", CIDR, "fd00:1:2::/48", 7401, 7402, (61000, 62999))
LISTENERS = [ListenerKey("10.0.0.1", 80), ListenerKey("10.0.0.1", 443), ListenerKey("fd00::1", 80)]
ANYWHERE = [ListenerKey(address, port) for address in REST for port in (80, 443)]
PEERS = {"sk-a": TunnelPeer(77, "10.0.0.2", 4790), "sk-b": TunnelPeer(5, "fd00::2", 4790)}
OWNED = (arrivals.OWNED, forward_guard.OWNED, notrack.OWNED, default_deny.OWNED, chains.OWNED)
GROUPS = {
    arrivals.NAME: arrivals.group(CONFIG, translates=True),
    default_deny.NAME: default_deny.group(CONFIG),
    chains.NAME: chains.group(CONFIG),
    forward_guard.NAME: forward_guard.group({"eth0", "eth1"}, CONFIG, translates=True),
    notrack.NAME: notrack.group([*LISTENERS, *ANYWHERE], shared=True),
}
CHAINS = [(name, chain.name, bool(chain.hook)) for name, group in GROUPS.items() for chain in group.chains]
FULL = [one for one in CHAINS if one[1] != chains.ENDPOINTS]
FOREIGN = (
    "add table inet theirs; add chain inet theirs c { type filter hook input priority 0; policy accept; };"
    'add rule inet theirs c ip saddr 192.0.2.1 drop comment "theirs"'
)


@dataclass
class Host:
    """A namespace with all that we have in nftables, and somebody else's table."""

    ns: Namespace
    nft: NftTable = field(default_factory=NftTable)

    def __post_init__(self) -> None:
        self.groups = ChainGroupDriver(self.nft, *OWNED)
        self.guard = TunnelGuard(self.nft)
        self.rules = IpvsRules(self.nft)
        self.ends = DefaultDeny(self.nft, lambda _: "sk-a")

    def sh(self, command: str) -> str:
        """Do what somebody else does; the kernel announces it."""
        out = self.ns.sh(command)
        self.nft.forget()
        return out

    def heals(self, driver: Any, wanted: Mapping[Any, Any], *keys: str) -> None:
        """One reconcile brings exactly these keys back, the next one does nothing."""
        found = self.ns(driver.read)
        assert {key for key in wanted if found.get(key) != wanted[key]} == set(keys)
        assert set(self.ns(reconcile, driver, wanted).changed) == set(keys)
        assert self.ns(driver.read) == wanted
        self.nft.forget()
        assert self.ns(reconcile, driver, wanted).changed == []

    def handle(self, chain: str, which: int) -> int:
        listed = json.loads(self.ns.sh(f"nft -j -a list chain inet skedge {chain}"))["nftables"]
        return [one["rule"]["handle"] for one in listed if "rule" in one][which]


@pytest.fixture(scope="module")
def built() -> Iterator[Host]:
    made = Host(Namespace("nft"))
    try:
        yield made
    finally:
        made.ns.close()


@pytest.fixture
def host(built: Host) -> Iterator[Host]:
    built.sh("nft flush ruleset")
    built.sh(f"nft '{FOREIGN}'")
    for driver, wanted in ((built.groups, GROUPS), (built.guard, PEERS)):
        assert built.ns(reconcile, driver, wanted).clean
    with untouched(built):
        yield built


@contextmanager
def untouched(host: Host) -> Iterator[None]:
    """Nothing but a whole flush changes what is not ours."""
    before = host.ns.sh("nft -a list table inet theirs")
    yield
    if host.ns.sh("nft list tables | grep -c theirs; true").strip() != "0":
        assert host.ns.sh("nft -a list table inet theirs") == before


# ---- chains ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", contract.CHECKS[:-1], ids=lambda one: one.__name__)
def test_groups_keep_the_contract(built: Host, check: Callable[[Case], None]) -> None:
    built.sh("nft flush ruleset")
    samples: dict[Any, Any] = {
        arrivals.NAME: (GROUPS[arrivals.NAME], arrivals.group(OTHER)),
        default_deny.NAME: (GROUPS[default_deny.NAME], default_deny.group(OTHER)),
        chains.NAME: (GROUPS[chains.NAME], chains.group(OTHER)),
        forward_guard.NAME: (GROUPS[forward_guard.NAME], forward_guard.group(set(), OTHER)),
        notrack.NAME: (GROUPS[notrack.NAME], notrack.group([*LISTENERS[:1], *ANYWHERE[:1]], opening=True, shared=True)),
    }
    check(Case(built.groups, samples, call=built.ns))


@pytest.mark.parametrize("check", contract.CHECKS[:-1], ids=lambda one: one.__name__)
def test_sites_addresses_keep_the_contract(built: Host, check: Callable[[Case], None]) -> None:
    built.sh("nft flush ruleset")
    samples: dict[Any, Any] = {
        "sites4": (frozenset({"100.64.0.2", "100.64.0.3"}), frozenset({"100.64.0.3"})),
        "sites6": (frozenset({"fd00:1:2::2"}), frozenset({"fd00:1:2::2", "fd00:1:2::3"})),
    }
    check(Case(arrivals.SiteAddressDriver(built.nft), samples, call=built.ns))


@pytest.mark.parametrize("check", contract.CHECKS[:-1], ids=lambda one: one.__name__)
def test_the_tunnel_guard_keeps_the_contract(built: Host, check: Callable[[Case], None]) -> None:
    built.sh("nft flush ruleset")
    moved = TunnelPeer(77, "10.0.0.3", 4791)
    check(Case(built.guard, {key: (peer, moved) for key, peer in PEERS.items()}, call=built.ns))


@pytest.mark.parametrize("command", ["flush ruleset", "flush table inet skedge", "delete table inet skedge"])
def test_all_gone(host: Host, command: str) -> None:
    host.sh(f"nft {command}")
    host.heals(host.groups, GROUPS, *GROUPS)
    host.heals(host.guard, PEERS, *PEERS)


@pytest.mark.parametrize(("group", "chain", "_hook"), FULL)
@pytest.mark.parametrize("damage", ["first rule", "last rule", "all rules", "stranger first", "stranger last", "order"])
def test_rules_that_somebody_changed(host: Host, group: str, chain: str, _hook: bool, damage: str) -> None:
    first, last = (host.handle(chain, which) for which in (0, -1))
    chain_of = f"inet skedge {chain}"
    text = host.ns.sh(f"nft list chain {chain_of}").splitlines()
    line = next(one.strip() for one in text if 'comment "' in one)
    host.sh(
        {
            "first rule": f"nft delete rule {chain_of} handle {first}",
            "last rule": f"nft delete rule {chain_of} handle {last}",
            "all rules": f"nft flush chain {chain_of}",
            "stranger first": f"nft insert rule {chain_of} accept",
            "stranger last": f"nft add rule {chain_of} counter accept comment theirs",
            "order": f"nft delete rule {chain_of} handle {first}; nft add rule {chain_of} '{line}'",
        }[damage]
    )
    changed = first != last or damage != "order"
    host.heals(host.groups, GROUPS, *([group] if changed else []))


@pytest.mark.parametrize(("group", "chain", "_hook"), [one for one in CHAINS if one[2]])
@pytest.mark.parametrize(
    "place", ["", "{ type filter hook input priority 5; }", "{ type filter hook forward priority -77; policy drop; }"]
)
def test_a_chain_that_is_gone_or_elsewhere(host: Host, group: str, chain: str, _hook: bool, place: str) -> None:
    host.sh(f"nft flush chain inet skedge {chain}; nft delete chain inet skedge {chain}")
    if place:
        host.sh(f"nft add chain inet skedge {chain} '{place}'")
    host.heals(host.groups, GROUPS, group)


@pytest.mark.parametrize(("group", "chain", "_hook"), [one for one in FULL if one[2] and one[1] != chains.SOURCES])
def test_a_policy_that_somebody_changed(host: Host, group: str, chain: str, _hook: bool) -> None:
    host.sh(f"nft chain inet skedge {chain} '{{ policy drop; }}'")
    host.heals(host.groups, GROUPS, group)


def test_counters_go_on_and_elements_stay_when_chains_are_written_anew(host: Host) -> None:
    host.sh("nft delete counter inet skedge not-forwarded 2>/dev/null; nft flush chain inet skedge forwarding")
    host.sh("nft delete counter inet skedge not-forwarded; nft 'add counter inet skedge not-forwarded "
            "{ packets 7 bytes 70 }'; nft 'add element inet skedge published4 { tcp . 61000 }'")  # fmt: skip
    host.heals(host.groups, GROUPS, forward_guard.NAME)
    assert host.ns(host.nft.packets, "test")["not-forwarded"] == 7
    host.sh("nft flush chain inet skedge overlay-in")
    host.heals(host.groups, GROUPS, default_deny.NAME)
    assert "61000" in host.ns.sh("nft list set inet skedge published4")


def test_a_set_of_other_types_is_made_anew(host: Host) -> None:
    host.sh("nft flush chain inet skedge overlay-in; nft delete set inet skedge senders;"
            "nft 'add set inet skedge senders { type ether_addr; }'")  # fmt: skip
    host.heals(host.groups, GROUPS, default_deny.NAME)


# ---- what is in them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["rule", "chain", "stranger", "hook", "policy"])
def test_the_tunnel_guard(host: Host, damage: str) -> None:
    chain, wanted = "inet skedge tunnels", list(PEERS)
    delete = f"nft flush chain {chain}; nft delete chain {chain}"
    host.sh(
        {
            "rule": f"nft delete rule {chain} handle {host.handle('tunnels', 0)}",
            "chain": delete,
            "stranger": f"nft insert rule {chain} accept",
            "hook": f"{delete}; nft add chain {chain} '{{ type filter hook output priority 0; }}'",
            "policy": f"nft chain {chain} '{{ policy drop; }}'",
        }[damage]
    )
    host.heals(host.guard, PEERS, *(wanted[:1] if damage == "rule" else wanted))


def test_the_far_end_of_a_device(host: Host) -> None:
    device = LinkDevice(LinkId("a", "b"), Transport.VXLAN, "fe80::1", "fe80::2")
    group = {**GROUPS, default_deny.NAME: default_deny.group(CONFIG, {"sk-a": device})}
    host.ns(host.groups.put, default_deny.NAME, group[default_deny.NAME])
    assert host.ns(host.ends.protected, 3, device), "told in one step with the chains"
    for command in ("delete element inet skedge neighbours { sk-a . fe80::2 }", "flush set inet skedge senders",
                    "add element inet skedge neighbours { sk-a . fe80::66 }"):  # fmt: skip
        host.sh(f"nft '{command}'")
        assert not host.ns(host.ends.protected, 3, device)
        host.ns(host.ends.protect, 3, device)
        assert host.ns(host.ends.protected, 3, device)


def test_listeners_and_endpoints(host: Host) -> None:
    listener, endpoint = ListenerKey("10.0.0.5", 80), EndpointKey(61000)
    marks, to = Marks((0x5CED0002, 0x5CED0004)), Endpoint(WorkloadId("a", "w"), "127.0.0.1", 9090)

    def put() -> None:
        host.ns(host.rules.put_listeners, {listener: marks})
        host.ns(host.rules.put_endpoint, endpoint, to)

    def picture() -> tuple[Any, ...]:
        held = host.ns(host.rules.read)
        targets = {key: target for key, (target, _) in held.endpoints.items()}
        return held.listeners, targets, held.published, held.chains, held.whole, held.strange

    put()
    before = picture()
    assert before[3] == before[4] == {marks.chain}
    for command in (
        f"flush chain inet skedge {marks.chain}",
        f"insert rule inet skedge {marks.chain} accept",
        f"delete element inet skedge listeners4 {{ 10.0.0.5 . tcp . 80 : goto {marks.chain} }}",
        "flush chain inet skedge endpoints",
        "insert rule inet skedge endpoints accept",
        "add rule inet skedge endpoints tcp dport 61000 counter accept",
        "delete element inet skedge published4 { tcp . 61000 }",
        "add element inet skedge published6 { tcp . 61000 }",
    ):
        host.sh(f"nft '{command}'")
        assert picture() != before, command
        put()
        assert picture() == before, command
    host.heals(host.groups, GROUPS)


def test_what_the_tunnel_guard_wants() -> None:
    guarded = LinkDevice(LinkId("a", "b"), Transport.VXLAN, "fe80::1", "fe80::2", vni=77, remote="10.0.0.2", port=4790)
    bare = LinkDevice(LinkId("a", "c"), Transport.DIRECT, "fe80::1", "fe80::3", underlay="eth0")
    assert tunnel_guard.wanted({"sk-a": guarded, "sk-c": bare}) == {"sk-a": PEERS["sk-a"]}
