"""An upgrade of a host with a LAN: accepted sockets of its clients, and sockets whose packets are led, are stored as
the version before did; and its packet programs work on until the controller has replaced them."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from skedge.core.model import Protocol
from skedge.core.objects import ServiceKey
from skedge.loader import loader, old_placements
from tests.kit import old_version
from tests.kit.rows import set_loop

from ..kit import Site
from ..test_sockets import workload
from ..world import EDGE_A, LISTEN, World, eventually

pytestmark = pytest.mark.long  # four compilations of all programs
OLD = set(old_placements.MAPS)


@pytest.fixture(scope="module")
def standing_world(bpffs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Site A has the programs of the version before."""
    before = old_version.tree(old_version.SMALL_PLACEMENTS, tmp_path_factory.mktemp("before"))
    of_now = Site._load

    def load(site: Site, pin_dir: str, programs: Sequence) -> None:
        if site.name != "near":
            return of_now(site, pin_dir, programs)
        options = loader.Options(Path(pin_dir), site._cgroup, programs=tuple(programs), nat_flows=site.nat_flows)
        site._loader = loader.Loader(options)
        site.ns.patience_s = 600
        return site.ns(old_version.load, before, Path(pin_dir), site._cgroup, programs, site.nat_flows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Site, "_load", load)
        made = World(bpffs)
    try:
        yield made
    finally:
        made.close()


def told(world: World, bound: bool) -> socket.socket:
    made = world.socket(world.a.ns, socket.SOCK_DGRAM, EDGE_A[4])
    if bound:
        made.bind((EDGE_A[4], 0))
    made.connect((EDGE_A[4], LISTEN))
    return made


def echo(made: socket.socket) -> None:
    made.send(b"?")
    assert made.recv(9) == b"?"


def maps(world: World) -> set[str]:
    return {pin.name for pin in Path(world.a.pin_dir).iterdir()} & OLD


def attach(world: World) -> None:
    """What a controller does when it starts."""
    world.a.ns(set_loop)
    for name, value in world.a.ns(world.a.lan.devices, ["lan0", "lan1"]).items():
        world.a.ns(world.a.lan.put, name, value)


def test_upgrade(world: World) -> None:
    web, dns = ServiceKey("web", Protocol.TCP), ServiceKey("dns", Protocol.UDP)
    _, near = workload(world, "near", 4)
    _, there = workload(world, "there", 4, kind=socket.SOCK_DGRAM)
    world.a.service([near], (EDGE_A[4], LISTEN))
    world.a.service([there], (EDGE_A[4], LISTEN), name="dns", protocol=Protocol.UDP)

    def open_(key: ServiceKey) -> int:
        return sum(one.open for (service, _), one in world.a.engine.counts().items() if service == key)

    passive = [world.connect(world.client, (EDGE_A[4], LISTEN)) for _ in range(3)]
    eventually(lambda: not list(world.a.flows.records()), "the sockets have taken over")
    own = world.connect(world.a.ns, (EDGE_A[4], LISTEN))
    led, plain = told(world, bound=True), told(world, bound=False)
    echo(led)
    echo(plain)
    assert (open_(web), open_(dns)) == (4, 2)

    assert world.a.ns(world.a._loader.load)
    assert maps(world) == OLD
    assert (open_(web), open_(dns)) == (4, 2)
    passive.append(world.connect(world.client, (EDGE_A[4], LISTEN)))  # by packet programs of the version before
    fresh = told(world, bound=True)
    for one in (led, plain, fresh):
        echo(one)
    assert (open_(web), open_(dns)) == (5, 3)
    attach(world)
    for one in (led, plain, fresh):
        echo(one)
    for one in (*passive, own):
        one.sendall(b"x")
        assert one.recv(1) == b"x"
    receipts = list(world.a.engine.connections())
    clients = sorted("{}:{}".format(*one.getsockname()) for one in (*passive, own))
    assert sorted(one.client for one in receipts if one.service == web) == clients
    assert len(receipts) == 8
    assert world.a.engine.reconcile_counts() == 0

    for index, one in enumerate(passive):
        one.close()
        eventually(lambda index=index: open_(web) == 4 - index, f"{index + 1} closed")
    own.close()
    plain.close()
    eventually(lambda: (open_(web), open_(dns)) == (0, 2), "all but the flows")
    assert not world.a.ns(world.a._loader.load)  # a socket of before is known to be led by what lies in the old storage
    echo(led)
    led.close()
    assert world.a.ns(world.a._loader.load)
    assert maps(world) == set()
    attach(world)
    echo(fresh)
    assert not world.a.ns(world.a._loader.load)
    assert world.a.engine.reconcile_counts() == 0
