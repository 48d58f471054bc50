from __future__ import annotations

from dataclasses import replace

from skedge.core import names
from skedge.core.desired.compute import compute
from skedge.core.model import SiteConfig
from skedge.core.reasons import Reason
from skedge.core.records import NetworkMap
from skedge.core.routing.overlay_addresses import SiteAddresses, Skipped, nat_sources, plain_address, site_addresses
from skedge.core.routing.rib import compute as compute_rib
from tests.fakes.networks import configs, map_of

CONFIGS = configs([("A", "B", 1), ("B", "C", 1)])
MAP = map_of(CONFIGS)


def with_claim(site: str, **claim: str) -> NetworkMap:
    return replace(MAP, links={**MAP.links, site: replace(MAP.links[site], **claim)})


def test_every_site_has_the_addresses_it_says() -> None:
    addresses, skipped = site_addresses(CONFIGS["A"], MAP)
    assert addresses == {site: SiteAddresses(one.overlay4, one.overlay6) for site, one in CONFIGS.items()}
    assert skipped == ()


def test_a_site_alone_knows_its_own_addresses() -> None:
    addresses, _ = site_addresses(CONFIGS["A"], NetworkMap({}, {}))
    assert addresses == {"A": SiteAddresses(CONFIGS["A"].overlay4, CONFIGS["A"].overlay6)}


def test_an_address_outside_the_overlay_is_refused() -> None:
    addresses, skipped = site_addresses(CONFIGS["A"], with_claim("B", overlay4="8.8.8.8", overlay6="2001:db8::1"))
    assert addresses["B"] == SiteAddresses()
    assert skipped == (
        Skipped("address", "B: 8.8.8.8", Reason.NOT_OVERLAY),
        Skipped("address", "B: 2001:db8::1", Reason.NOT_OVERLAY),
    )


def test_a_site_without_an_address_claims_none() -> None:
    addresses, skipped = site_addresses(CONFIGS["A"], with_claim("B", overlay4=""))
    assert addresses["B"] == SiteAddresses("", CONFIGS["B"].overlay6)
    assert skipped == ()


def test_nobody_takes_this_sites_own_address() -> None:
    mine = CONFIGS["C"].overlay4
    addresses, skipped = site_addresses(CONFIGS["C"], with_claim("A", overlay4=mine))
    assert (addresses["A"].v4, addresses["C"].v4) == ("", mine)
    assert skipped == (Skipped("address", f"A: {mine}", Reason.DUPLICATE_ADDRESS),)


def test_an_address_claimed_twice_goes_to_the_site_it_is_derived_from() -> None:
    addresses, skipped = site_addresses(CONFIGS["B"], with_claim("A", overlay6=CONFIGS["C"].overlay6))
    assert (addresses["A"].v6, addresses["C"].v6) == ("", CONFIGS["C"].overlay6)
    assert skipped == (Skipped("address", f"A: {CONFIGS['C'].overlay6}", Reason.DUPLICATE_ADDRESS),)


def test_an_address_set_by_hand_at_two_sites_goes_to_the_first_by_name() -> None:
    links = {site: replace(MAP.links[site], overlay4="100.100.0.1") for site in "AC"}
    addresses, _ = site_addresses(CONFIGS["B"], replace(MAP, links={**MAP.links, **links}))
    assert (addresses["A"].v4, addresses["C"].v4) == ("100.100.0.1", "")


# ---- addresses of LAN clients on other sites ---------------------------------------------------------------------

NAT = {site: (f"100.64.9.{index}", names.nat_address6("lab", site).compressed) for index, site in enumerate("ABC", 1)}


def with_nat(**changed: tuple[str, str]) -> NetworkMap:
    claims = {**NAT, **changed}
    links = {site: replace(record, nat4=claims[site][0], nat6=claims[site][1]) for site, record in MAP.links.items()}
    return replace(MAP, links=links)


def own_config(site: str) -> SiteConfig:
    return replace(CONFIGS[site], nat4=NAT[site][0], nat6=NAT[site][1])


def test_every_site_has_the_nat_addresses_it_says() -> None:
    addresses, skipped = site_addresses(own_config("A"), with_nat())
    assert {site: (one.nat4, one.nat6) for site, one in addresses.items()} == NAT
    assert skipped == ()


def test_a_nat_address_that_another_site_is_reached_under_or_outside_the_overlay_is_nobodys() -> None:
    taken, outside = (CONFIGS["C"].overlay4, NAT["A"][1]), ("8.8.8.8", NAT["B"][1])
    addresses, skipped = site_addresses(own_config("A"), with_nat(B=taken))
    assert (addresses["B"].nat4, addresses["B"].nat6, addresses["C"].v4) == ("", "", CONFIGS["C"].overlay4)
    assert site_addresses(own_config("A"), with_nat(B=outside))[0]["B"].nat4 == ""
    assert skipped == ()


def test_a_nat_address_claimed_twice_is_this_sites_first() -> None:
    stolen = with_nat(B=NAT["A"])
    assert site_addresses(own_config("A"), stolen)[0]["A"].nat4 == NAT["A"][0]
    assert site_addresses(own_config("A"), stolen)[0]["B"].nat4 == ""


def test_nat_addresses_are_used_towards_other_sites_only_when_all_of_them_know_the_way_back() -> None:
    own = site_addresses(own_config("A"), with_nat())[0]["A"]
    assert nat_sources(own_config("A"), with_nat(), own) == NAT["A"]
    assert nat_sources(own_config("A"), with_nat(C=("", "")), own) == ("", "")
    assert nat_sources(own_config("A"), NetworkMap({}, {}), own) == NAT["A"]


def test_there_are_routes_to_the_nat_addresses_of_the_others_and_the_own_ones_are_local() -> None:
    config, network_map = own_config("A"), with_nat()
    rib = compute_rib(network_map, "A")
    desired = compute(config, rib, network_map, host_addresses=[NAT["A"][0]], endpoint_ports={}, health={}, others={})
    assert {f"{NAT[site][0]}/32" for site in "BC"} | {f"{NAT[site][1]}/128" for site in "BC"} < set(desired.routes)
    assert {f"{NAT['A'][0]}/32", f"{NAT['A'][1]}/128"} < set(desired.addresses)
    assert not any(key.address == NAT["A"][0] for key in desired.listeners)  # nobody connects there
    without_lan = replace(config, lan=replace(config.lan, devices=()))
    desired = compute(without_lan, rib, network_map, host_addresses=[], endpoint_ports={}, health={}, others={})
    assert len(desired.addresses) == 2


def test_plain_address_takes_length_and_zone_and_no_names() -> None:
    assert str(plain_address("10.0.0.1/24")) == "10.0.0.1"
    assert str(plain_address("fe80::1%eth0")) == "fe80::1"
    assert plain_address("db.example") is None
