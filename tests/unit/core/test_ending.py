"""Which connections are meant, and in what order they are ended."""

from __future__ import annotations

import pytest

from skedge.core.ending import Ends, Open, Selection, batches, gap_s, of_client, of_site, of_workload
from skedge.core.model import Protocol
from skedge.core.objects import Target
from skedge.core.routing.overlay_addresses import SiteAddresses

HERE = SiteAddresses("100.64.0.1", "fd00::1", "100.64.8.1", "fd00::8:1")
THERE = SiteAddresses("100.64.0.2", "fd00::2", "100.64.8.2", "fd00::8:2")
CLIENT = (Target("100.64.0.1", 40000), Target("100.64.0.2", 61000))
SERVER = (Target("100.64.0.1", 61000), Target("100.64.0.2", 40000))
OTHER = (Target("100.64.0.1", 40000), Target("100.64.0.3", 61000))


def held(*sides: tuple[Target, Target], heard_at: float = 0.0, active_at: float = 0.0, **more: bool) -> Open:
    return Open(sides, heard_at=heard_at, active_at=active_at, **more)


def meant(ends: tuple[Ends, ...], *sides: tuple[Target, Target]) -> bool:
    return Selection(ends).means(held(*sides))


def test_a_site_is_at_the_far_end_whoever_opened_the_connection() -> None:
    ends = of_site(THERE, (), HERE)
    assert meant(ends, CLIENT)
    assert meant(ends, SERVER)
    assert not meant(ends, OTHER)
    assert not meant(ends, (CLIENT[1], CLIENT[0])), "what is near is this site's"


@pytest.mark.parametrize("address", ["100.64.8.2", "fd00::2", "fd00::8:2"])
def test_all_addresses_of_a_site_are_its_own(address: str) -> None:
    assert meant(
        of_site(THERE, (), HERE), (Target("fd00::1" if ":" in address else "100.64.0.1", 1), Target(address, 2))
    )


def test_a_client_of_its_lan_under_its_own_address_is_one_at_an_overlay_address_of_ours_only() -> None:
    ends = of_site(THERE, ("10.2.0.0/16", "fd12::/48"), HERE)
    client = Target("10.2.3.4", 5000)
    assert meant(ends, (Target("100.64.0.1", 61000), client))
    assert not meant(ends, (Target("192.168.1.1", 443), client)), "a connection that skedge knows nothing of"
    assert meant(ends, (Target("fd00::1", 61000), Target("fd12::9", 5000)))
    assert of_site(SiteAddresses(), ("fd12::/48",), SiteAddresses(v4="100.64.0.1")) == ()


def test_a_flow_is_meant_by_either_of_its_pairs() -> None:
    outer = (Target("10.0.0.1", 8080), Target("10.0.0.9", 5000))
    assert meant(of_site(THERE, (), HERE), outer, (Target("100.64.8.1", 63000), Target("100.64.0.2", 61000)))
    assert not meant(of_site(THERE, (), HERE), outer, (Target("10.0.0.1", 63000), Target("10.0.0.7", 9090)))
    assert meant(of_client("10.0.0.9"), outer)
    assert meant(of_client("10.0.0.0/24"), outer)
    assert not meant(of_client("10.0.0.9", 5001), outer)


def test_a_workload_is_known_by_where_it_is_reached_and_where_it_serves() -> None:
    ends = of_workload([Target("100.64.0.2", 61000)], [Target("100.64.0.1", 61000)])
    assert meant(ends, CLIENT)
    assert meant(ends, SERVER)
    assert not meant(of_workload([Target("100.64.0.2", 61001)]), CLIENT)


def test_what_was_heard_since_is_left_alone_and_so_is_what_is_not_answered_yet() -> None:
    ends = of_site(THERE, (), HERE)
    since = Selection(ends, silent_since=10.0)
    assert since.means(held(CLIENT, heard_at=9.9))
    assert not since.means(held(CLIENT, heard_at=10.0))
    assert not since.means(held(CLIENT, heard_at=9.9, connecting=True))
    assert Selection(ends, connecting=True).means(held(CLIENT, connecting=True))
    assert not Selection(ends, Protocol.UDP).means(held(CLIENT))


def test_a_pattern_names_something() -> None:
    with pytest.raises(ValueError, match="neither end"):
        Ends()
    assert not Selection(()).means(held(CLIENT))


def test_the_idle_ones_come_first_at_their_rate() -> None:
    found = [held(CLIENT, active_at=at) for at in (3.0, 1.0, 2.0)]
    assert [[one.active_at for one in batch] for batch in batches(found, 20)] == [[1.0, 2.0], [3.0]]
    assert gap_s(2, 20) == 0.1
    assert [len(batch) for batch in batches(found, 1)] == [1, 1, 1]
    assert gap_s(1, 1) == 1.0
