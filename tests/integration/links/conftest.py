from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from skedge.core import names
from skedge.core.objects import KernelRoute, NextHop

from .kit import NETWORK, Site, run, veth


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.needs_root)
            item.add_marker(pytest.mark.needs_bpf)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("bpffs")
    run("mount", "-t", "bpf", "linktest", str(path))
    yield path
    run("umount", "-l", str(path))


@pytest.fixture(scope="session")
def site(bpffs: Path) -> Iterator[Site]:
    """One site alone, with a device ``under0`` (10.91.0.1/24) as its underlay."""
    made = Site("solo", bpffs)
    try:
        made.ns.ip("link", "add", "under0", "type", "veth", "peer", "name", "under1")
        made.ns.ip("addr", "add", "10.91.0.1/24", "dev", "under0")
        made.ns.ip("link", "set", "under0", "up")
        made.ns.ip("link", "set", "under1", "up")
        yield made
    finally:
        made.close()


class Line:
    """Sites A - B - C over two vxlan links, with routes everywhere."""

    def __init__(self, bpffs: Path) -> None:
        self.sites: list[Site] = []
        try:
            self.sites = [Site(name, bpffs) for name in ("a", "b", "c")]
            self.a, self.b, self.c = self.sites
            veth(self.a.ns, self.b.ns, "u0", "u0", "10.92.1.1/24", "10.92.1.2/24")
            veth(self.b.ns, self.c.ns, "u1", "u0", "10.92.2.1/24", "10.92.2.2/24")
            for one in self.sites:
                one.put_base()
            self.b.ns(self.b.forwarding.ensure, transit=True)
            self._link(self.a, self.b, "10.92.1.1", "10.92.1.2")
            self._link(self.b, self.c, "10.92.2.1", "10.92.2.2")
            self._route(self.a, "b", self.b, self.c)
            self._route(self.c, "b", self.a, self.b)
            self._route(self.b, "a", self.a)
            self._route(self.b, "c", self.c)
        except BaseException:
            self.close()
            raise

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
        for one in self.sites:
            one.close()


@pytest.fixture(scope="session")
def line(bpffs: Path) -> Iterator[Line]:
    made = Line(bpffs)
    yield made
    made.close()
