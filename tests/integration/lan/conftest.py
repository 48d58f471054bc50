from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.links.kit import run

from .kit import Bench, Site, make_bench
from .wire import Wire
from .world import World


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
    run("mount", "-t", "bpf", "lantest", str(path))
    yield path
    run("umount", "-l", str(path))


@pytest.fixture(scope="session")
def standing(bpffs: Path) -> Iterator[Bench]:
    site = Site("edge", bpffs)
    try:
        yield make_bench(site)
    finally:
        site.engine.close()
        site.close()


@pytest.fixture
def bench(standing: Bench) -> Iterator[Bench]:
    """The site with no service and no flow; nothing may stay counted that no flow holds."""
    yield standing
    standing.site.end_flows()
    assert list(standing.site.flows.records()) == []
    assert standing.site.open() == 0
    for _, workload in standing.site.engine.suspended():
        standing.site.engine.resume(workload)
    for listener in list(standing.site.engine.listeners.read()):
        standing.site.engine.listeners.delete(listener)
    for service in list(standing.site.engine.services.read()):
        standing.site.engine.services.delete(service)


@pytest.fixture
def wire(bench: Bench) -> Iterator[Wire]:
    made = Wire(bench)
    yield made
    made.socket.close()


@pytest.fixture(scope="module")
def standing_world(bpffs: Path) -> Iterator[World]:
    """Two edge hosts and their machines; a module with another kind of them has a fixture of its own by this name."""
    made = World(bpffs)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def world(standing_world: World) -> Iterator[World]:
    """The hosts with no service and no flow; nothing may stay counted."""
    yield standing_world
    standing_world.clean()
