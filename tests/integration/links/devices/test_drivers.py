"""The real drivers keep the contract, and what is not ours stays as it is."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey, RouteUse
from skedge.dataplane.bpf import tc, tcx
from skedge.dataplane.purge import purge
from skedge.dataplane.routing.rules import RuleDriver, wanted, wanted_for_lans
from tests.kit.rows import configure_check
from tests.unit.dataplane import samples
from tests.unit.dataplane.contract import Case, check

from ..kit import KERNEL, Site, run

PREFIX6 = "fd00:64::/48"


@pytest.fixture
def base(site: Site) -> Iterator[Site]:
    """The site with its overlay addresses and two plain devices to route over; nothing of ours afterwards."""
    for name in ("p0", "p1"):
        site.ns.ip("link", "add", name, "type", "veth", "peer", "name", f"{name}x")
        site.ns.ip("link", "set", name, "up")
        site.ns.ip("link", "set", f"{name}x", "up")
    yield site
    site.ns(purge, site.netlink, ("100.64.0.0/10", PREFIX6), site.state)
    for name in ("p0", "p1"):
        site.ns.ip("link", "del", name, check=False)
    for key in site.endpoints.read():
        site.endpoints.delete(key)
    for prefix in site.prefixes.read():
        site.prefixes.delete(prefix)


def _case(kind: str, site: Site) -> Case:
    if kind == "links":
        return Case(site.links, *samples.links("under0"), call=site.ns)
    if kind == "addresses":
        return Case(site.addresses, *samples.addresses(), call=site.ns)
    if kind == "endpoints":
        return Case(site.endpoints, *samples.endpoints(), call=site.ns)
    if kind == "rules":
        overlays = (("100.64.0.0/10", PREFIX6), ("100.96.0.0/11", "fd00:65::/48"))
        owns = (("100.64.0.1", "fd00:64::1"), ("100.96.0.1", "fd00:65::1"))
        first, second = (
            {**wanted(one[1], own, ("100.64.9.9", "fd00:64::9")), **wanted_for_lans(*one, (53, 9053))}
            for one, own in zip(overlays, owns, strict=True)
        )
        return Case(RuleDriver(site.netlink), {key: (first[key], second[key]) for key in first}, call=site.ns)
    for address in (f"{samples.OWN4}/32", f"{samples.OWN6}/128"):
        site.ns(site.addresses.put, address, "lo")
    return Case(site.routes, *samples.routes("p0", "p1"), call=site.ns)


@pytest.mark.parametrize("kind", ["links", "addresses", "routes", "rules", "endpoints"])
@check
def test_contract(base: Site, kind: str, check: Callable[[Case], None]) -> None:
    check(_case(kind, base))


def test_the_programs_know_the_prefixes_that_have_a_route(base: Site) -> None:
    case = _case("routes", base)
    assert case.reconcile({**case.wanted(), **case.refused}).failed.keys() == case.refused.keys()
    lans = {key: one for key, one in case.wanted().items() if one.use is not RouteUse.OVERLAY}
    assert base.prefixes.read() == {key: int(one.use is RouteUse.CLIENTS) for key, one in lans.items()}
    base.prefixes.delete("10.33.0.0/16")
    base.prefixes.put("fd99::/48", 1)
    base.ns.ip("-6", "route", "flush", "table", "7401")
    assert case.reconcile(case.wanted()).clean
    assert case.read() == case.wanted(), "what does not agree is repaired"
    assert base.prefixes.read().keys() == lans.keys()
    case.reconcile({})
    assert base.prefixes.read() == {}


def test_only_packets_from_the_overlay_are_led_to_lans(base: Site) -> None:
    for name in ("addresses", "rules", "routes"):
        case = _case(name, base)
        case.refused = {}
        assert case.reconcile(case.wanted()).clean
    base.ns.sh("ip addr add 10.7.0.1/24 dev p0; ip route add default via 10.7.0.9")

    def way(*words: str) -> str:
        return base.ns.sh(f"ip -4 route get {' '.join(words)} 2>&1", check=False).split("\n")[0]

    assert "via 10.7.0.9" in way("10.33.1.1"), "the host's own go as ever"
    assert "via 10.7.0.9" in way("10.33.1.1", "from 10.7.0.1")
    assert "169.254.74.1" in way("10.33.1.1", "from 100.64.0.1")
    assert "169.254.74.1" in way("10.33.1.1", "ipproto udp sport 9053")
    assert "via 10.7.0.9" in way("10.33.1.1", "ipproto udp sport 9054")
    assert "via 10.7.0.9" in way("10.35.7.1", "ipproto udp sport 9053"), "this host has a network of that"
    assert "169.254.74.1" in way("10.35.7.1", "from 100.64.0.1"), "which may pass through all the same"
    base.ns.ip("addr", "add", "100.64.7.7/32", "dev", "p0")
    assert "via 10.7.0.9" in way("192.0.2.1", "from 100.64.7.7"), "an address of the host's in the overlay's range"
    base.ns.ip("addr", "del", "100.64.7.7/32", "dev", "p0")
    assert "unreachable" in way("192.0.2.1", f"from {samples.OWN4}")
    base.ns.sh("ip addr del 10.7.0.1/24 dev p0")


def _settle(site: Site) -> None:
    """Wait until no address is tentative any more: routes of theirs come then."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and site.ns.ip("-6", "addr", "show", "tentative"):
        time.sleep(0.1)


