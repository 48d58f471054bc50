"""Which connections are told that their path is back, and how often."""

from __future__ import annotations

from ipaddress import ip_address
from math import inf

import pytest

from skedge.core.objects import KernelRoute, NextHop
from skedge.core.stalls import Outage, Stalled, StallKind, messages, returned, towards


def sixteen(address: str) -> bytes:
    plain = ip_address(address)
    return bytes(10) + b"\xff\xff" + plain.packed if plain.version == 4 else plain.packed


def stalled(far: str, kind: StallKind = StallKind.SENT, **more: int) -> Stalled:
    return Stalled(kind, sixteen("100.64.0.1"), 1000, sixteen(far), 61000, sixteen(far), 7, **more)


def route(*devices: str) -> KernelRoute:
    return KernelRoute(tuple(NextHop(one, "fe80::1") for one in devices), "100.64.0.1")


def test_what_came_or_leads_another_way_is_news() -> None:
    before = {"100.64.0.2/32": route("sk-b"), "100.64.0.3/32": route("sk-b"), "100.64.0.4/32": route("sk-b")}
    after = {"100.64.0.2/32": route("sk-b"), "100.64.0.3/32": route("sk-c"), "100.64.0.5/32": route("sk-b")}
    assert returned(before, after) == {"100.64.0.3/32", "100.64.0.5/32"}
    assert returned({}, before) == before.keys()


@pytest.mark.parametrize(
    ("far", "reached"),
    [
        ("100.64.0.2", True),
        ("100.64.0.3", False),
        ("fd77::2", True),
        ("fd77::3", False),
        ("10.94.1.255", True),
        ("10.94.2.0", False),
        ("fd10:94::ffff", True),
        ("fd10:94:0:1::1", False),
        ("::a5e:101", False),  # the bits of 10.94.1.1, and IPv6
    ],
)
def test_hosts_and_networks_of_both_families(far: str, reached: bool) -> None:
    destinations = {"100.64.0.2/32", "fd77::2/128", "10.94.1.0/24", "fd10:94::/64"}
    assert bool(towards(destinations, [stalled(far)])) is reached


def test_a_flow_has_doubled_at_most_as_often_as_there_was_time_for() -> None:
    assert messages(stalled("100.64.0.2", backoff=9), 16) == 9
    waited = {400: 2, 1400: 3, 3000: 4, 6200: 5, 600_000: 12}
    assert {ms: messages(stalled("fd77::2", StallKind.FLOW, unanswered_ms=ms), 16) for ms in waited} == waited


def test_doublings_beyond_the_longest_time_out_are_taken_back_besides() -> None:
    expected = {1: 1, 4: 4, 9: 4, 10: 5, 15: 10}
    assert {one: messages(stalled("100.64.0.2", backoff=one), 4) for one in expected} == expected


def test_an_outage_is_looked_at_less_and_less_often_and_not_for_ever() -> None:
    outage, now, looks = Outage(), 100.0, list[float]()
    assert not outage.due(now)
    outage.begin(now, {"100.64.0.2/32", "fd77::2/128"})
    while outage.look_at < inf:
        now = outage.look_at
        assert outage.due(now)
        assert not outage.due(now)
        looks.append(now - 100)
    assert looks[:6] == [1, 2, 3, 4, 5, 6.25]
    assert 930 < looks[-1] < 950
    assert len(looks) < 100


def test_an_outage_ends_with_the_last_of_its_destinations() -> None:
    outage = Outage()
    outage.begin(100.0, {"100.64.0.2/32", "fd77::2/128"})
    outage.end({"100.64.0.2/32", "100.64.0.3/32"})
    assert outage.look_at == 101.0
    outage.end({"fd77::2/128"})
    assert outage.look_at == inf
