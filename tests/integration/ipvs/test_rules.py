"""What the engine `ipvs` does by nftables alone, on any kernel: default deny, endpoints, source addresses."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from skedge.core import names
from skedge.core.model import WorkloadId
from skedge.core.objects import Endpoint, EndpointKey, KernelRoute, NextHop
from skedge.core.reasons import Reason
from skedge.dataplane.ipvs.marks import IpvsRules
from tests.integration.links.kit import NETWORK, listen, veth

from .kit import CONTROL_PORT, ENDPOINT, WORKLOAD, Site, dial, server

LAN = "10.93.0.5"


class Pair:
    """Sites x and y over one link; web of y on 127.0.0.1 and on its IPv6 overlay address."""

    def __init__(self, stack: ExitStack) -> None:
        self.x, self.y = (Site(name, engine=False) for name in ("x", "y"))
        for site in (self.x, self.y):
            stack.callback(site.close)
        veth(self.x.ns, self.y.ns, "u0", "u0", "10.92.1.1/24", "10.92.1.2/24")
        self.x.ns.ip("addr", "add", f"{LAN}/32", "dev", "u0")
        self.rules = IpvsRules(self.y.nft)
        for site in (self.x, self.y):
            site.put_base()
            site.put_chains()
        for one, other, own, far in (
            (self.x, self.y, "10.92.1.1", "10.92.1.2"),
            (self.y, self.x, "10.92.1.2", "10.92.1.1"),
        ):
            one.ns(one.links.put, one.device(other.name), one.vxlan(other.name, own, far))
        for one, other in ((self.x, self.y), (self.y, self.x)):
            device = one.device(other.name)
            for prefix, via, source in (
                (f"{other.overlay4}/32", names.GATEWAY4, one.overlay4),
                (f"{other.overlay6}/128", str(names.link_local(NETWORK, other.name)), one.overlay6),
            ):
                one.ns(one.routes.put, prefix, KernelRoute((NextHop(device, via),), source))
        self.servers = [server("four", self.y.ns, "127.0.0.1"), server("six", self.y.ns, self.y.overlay6)]
        for one in self.servers:
            stack.callback(one.close)
        for port, host in ((ENDPOINT, "127.0.0.1"), (ENDPOINT + 1, self.y.overlay6)):
            self.y.ns(self.rules.put_endpoint, EndpointKey(port), Endpoint(WorkloadId("y", "w"), host, WORKLOAD))

    def refused(self, address: str, port: int) -> None:
        with pytest.raises(TimeoutError):
            self.x.ns(socket.create_connection, (address, port), 0.5)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(stack)


def test_links_are_whole_under_this_check(pair: Pair) -> None:
    for site in (pair.x, pair.y):
        assert [one.link_local for one in site.ns(site.links.read).values()] == [site.link_local]


def test_an_endpoint_leads_to_the_workload_on_127_0_0_1_and_of_ipv6(pair: Pair) -> None:
    for address, port, name in ((pair.y.overlay4, ENDPOINT, "four"), (pair.y.overlay6, ENDPOINT + 1, "six")):
        made, said = pair.x.ns(dial, address, port)
        made.close()
        assert said == name
    assert pair.servers[1].peers[-1] == pair.x.overlay6


def test_what_leaves_from_another_address_gets_the_sites_own(pair: Pair) -> None:
    before = len(pair.servers[0].peers)
    with pair.x.ns(socket.create_connection, (pair.y.overlay4, ENDPOINT), 5, (LAN, 0)) as made:
        assert made.recv(16) == b"four"
    assert pair.servers[0].peers[before:] == [pair.x.overlay4]


def test_an_endpoint_that_is_replaced_or_gone_lets_nothing_new_in(pair: Pair) -> None:
    key, was = EndpointKey(ENDPOINT + 7), Endpoint(WorkloadId("y", "z"), "127.0.0.1", WORKLOAD)
    pair.y.ns(pair.rules.put_endpoint, key, was)
    kept, _ = pair.x.ns(dial, pair.y.overlay4, key.port)
    pair.y.ns(pair.rules.put_endpoint, key, Endpoint(was.workload, pair.y.overlay6, WORKLOAD))
    pair.refused(pair.y.overlay4, key.port)
    made, said = pair.x.ns(dial, pair.y.overlay6, key.port)
    made.close()
    assert said == "six"
    pair.y.ns(pair.rules.delete_endpoint, key)
    pair.refused(pair.y.overlay6, key.port)
    with kept:
        pair.servers[0].held[-1].sendall(b"still")
        assert kept.recv(5) == b"still", "open connections go on"


def test_nothing_else_comes_in_and_each_refusal_is_counted(pair: Pair) -> None:
    with pair.y.ns(listen, "::", 22), pair.y.ns(listen, "::", 61500):
        for address in (pair.y.overlay4, pair.y.overlay6):
            for port in (22, 61500, CONTROL_PORT, WORKLOAD):
                before = pair.y.drops().get(Reason.NOT_PUBLISHED, 0)
                pair.refused(address, port)
                assert pair.y.drops()[Reason.NOT_PUBLISHED] > before
        pair.refused(f"{pair.y.link_local}%{pair.x.device('y')}", 22)
        assert pair.y.drops()[Reason.NOT_NEIGHBOUR] > 0
        device = pair.x.device("y")
        pair.x.ns.ip("route", "add", "10.92.1.77/32", "via", names.GATEWAY4, "dev", device, "onlink", "table", "7400")
        pair.refused("10.92.1.77", 22)
        assert pair.y.drops()[Reason.NOT_OVERLAY] > 0


def test_control_and_probes_of_the_neighbour_come_in(pair: Pair) -> None:
    near = f"{pair.y.link_local}%{pair.x.device('y')}"
    with pair.y.ns(listen, "::", CONTROL_PORT) as control:
        pair.x.ns(socket.create_connection, (near, CONTROL_PORT), 3).close()
        control.accept()[0].close()
    assert "1 received" in pair.x.ns.sh(f"ping -c1 -W3 {near}", check=False)