def _picture(site: Site) -> list[str]:
    """Return everything of the namespace that is not a counter or a timer."""
    commands = (
        "ip -j link | jq -c '.[] | {ifname, ifalias, mtu, operstate, address}'",
        "ip -j addr | jq -c '.[] | {ifname, a: [.addr_info[] | {local, prefixlen, scope}]}'",
        "for f in -4 -6; do ip $f -j rule; ip $f -j route show table all; done | jq -c '.[]'",
        "ip -j neigh show nud permanent | jq -c '.[] | {dst, dev, lladdr}'; tc qdisc; nft list ruleset",
    )
    return [line for command in commands for line in sorted(site.ns.sh(command).splitlines())]


def test_foreign_objects_are_untouched(base: Site) -> None:
    site = base
    foreign = (
        "ip addr add 10.7.0.1/24 dev p0; ip addr add 192.0.2.7/32 dev lo; ip addr add fd77::1/64 dev p0 nodad",
        "ip route add 198.51.100.0/24 via 10.7.0.9; ip route add 203.0.113.0/24 dev p0 table 7400",
        "ip rule add priority 7400 from 10.7.0.0/24 table 77; ip rule add priority 99 table 7400",
        "ip link add sk-theirs type veth peer name theirs1; ip link set sk-theirs up",
        "ip link add sk-vxlan type vxlan id 5 dstport 4790 remote 10.91.0.77; ip link set sk-vxlan up",
        "ip link set sk-vxlan alias 'my own'",
        "tc qdisc add dev p0 clsact",
        "nft add table inet theirs; nft add chain inet theirs c",
    )
    for command in foreign:
        site.ns.sh(command)
    _settle(site)
    before = _picture(site)
    everything = [_case(kind, site) for kind in ("addresses", "links", "rules", "routes")]
    for case in everything:
        case.refused = {}
        assert case.reconcile(case.wanted()).clean
        assert case.read() == case.wanted()
    with pytest.raises(DataplaneError, match="not ours"):
        site.ns(site.links.put, "sk-vxlan", samples.links("under0")[0][samples.VXLAN][0])
    assert _picture(site) != before
    for case in reversed(everything):
        for key in list(case.read()):
            case.delete(key)
    for name in ("sk-theirs", "sk-vxlan"):
        site.ns(site.links.delete, name)
    site.ns(site.nft.remove)
    assert _picture(site) == before
    assert purged(site) == []
    assert _picture(site) == before
    site.ns.sh(
        "ip link del sk-theirs; ip link del sk-vxlan; nft delete table inet theirs; ip addr del 192.0.2.7/32 dev lo;"
        "ip rule del priority 7400 from 10.7.0.0/24; ip rule del priority 99"
    )


def purged(site: Site) -> list[str]:
    return site.ns(purge, site.netlink, ("100.64.0.0/10", PREFIX6), site.state)


def test_purge_removes_everything_of_ours_and_may_be_repeated(base: Site) -> None:
    site = base
    _settle(site)
    before = _picture(site)
    for kind in ("addresses", "links", "rules", "routes"):
        case = _case(kind, site)
        for key, value in case.wanted().items():
            case.put(key, value)
    removed = purged(site)
    assert {line.split()[0] for line in removed} == {"route", "rule", "device", "address", "table"}
    assert _picture(site) == before
    assert purged(site) == []


