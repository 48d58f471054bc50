from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from skedge.core import names
from skedge.core.objects import KernelRoute, NextHop, ServiceTable
from skedge.dataplane.engine_choice import has_ipvs
from tests.integration.links.kit import NETWORK, Namespace, veth

from .kit import WEB, Clients, Server, Site, candidate, server

HOST, HOST6, CLIENT, CLIENT6 = "10.93.0.5", "fd93::5", "10.93.0.99", "fd93::99"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.needs_root)
            needs_ipvs = item.path.name not in ("test_rules.py", "test_leftover.py")
            if needs_ipvs:
                item.add_marker(pytest.mark.needs_ipvs)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root"))
            elif needs_ipvs and not has_ipvs():
                item.add_marker(pytest.mark.skip(reason="this kernel has no IPVS; make vm-test runs it on Debian's"))


class Line:
    """Sites a -10- b -20- c, a LAN client at a; web is served at each, at b on 127.0.0.1 for IPv4."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        self.sites = [self._closing(Site(name)) for name in ("a", "b", "c")]
        self.a, self.b, self.c = self.sites
        self.lan = self._closing(Namespace("vlan"))
        veth(self.a.ns, self.b.ns, "u0", "u0", "10.92.1.1/24", "10.92.1.2/24")
        veth(self.b.ns, self.c.ns, "u1", "u0", "10.92.2.1/24", "10.92.2.2/24")
        veth(self.a.ns, self.lan, "lan0", "lan0", f"{HOST}/24", f"{CLIENT}/24")
        self.a.ns.ip("addr", "add", f"{HOST6}/64", "dev", "lan0", "nodad")
        self.lan.ip("addr", "add", f"{CLIENT6}/64", "dev", "lan0", "nodad")
        for one in self.sites:
            one.put_base()
        self._link(self.a, self.b, "10.92.1.1", "10.92.1.2")
        self._link(self.b, self.c, "10.92.2.1", "10.92.2.2")
        self._route(self.a, "b", self.b, self.c)
        self._route(self.c, "b", self.a, self.b)
        self._route(self.b, "a", self.a)
        self._route(self.b, "c", self.c)
        self.servers = [
            self._closing(server("a", self.a.ns, HOST)),
            self._closing(server("a6", self.a.ns, HOST6)),
            self._closing(server("b", self.b.ns, "127.0.0.1")),
            self._closing(server("c", self.c.ns, self.c.overlay6)),
        ]
        self.b.publish("127.0.0.1")
        self.c.publish(self.c.overlay6)
        self.serve()
        for address in (HOST, HOST6):
            self.a.listen(address)

    def table(self, **of_a) -> ServiceTable:
        """IPv4 is served at a and b, IPv6 at a and c."""
        return ServiceTable(
            (
                candidate(self.a, 0, here=HOST, here6=HOST6, **of_a),
                candidate(self.b, 10, target6=None),
                candidate(self.c, 20, target4=None),
            )
        )

    def serve(self, **of_a) -> None:
        self.a.serve(self.table(**of_a), WEB)

    def _closing(self, made: Site | Namespace | Server):
        self.stack.callback(made.close)
        return made

    def _link(self, one: Site, other: Site, local: str, remote: str) -> None:
        one.ns(one.links.put, one.device(other.name), one.vxlan(other.name, local, remote))
        other.ns(other.links.put, other.device(one.name), other.vxlan(one.name, remote, local))

    def _route(self, at: Site, via: str, *to: Site) -> None:
        hop = NextHop(at.device(via), str(names.link_local(NETWORK, via)))
        gateway = NextHop(at.device(via), names.GATEWAY4)
        for far in to:
            at.ns(at.routes.put, f"{far.overlay4}/32", KernelRoute((gateway,), at.overlay4))
            at.ns(at.routes.put, f"{far.overlay6}/128", KernelRoute((hop,), at.overlay6))

    def close(self) -> None:
        self.stack.close()


@pytest.fixture(scope="session")
def built() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


@pytest.fixture
def line(built: Line) -> Iterator[Line]:
    """The line with nothing open: what an earlier test closed is forgotten by the kernel at once."""
    for site in built.sites:
        site.ns.sh("sysctl -qw net.ipv4.vs.drop_entry=0")
    built.serve()
    yield built
    built.serve()


@pytest.fixture(params=["host", "lan"])
def clients(request: pytest.FixtureRequest, line: Line) -> Iterator[Clients]:
    made = Clients(line.a.ns if request.param == "host" else line.lan)
    yield made
    made.close()
