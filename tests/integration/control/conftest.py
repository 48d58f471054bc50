"""Fixtures: a pair of joined namespaces, and the network's CA."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.integration.control.netns import Pair, pair
from tests.unit.control.authority import Authority


@pytest.fixture
def joined() -> Iterator[Pair]:
    if os.geteuid() != 0:
        pytest.skip("needs root for network namespaces")
    with pair() as it:
        yield it


@pytest.fixture
def authority() -> Authority:
    return Authority()