def _put_vxlan(site: Site) -> tuple[str, object]:
    value = samples.links("under0")[0][samples.VXLAN][0]
    site.ns(site.links.put, samples.VXLAN, value)
    return samples.VXLAN, value


@pytest.mark.parametrize(
    "damage",
    [
        "ip link set sk-far-1 down",
        "ip link set sk-far-1 mtu 1290",
        "ip addr flush dev sk-far-1",
        "ip neigh flush dev sk-far-1 nud permanent",
        "detach ingress",
        "detach egress",
        "detach",
        "sysctl -qw net.ipv4.conf.sk-far-1.rp_filter=1",
        "sysctl -qw net.ipv4.conf.sk-far-1.forwarding=0",
        "sysctl -qw net.ipv4.ip_forward=1 && sysctl -qw net.ipv4.ip_forward=0",
        "sysctl -qw net.ipv6.conf.sk-far-1.accept_ra=1",
        pytest.param(
            "sysctl -qw net.ipv6.conf.sk-far-1.force_forwarding=0",
            marks=pytest.mark.skipif(KERNEL < (6, 17), reason="forwarding of one device is a switch since Linux 6.17"),
        ),
    ],
)
def test_damage_is_seen_and_repaired(base: Site, damage: str) -> None:
    key, value = _put_vxlan(base)
    index = base.ns(base.netlink.index, key)
    if damage.startswith("detach"):
        base.ns(base.filter.detach, index, *damage.split()[1:])
    else:
        base.ns.sh(damage)
    assert base.ns(base.links.read)[key] != value
    base.ns(base.links.put, key, value)
    assert base.ns(base.links.read)[key] == value
    assert base.ns(base.netlink.index, key) == index, "repaired, not made anew"


def test_a_missing_guard_is_seen_and_repaired(base: Site) -> None:
    key, value = _put_vxlan(base)
    base.ns.sh("nft flush chain inet skedge tunnels")
    base.nft.forget()  # as after READ_EVERY_S
    assert base.ns(base.links.read)[key] != value
    base.ns(base.links.put, key, value)
    assert base.ns(base.links.read)[key] == value


def test_mtu_follows_the_underlay(base: Site) -> None:
    key, value = _put_vxlan(base)
    link = json.loads(base.ns.ip("-j", "link", "show", key))[0]
    assert link["mtu"] == 1450
    base.ns.ip("link", "set", "under0", "mtu", "1400")
    try:
        assert base.ns(base.links.read)[key] != value
        base.ns(base.links.put, key, value)
        assert base.ns(base.links.read)[key] == value
        assert json.loads(base.ns.ip("-j", "link", "show", key))[0]["mtu"] == 1350
        base.ns.ip("link", "set", "under0", "mtu", "1300")
        with pytest.raises(DataplaneError, match="1280"):
            base.ns(base.links.put, key, value)
    finally:
        base.ns.ip("link", "set", "under0", "mtu", "1500")


def test_no_route_to_the_far_end_is_no_reason_to_touch_a_device(base: Site) -> None:
    key, value = _put_vxlan(base)
    base.ns.ip("link", "set", "under0", "down")
    try:
        assert base.ns(base.links.read)[key] == value
    finally:
        base.ns.ip("link", "set", "under0", "up")


def test_the_check_is_on_before_the_device_is_up(base: Site) -> None:
    seen: list[tuple[bool, bool]] = []
    real = base.filter

    class Watched:
        def protect(self, index: int, device) -> None:
            real.protect(index, device)
            state = base.netlink.dump("links", index=index)[0]["flags"] & 1
            seen.append((bool(state), real.protected(index, device)))

        protected, forget = real.protected, real.forget

    driver = type(base.links)(base.netlink, Watched(), base.guard, base.wireguard)
    base.ns(driver.put, samples.VXLAN, samples.links("under0")[0][samples.VXLAN][0])
    assert seen == [(False, True)]


def test_a_new_version_of_the_programs_replaces_the_old_one(base: Site, bpffs) -> None:
    key, value = _put_vxlan(base)
    index = base.ns(base.netlink.index, key)
    old = base.ns(base.filter.attached, index)
    run("rm", f"{base.pin_dir}/link_ingress_v1", f"{base.pin_dir}/link_egress_v1")
    from ..kit import load_programs

    load_programs(base.pin_dir)
    assert base.ns(base.links.read)[key] != value
    base.ns(base.links.put, key, value)
    new = base.ns(base.filter.attached, index)
    assert base.ns(base.links.read)[key] == value
    assert set(new) == {"ingress", "egress"}
    assert not set(old.values()) & set(new.values())
    assert all(len(ids) == 1 for ids in new.values())
    assert _programs_on(base, index) == dict.fromkeys(new, 1)
    base.ns(base.filter.detach, index)
    base.ns(base.filter.detach, index)
    assert base.ns(base.filter.attached, index) == {}
    assert _programs_on(base, index) == {}


