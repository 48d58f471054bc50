"""What a site announces and does not have, and what else has the address of a site."""

from __future__ import annotations

import pytest

from skedge.core.routing.surroundings import Surroundings, clashes, too_wide

HOST = ("127.0.0.1/8", "192.168.1.5/24", "fd55::5/64", "fe80::1%eth0/64")


@pytest.mark.parametrize(
    ("prefix", "route", "wide"),
    [
        ("192.168.1.0/24", "", False),
        ("192.168.1.128/25", "", False),
        ("192.168.0.0/16", "192.168.1.0/24", True),
        ("10.0.0.0/8", "", True),
        ("10.1.0.0/16", "10.0.0.0/8", False),
        ("10.0.0.0/8", "10.1.0.0/16", True),
        ("fd55::/64", "", False),
        ("fd55::/48", "fd55::/64", True),
        ("fd66::/48", "fd66::/32", False),
    ],
)
def test_a_prefix_lies_in_a_network_or_a_route_of_the_host(prefix: str, route: str, wide: bool) -> None:
    assert too_wide(Surroundings({prefix: route}), HOST) == ([prefix] if wide else [])


def test_what_has_not_been_looked_up_is_no_problem() -> None:
    assert too_wide(Surroundings(), HOST) == []


def test_a_sites_address_that_is_something_else_too() -> None:
    sites = ("100.64.0.2", "100.64.0.3", "100.72.0.9", "fd00::2")
    around = Surroundings(beside={"100.64.0.2": "a resolver of this host", "100.100.2.136": "a resolver of this host"})
    assert clashes(around, (*HOST, "100.64.0.3/32", "100.72.0.2/24"), sites) == {
        "100.64.0.2": "a resolver of this host",
        "100.64.0.3": "an address of this host",
        "100.72.0.9": "in this host's network 100.72.0.0/24",
    }
    assert clashes(around, HOST, ("100.64.0.7",)) == {}
