from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.links.kit import run

from .kit import Host


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.needs_root)
            if "ipvs" not in item.path.name:
                item.add_marker(pytest.mark.needs_bpf)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("bpffs")
    run("mount", "-t", "bpf", "registrytest", str(path))
    yield path
    run("umount", "-l", str(path))


@pytest.fixture(scope="module")
def host(bpffs: Path) -> Iterator[Host]:
    """A host with programs, on which nothing was applied yet."""
    made = Host(bpffs)
    try:
        made.load()
        yield made
    finally:
        made.close()
