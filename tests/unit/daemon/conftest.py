from __future__ import annotations

import pytest

from skedge.daemon.loop import life
from tests.unit.control.authority import Authority
from tests.unit.daemon.kit import NETWORK


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority(NETWORK)


@pytest.fixture
def wireless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Controllers in a hurry."""
    monkeypatch.setattr(life, "HEALTH_WAIT_S", 0.5)
    monkeypatch.setattr(life, "PROBE_WAIT_S", 0.3)
    monkeypatch.setattr(life, "UNSYNCED_LOOK_S", 0.01)
    monkeypatch.setattr(life, "DELETE_WAIT_S", 0.05)
    monkeypatch.setattr(life, "LOAD_WAIT_S", 0.05)
