"""Where listeners are: of a host with very many addresses most share one entry, so that tables add up."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from skedge.core.desired.listener_addresses import EXACT_MAX, LOOPBACK, REST, listeners, shared
from skedge.core.model import Listener, Protocol
from tests.fakes.networks import site_config

MANY = [f"10.{number // 250}.{number % 250}.7/24" for number in range(2000)]
TWELVE = tuple(Listener(f"s{port}", port) for port in range(8080, 8092))


def test_entries_and_prefixes_add_up() -> None:
    config = site_config("a", listeners=TWELVE)
    assert len(listeners(config, MANY)) == len(TWELVE) * (EXACT_MAX + len(LOOPBACK) + len(REST))
    assert len(shared(config, MANY)) == len(MANY) - EXACT_MAX


@pytest.mark.parametrize("count", [0, 1, EXACT_MAX, EXACT_MAX + 1, 300])
def test_each_address_is_in_one_of_both(count: int) -> None:
    config = site_config("a", listeners=TWELVE)
    own = {key.address for key in listeners(config, MANY[:count])} - {*LOOPBACK, *REST}
    common = {str(ip_network(one).network_address) for one in shared(config, MANY[:count])}
    assert own | common == {one.partition("/")[0] for one in MANY[:count]}
    assert not own & common
    assert len(own) == min(count, EXACT_MAX)


def test_loopback_and_link_local_addresses_take_no_place() -> None:
    config = site_config("a", listeners=TWELVE)
    assert not shared(config, [*MANY[:EXACT_MAX], "127.0.0.1/8", "::1/128", "fe80::1%eth0/64"])


def test_an_explicit_listener_has_its_own_entry_anywhere() -> None:
    last = max(one.partition("/")[0] for one in MANY)
    explicit = Listener("mine", 8080, last, Protocol.TCP)
    found = listeners(site_config("a", listeners=(*TWELVE, explicit)), MANY)
    assert [one for key, one in found.items() if key.address == last] == [explicit]