def _programs_on(base: Site, index: int) -> dict[str, int]:
    """How many programs there are in all, ours or not."""
    if tcx.supported():
        ids = {way: base.ns(tcx.programs, index, kind) for way, kind in tcx.TYPES.items()}
        return {way: len(found) for way, found in ids.items() if found}
    return dict.fromkeys(base.ns(tc.attached, index), 1)


def test_only_what_udp_and_old_kernels_need_runs_at_egress(base: Site) -> None:
    key, value = _put_vxlan(base)
    index = base.ns(base.netlink.index, key)
    needed = {"ingress"} if KERNEL >= (6, 6) else {"ingress", "egress"}
    try:
        configure_check(base.filter, replace(base.config, udp=False))
        assert (base.ns(base.links.read)[key] == value) == (KERNEL < (6, 6))
        base.ns(base.links.put, key, value)
        assert base.ns(base.links.read)[key] == value
        assert set(base.ns(base.filter.attached, index)) == needed
    finally:
        configure_check(base.filter, base.config)
    base.ns(base.links.put, key, value)
    assert set(base.ns(base.filter.attached, index)) == {"ingress", "egress"}


def test_a_direct_link_leaves_the_operators_device_alone(base: Site) -> None:
    _settle(base)
    before = base.ns.ip("-d", "addr", "show", "under0")
    value = samples.links("under0")[0][samples.DIRECT][0]
    base.ns(base.links.put, samples.DIRECT, value)
    assert base.ns.sh("tc qdisc show dev under0").count("clsact") == 0
    assert base.ns.sh("tc filter show dev under0 ingress") == ""
    base.ns(base.links.delete, samples.DIRECT)
    assert base.ns.ip("-d", "addr", "show", "under0") == before
    with pytest.raises(DataplaneError, match="eth9"):
        base.ns(base.links.put, samples.DIRECT, replace(value, underlay="eth9"))


def test_ipv6_switched_off_elsewhere_does_not_matter_to_links(base: Site) -> None:
    base.ns.sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
    try:
        key, value = _put_vxlan(base)
        assert base.ns(base.links.read)[key] == value
    finally:
        base.ns.sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=0")


def test_ipv6_switched_off_on_lo_is_said(base: Site) -> None:
    base.ns.sh("sysctl -qw net.ipv6.conf.lo.disable_ipv6=1")
    try:
        with pytest.raises(DataplaneError, match="disable_ipv6"):
            base.ns(base.addresses.put, f"{samples.OWN6}/128", "lo")
    finally:
        base.ns.sh("sysctl -qw net.ipv6.conf.lo.disable_ipv6=0; ip addr replace ::1/128 dev lo")


def test_overlay_traffic_without_a_route_does_not_leave(base: Site) -> None:
    for key, value in wanted(PREFIX6, ("100.64.0.1", "fd00:64::1"), ("100.64.0.99",)).items():
        base.ns(base.rules.put, key, value)
    base.ns.sh("ip route add default via 10.91.0.9")
    with pytest.raises(OSError) as caught:
        base.ns(socket.create_connection, ("100.64.0.99", 80), 2)
    assert caught.value.errno == 113  # EHOSTUNREACH at once
    assert "via 10.91.0.9" in base.ns.ip("route", "get", "100.64.0.98"), "no site's address: the host's own business"
    base.ns.sh("ip route del default")


def test_two_udp_endpoints_of_one_workload_address_are_refused(base: Site) -> None:
    one, two = EndpointKey(61000, Protocol.UDP), EndpointKey(61001, Protocol.UDP)
    base.endpoints.put(one, Endpoint(WorkloadId("a", "x"), "127.0.0.1", 53))
    with pytest.raises(DataplaneError, match="a/x"):
        base.endpoints.put(two, Endpoint(WorkloadId("a", "y"), "127.0.0.1", 53))
    assert list(base.endpoints.read()) == [one]
