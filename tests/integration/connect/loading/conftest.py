from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from skedge.dataplane.bpf.programs import PROGRAMS
from skedge.loader import bytecode
from skedge.loader.compiling.sources import compilations
from skedge.loader.image import Unit
from tests.kit.bytecode import cache

from ..kit import Host


@pytest.fixture(scope="session")
def units() -> Sequence[Unit]:
    return bytecode.obtain(compilations(PROGRAMS), cache(), None).units


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Host]:
    """A host with nothing loaded."""
    made = Host("fresh", tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("release") / "shipped.bytecode"
