from __future__ import annotations

from dataclasses import replace

from skedge.core.model import NetworkMap
from skedge.core.reasons import Reason
from skedge.core.routing.overlay_addresses import SiteAddresses, Skipped, plain_address, site_addresses
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


def test_plain_address_takes_length_and_zone_and_no_names() -> None:
    assert str(plain_address("10.0.0.1/24")) == "10.0.0.1"
    assert str(plain_address("fe80::1%eth0")) == "fe80::1"
    assert plain_address("db.example") is None
