"""Which announced LANs count, and what follows from them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skedge.core.desired.site_routes import first_links, prefix_routes
from skedge.core.model import EngineKind, SiteConfig
from skedge.core.objects import RouteUse
from skedge.core.reasons import Reason
from skedge.core.records import NetworkMap
from skedge.core.routing.lan_prefixes import Prefixes, _Ranges, judge, parse_prefix
from skedge.core.routing.overlay_addresses import Skipped
from skedge.core.routing.rib import compute as compute_rib
from tests.fakes.networks import SERVICE, configs, desired_at, map_of

CONFIGS = configs([("A", "B", 10), ("B", "C", 20)], "ABC")


def announcing(**prefixes: tuple[str, ...]) -> tuple[dict[str, SiteConfig], NetworkMap]:
    made = {site: replace(one, prefixes=prefixes.get(site, ())) for site, one in CONFIGS.items()}
    return made, map_of(made)


def overlapping(*keys: str) -> tuple[Skipped, ...]:
    return tuple(Skipped("prefix", key, Reason.OVERLAPPING_PREFIX) for key in keys)


@pytest.mark.parametrize("good", ["10.1.0.0/16", "192.168.1.0/24", "203.0.113.7/32", "fd12:3456::/48", "2001:db8::/32"])
def test_prefixes_of_lans(good: str) -> None:
    assert parse_prefix(good) == ip_network(good)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ("lan", "not a prefix; give one such as 10.1.0.0/16 or fd12:3456::/48"),
        ("10.1.0.0/33", "not a prefix; give one such as 10.1.0.0/16 or fd12:3456::/48"),
        ("10.1.2.3/16", "not in its one form; give 10.1.0.0/16"),
        ("10.1.2.3", "not in its one form; give 10.1.2.3/32"),
        ("FD00:0::/48", "not in its one form; give fd00::/48"),
        ("10.0.0.0/7", "shorter than /8; give the LAN's own prefix"),
        ("fc00::/8", "shorter than /16; give the LAN's own prefix"),
        ("0.0.0.0/0", "not for hosts of a LAN; give their prefix, such as 10.1.0.0/16"),
        ("::/0", "not for hosts of a LAN; give their prefix, such as 10.1.0.0/16"),
        ("127.0.0.0/8", "not for hosts of a LAN; give their prefix, such as 10.1.0.0/16"),
        ("224.0.0.0/8", "not for hosts of a LAN; give their prefix, such as 10.1.0.0/16"),
        ("169.254.1.0/24", "not for hosts of a LAN; give their prefix, such as 10.1.0.0/16"),
        ("fe80::/64", "not for hosts of a LAN; give their prefix, such as 10.1.0.0/16"),
        ("::ffff:10.1.0.0/112", "not for hosts of a LAN; give their prefix, such as 10.1.0.0/16"),
        ("::ffff:a01:0/112", "not for hosts of a LAN; give their prefix, such as 10.1.0.0/16"),
    ],
)
def test_what_is_none(bad: str, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_prefix(bad)
    assert str(caught.value) == sentence


def test_all_sites_agree_on_who_has_which() -> None:
    configs, network = announcing(A=("10.1.0.0/16", "fd01::/48"), B=("10.1.2.0/24", "10.2.0.0/16"), C=("10.0.0.0/8",))
    found = {site: judge(config, network, ()) for site, config in configs.items()}
    refused = overlapping("B: 10.1.2.0/24", "C: 10.0.0.0/8")
    assert found["A"] == Prefixes(("10.1.0.0/16", "fd01::/48"), {"10.2.0.0/16": "B"}, frozenset(), refused)
    assert found["B"].own == ("10.2.0.0/16",)
    assert found["C"].own == ()
    assert found["B"].others == {"10.1.0.0/16": "A", "fd01::/48": "A"}
    assert found["C"].others == {**found["B"].others, "10.2.0.0/16": "B"}


def test_the_overlay_is_nobodys() -> None:
    inside = str(ip_network(f"{CONFIGS['A'].overlay6}/64", strict=False))
    _, network = announcing(A=("100.64.0.0/16", inside, "100.0.0.0/8"))
    found = judge(CONFIGS["B"], network, ())
    assert found.others == {}
    assert {one.key for one in found.skipped} == {"A: 100.64.0.0/16", f"A: {inside}", "A: 100.0.0.0/8"}


def test_a_network_of_this_host_is_refused_here_only() -> None:
    configs, network = announcing(A=("10.1.0.0/16", "10.2.0.0/16"))
    found = judge(configs["B"], network, ("127.0.0.1/8", "10.1.7.1/24", "fe80::1%eth0/64", "100.64.0.5/32"))
    assert found.refused == {"10.1.0.0/16"}
    assert found.skipped == overlapping("A: 10.1.0.0/16")
    assert set(found.others) == {"10.1.0.0/16", "10.2.0.0/16"}
    routes = prefix_routes(configs["B"], first_links(compute_rib(network, "B")), found)
    assert {key: route.use for key, route in routes.items()} == {
        "10.1.0.0/16": RouteUse.TRANSIT, "10.2.0.0/16": RouteUse.CLIENTS,
    }  # fmt: skip


def test_a_site_with_ipvs_takes_no_clients_of_others() -> None:
    sites, network_map = announcing(B=("10.1.0.0/16",))
    found = judge(replace(sites["A"], engine=EngineKind.IPVS), network_map, ())
    assert found.refused == {"10.1.0.0/16"}
    assert [one.reason for one in found.skipped] == [Reason.ENGINE]


def test_routes_go_where_the_site_is() -> None:
    configs, network = announcing(A=("10.1.0.0/16", "fd01::/48"))
    wanted = desired_at(configs["C"], network)
    own = {4: configs["A"].overlay4 + "/32", 6: configs["A"].overlay6 + "/128"}
    for prefix, v in (("10.1.0.0/16", 4), ("fd01::/48", 6)):
        assert wanted.routes[prefix] == replace(wanted.routes[own[v]], use=RouteUse.CLIENTS)
    assert wanted.announced
    assert desired_at(configs["A"], network).prefixes == {"10.1.0.0/16", "fd01::/48"}
    gone = replace(network, links={"C": network.links["C"], "A": network.links["A"]})
    assert desired_at(configs["C"], gone).routes == {}, "no way to A"
    assert desired_at(configs["C"], gone).announced, "but the rules stay, so that nothing leaves another way"
    assert not desired_at(CONFIGS["C"], map_of(CONFIGS)).announced


def test_only_sites_that_take_the_clients_get_them_untranslated() -> None:
    configs, network = announcing(A=("10.1.0.0/16",))

    def preserving(network_map: NetworkMap, at: str = "A") -> dict[str, bool]:
        table = desired_at(configs[at], network_map).services[SERVICE]
        return {one.workload.site: one.preserves_src for one in table.candidates}

    assert preserving(network) == {"A": False, "B": True, "C": True}
    refusing = replace(network.links["B"], refused=("10.1.0.0/16",))
    assert preserving(replace(network, links={**network.links, "B": refusing})) == {"A": False, "B": False, "C": True}
    assert preserving(network, "B") == {"A": False, "B": False, "C": False}, "B announces nothing"


networks = st.builds(
    lambda number, length: ip_network((number >> (32 - length) << (32 - length), length)),
    st.integers(0, 255).map(lambda number: number << 20), st.integers(10, 24),
)  # fmt: skip


@given(st.lists(networks, max_size=12), networks)
def test_ranges_find_what_looking_at_each_finds(held: list[object], asked: object) -> None:
    ranges = _Ranges()
    for one in held:
        ranges.add(one)
    assert ranges.overlap(asked) == any(asked.overlaps(one) for one in held)
