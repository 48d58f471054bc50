"""A site that the inventory has no more goes from sight with the deploy that took it out."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from skedge.core.linkstate.database import Database
from skedge.core.model import LinkId
from skedge.core.objects import ServiceKey
from skedge.core.placement.explain import explain
from skedge.daemon.api import rows
from skedge.daemon.state import State
from tests.unit.daemon.test_daemon_views import LINE, look, map_of, problems, state_of

GONE = [LinkId("B", "C")]


@pytest.fixture
def state() -> State:
    """A of A - B - C, deployed with C taken out."""
    made = state_of()
    made.config = replace(made.config, removed_sites=("C",))
    return made


def test_it_is_in_no_answer_once_nobody_is_linked_with_it(state: State) -> None:
    state.recompute(map_of(LINE, down=GONE))
    empty = cast(Database, SimpleNamespace(get=lambda _key: None))
    shown = rows.sites(state, empty, engine="ebpf", certificate_days=9.0, software="x")
    assert [row.name for row in shown] == ["A", "B"]
    found = explain(state.facts(), ServiceKey("web"), "A", 1.0)
    assert {row.site for row in found.candidates} == {"A", "B"}
    assert problems(look(state)) == {}


def test_while_it_can_be_reached_it_is_a_site_as_before_and_named(state: State) -> None:
    """Those that were not deployed yet send packets through it; who left it out of the paths alone would make loops."""
    state.recompute(map_of(LINE))
    assert state.rib.path_cost("C") == 30
    severity, cause = problems(look(state))["site C"]
    assert severity == "warning"
    assert "linked with B" in cause


def test_one_that_is_away_and_was_not_taken_out_is_said_to_be_unreachable() -> None:
    state = state_of()
    state.recompute(map_of(LINE, down=GONE))
    assert problems(look(state))["site C"][0] == "error"
