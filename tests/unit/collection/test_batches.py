"""How many hosts are deployed at a time."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.skedge.edge.plugins.filter.skedge import skedge_batches

NEW: dict[str, Any] = {"__skedge_preflight": {"host": {"unit": False}}}
OLD: dict[str, Any] = {"__skedge_preflight": {"host": {"unit": True}}}
LOST: dict[str, Any] = {"__skedge_preflight": {"unreachable": True}}


@pytest.mark.parametrize(
    ("hosts", "batches"),
    [
        ([NEW, NEW], "100%"),
        ([NEW, LOST, {}], "100%"),
        ([NEW, OLD, LOST], [1, "25%"]),
        ([OLD | {"skedge_serial": ""}, OLD], [1, "25%"]),
        ([OLD | {"skedge_serial": "100%"}, OLD], "100%"),
        ([OLD, OLD | {"skedge_serial": 2}], 2),
        ([], "100%"),
    ],
)
def test_one_host_goes_first_where_there_is_something_to_lose(hosts: list[dict[str, Any]], batches: object) -> None:
    named = {f"h{number}": one for number, one in enumerate(hosts)}
    assert skedge_batches(named, list(named)) == batches
