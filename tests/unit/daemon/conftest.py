from __future__ import annotations

import pytest

from skedge.daemon import controller
from tests.unit.control.authority import Authority
from tests.unit.daemon.kit import NETWORK, FakeWires


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority(NETWORK)


@pytest.fixture
def wireless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Controllers without sockets, in a hurry."""
    monkeypatch.setattr(controller, "Wires", FakeWires)
    monkeypatch.setattr(controller, "HEALTH_WAIT_S", 0.5)
    monkeypatch.setattr(controller, "PROBE_WAIT_S", 0.3)
    monkeypatch.setattr(controller, "UNSYNCED_LOOK_S", 0.01)
    monkeypatch.setattr(controller, "DELETE_WAIT_S", 0.05)
    monkeypatch.setattr(controller, "LOAD_WAIT_S", 0.05)
