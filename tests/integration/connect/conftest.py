from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from .kit import Host, Site


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.needs_root)
            item.add_marker(pytest.mark.needs_bpf)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session", autouse=True)
def many_descriptors() -> Iterator[None]:
    """Clients and servers of a thousand connections live in this one process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, 8192)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, max(hard, wanted)))


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The programs as they are shipped, loaded once."""
    made = Host("host", tmp_path_factory.mktemp("bpffs"))
    try:
        made.load()
        yield made
    finally:
        made.close()


@pytest.fixture
def site(host: Host) -> Iterator[Site]:
    """A fresh site; the test runs inside its host. Nothing may stay counted afterwards."""
    with host.inside():
        made = Site(host)
        try:
            yield made
        finally:
            made.clean()
