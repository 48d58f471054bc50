from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .kit import Clients, Line, running, telling

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.needs_root)
            item.add_marker(pytest.mark.needs_bpf)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session")
def running_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with running(Line(tmp_path_factory.mktemp("line"))) as made:
        yield made


@pytest.fixture
def line(running_line: Line, request: pytest.FixtureRequest) -> Iterator[Line]:
    """The line at rest; what a test changed is put back, and the daemons' logs are shown when it failed."""
    running_line.settle()
    with telling(running_line, request.session):
        yield running_line


@pytest.fixture
def clients(line: Line) -> Iterator[Clients]:
    """Clients at A; closed before the next test."""
    made = Clients(line.sites["a"])
    yield made
    made.quit()
