"""Hosts with thousands of addresses: tables and work add up with addresses and listeners, they do not multiply.

(Before, 2,000 addresses and 12 listeners were 24,000 entries: more than the table holds, tried again every second; each
that went took a look at all others, so the watchdog killed the controller and a deleted port was still served.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from skedge.core.desired.listener_addresses import EXACT_MAX
from skedge.core.errors import ApiError
from skedge.dataplane.ebpf.maps import Maps
from skedge.dataplane.ebpf.prefix_table import HOST_MAP, PrefixTable

from .kit import Line, Site, running, telling, until

ADDRESSES = {
    4: [f"10.{64 + number // 250}.{number % 250}.7" for number in range(2000)],
    6: [f"fd64::{number // 250 + 1:x}:{number % 250 + 1:x}:7" for number in range(2000)],
}
MORE = {4: "10.200.0.7", 6: "fd99::7"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
PORTS = range(8080, 8092)
ENTRIES_MAX = len(PORTS) * (EXACT_MAX + 4)  # with two loopback addresses, and one entry a family for all others
SERVED, REFUSED = 0, 111
CONNECT = """
import json, socket, sys
def end(address, port):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as made:
        made.settimeout(5)
        return made.connect_ex((address, port))
print(json.dumps([end(*one) for one in json.loads(sys.argv[1])]))
"""


class Crowded(Line):
    """One site with very many addresses, and a dozen listeners on all of them."""

    NAMES, LINKS = "w", ()  # the line of the other tests has "a" to "c"
    family = 4

    @property
    def addresses(self) -> list[str]:
        return ADDRESSES[self.family]

    def build(self) -> None:
        super().build()
        site, batch = self.sites["w"], self.directory / "addresses"
        lines = ["link add many type veth peer name others", "link set many up", "link set others up"]
        batch.write_text("\n".join([*lines, *(self.address("add", one) for one in self.addresses)]))
        site.inside("ip", "-batch", batch)

    def address(self, verb: str, one: str) -> str:
        """An `ip` command, without its first word."""
        return f"addr {verb} {one}/32 dev many" if self.family == 4 else f"addr {verb} {one}/128 dev many nodad"

    def document(self, name: str, costs: Any = None) -> dict[str, Any]:
        listeners = [{"service": "web", "port": port} for port in PORTS]
        return super().document(name, costs) | {"listeners": listeners}

    def settle(self, sites: Any = "w") -> None:
        until(lambda: at_rest(self.sites["w"]), 30, "at rest")


def at_rest(site: Site) -> bool:
    """Whether the kernel has all that is wanted; a controller that is busy answers later."""
    try:
        return site.works() and set(site.reasons().values()) == {"none"} and site.at_rest()
    except ApiError:
        return False


class CrowdedIPv6(Crowded):
    """The same with addresses of IPv6."""

    family = 6


@pytest.fixture(scope="module", params=[Crowded, CrowdedIPv6], ids=["IPv4", "IPv6"])
def running_crowd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowded]:
    with running(request.param(tmp_path_factory.mktemp("crowded"))) as made:
        yield made


@pytest.fixture
def crowd(running_crowd: Crowded, request: pytest.FixtureRequest) -> Iterator[Crowded]:
    with telling(running_crowd, request.session):
        yield running_crowd
        running_crowd.sites["w"].write()
        running_crowd.sites["w"].reload()
        running_crowd.settle()


def ends(crowd: Crowded, *places: tuple[str, int]) -> list[int]:
    """How connects of a client on the host end, as errno."""
    site = crowd.sites["w"]
    enter = f'echo $$ > {site.cgroup}/cgroup.procs && exec "$@"'
    command = ("/usr/bin/python3", "-c", CONNECT, json.dumps(places))
    found: list[int] = json.loads(site.inside("sh", "-c", enter, "sh", *command).stdout)
    return found


def everywhere(crowd: Crowded, port: int) -> list[tuple[str, int]]:
    """Addresses of all parts of the host's, in no order that a table could have."""
    of_host = crowd.addresses
    return [(address, port) for address in (LOOPBACK[crowd.family], *of_host[::97], of_host[-1])]


def changed(crowd: Crowded, since: int) -> int:
    """How many objects the controller changed since its log had this size."""
    return sum(map(int, re.findall(r"op=reconcile changed=(\d+)", crowd.sites["w"].log_since(since))))


def entries(crowd: Crowded) -> tuple[int, int]:
    """How many entries of listeners the programs have, and prefixes that share one."""
    pins = str(crowd.sites["w"].pin_dir)
    return len(Maps(pins).listeners()), len(PrefixTable(pins, HOST_MAP).read())


def test_every_address_is_served_from_tables_that_add_up(crowd: Crowded) -> None:
    for port in PORTS:
        assert set(ends(crowd, *everywhere(crowd, port))) == {SERVED}
    listeners, prefixes = entries(crowd)
    assert listeners <= ENTRIES_MAX
    assert len(crowd.addresses) - EXACT_MAX <= prefixes <= len(crowd.addresses)
    assert changed(crowd, 0) < ENTRIES_MAX + 3 * len(crowd.addresses)
    [row] = [one for one in crowd.sites["w"].rows("listeners") if one.port == PORTS[0]]
    assert set(crowd.addresses) <= set(row.addresses)


def test_a_deleted_port_is_refused_at_every_address_after_as_many_changes_as_it_had_entries(crowd: Crowded) -> None:
    site = crowd.sites["w"]
    since, gone = site.log_size(), PORTS[0]
    site.write(listeners=[{"service": "web", "port": port} for port in PORTS if port != gone])
    site.reload()
    until(lambda: set(ends(crowd, *everywhere(crowd, gone))) == {REFUSED}, 5, "the deleted port is refused")
    assert set(ends(crowd, *everywhere(crowd, PORTS[1]))) == {SERVED}
    until(lambda: at_rest(site), 10, "at rest")
    assert 0 < changed(crowd, since) <= EXACT_MAX + 4
    assert site.daemon is not None
    assert site.daemon.poll() is None


def test_an_explicit_listener_goes_before_one_on_every_address(crowd: Crowded) -> None:
    site, own = crowd.sites["w"], (crowd.addresses[0], crowd.addresses[-1])
    explicit = [{"service": "nobody", "port": PORTS[0], "address": address} for address in own]
    site.write(listeners=[{"service": "web", "port": PORTS[0]}, *explicit])
    site.reload()
    until(lambda: set(ends(crowd, *((one, PORTS[0]) for one in own))) == {REFUSED}, 5, "nobody serves there")
    others = [(address, port) for address, port in everywhere(crowd, PORTS[0]) if address not in own]
    assert set(ends(crowd, *others)) == {SERVED}


def test_an_address_that_comes_and_goes_costs_a_few_changes(crowd: Crowded) -> None:
    site, more = crowd.sites["w"], MORE[crowd.family]
    assert ends(crowd, (more, PORTS[0])) != [SERVED]
    since = site.log_size()
    site.inside("ip", *crowd.address("add", more).split())
    until(lambda: ends(crowd, (more, PORTS[0])) == [SERVED], 5, "the new address is served")
    site.inside("ip", *crowd.address("del", more).split())
    until(lambda: ends(crowd, (more, PORTS[0])) != [SERVED], 5, "and no longer")
    until(lambda: at_rest(site), 10, "at rest")
    assert changed(crowd, since) <= 4 * (len(PORTS) + 2)
