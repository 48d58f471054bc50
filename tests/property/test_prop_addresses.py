"""Addresses given out over many deployments: nobody's changes, and no two sites ever have the same."""

from __future__ import annotations

import datetime as dt
from ipaddress import ip_address, ip_network

from ansible_collections.skedge.edge.plugins.plugin_utils.address_register import HELD_DAYS, Register
from ansible_collections.skedge.edge.plugins.plugin_utils.host import Host
from ansible_collections.skedge.edge.plugins.plugin_utils.overlay import assign, clashes, said
from hypothesis import given, settings
from hypothesis import strategies as st

CIDR = "10.9.0.0/27"  # so small that names meet all the time
SITES = [f"edge-{number}" for number in range(12)]
START = dt.date(2026, 1, 1)
WRITTEN = st.sampled_from(["", "", "", "10.9.0.5", "10.9.0.6"])
DEPLOYMENT = st.tuples(
    st.sets(st.sampled_from(SITES), min_size=1), st.integers(0, 2 * HELD_DAYS),
    st.dictionaries(st.sampled_from(SITES), WRITTEN),
)  # fmt: skip


def hosts_of(sites: set[str], written: dict[str, str]) -> list[Host]:
    return [
        Host(site, {"skedge_overlay_address": written[site]} if written.get(site) else {}) for site in sorted(sites)
    ]


@settings(max_examples=300, deadline=None)
@given(st.lists(DEPLOYMENT, min_size=1, max_size=8))
def test_addresses_over_deployments(deployments: list[tuple[set[str], int, dict[str, str]]]) -> None:
    register, today = Register("demo"), START
    for sites, days, written in deployments:
        today += dt.timedelta(days)
        every = [said(host) for host in hosts_of(sites, written)]
        if list(clashes(every, register, "demo")):
            continue  # refused: nothing changes
        before = register
        register, problems = assign(every, before, CIDR, today)
        if problems:  # no room: nothing changes
            assert len([one for one in register.sites.values() if one.held(today)]) * 2 > 8
            register = before
            continue
        _never_twice(register, today)
        for site in sites:
            had, has = before.deployed.get(site), register.sites[site]
            assert not has.gone
            assert has.overlay_address == written.get(site) or not written.get(site)
            if had is not None and not written.get(site):
                assert (has.overlay_address, has.overlay_address6) == (had.overlay_address, had.overlay_address6)
        _kept_for_those_who_left(before, register, today)


def _never_twice(register: Register, today: dt.date) -> None:
    held = [address for one in register.sites.values() if one.held(today) for address in one.addresses]
    assert len(set(held)) == len(held)
    network = ip_network(CIDR)
    for address in map(ip_address, held):
        assert address.version == 6 or (address in network and address not in (network[0], network[-1]))


def _kept_for_those_who_left(before: Register, after: Register, today: dt.date) -> None:
    """What a site left lately is nobody else's, unless the inventory's own word gave it away."""
    for site, one in before.sites.items():
        if site not in after.sites:
            taken = {address for other in after.deployed.values() for address in other.addresses}
            assert not one.held(today) or {"10.9.0.5", "10.9.0.6"} & taken & set(one.addresses)
