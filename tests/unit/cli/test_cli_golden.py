"""Each table as it is printed, and the frozen keys of each JSON document.

``UPDATE_GOLDEN=1 pytest tests/unit/cli`` writes the files anew; it never drops a key while VERSION stays.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from answers import DOCUMENTS

from skedge.cli import tables
from skedge.core.api.documents import VERSION, Explain, PlanReport, Rows, Status, Sync

GOLDEN = Path(__file__).parent / "golden"
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))
TABLES = [name for name in DOCUMENTS if name not in ("config-check", "purge")]


def text(name: str) -> str:
    document = DOCUMENTS[name]
    if isinstance(document, Rows):
        return tables.rows_text(document, name.split()[1])
    makers: dict[type, Any] = {
        Status: tables.status_text,
        Sync: tables.sync_text,
        Explain: tables.explain_text,
        PlanReport: tables.plan_text,
    }
    return str(makers[type(document)](document))


@pytest.mark.parametrize("name", TABLES)
def test_table(name: str) -> None:
    path = GOLDEN / (name.replace(" ", "-") + ".txt")
    if UPDATE:
        path.write_text(text(name) + "\n")
    assert text(name) + "\n" == path.read_text()


def keys(value: Any, at: str = "") -> set[str]:
    """Return every key of a JSON value with its path; the items of all lists together."""
    if isinstance(value, dict):
        open_ended = at.endswith("service_costs")
        return {at + "." + k for k in value} | {
            found for k, v in value.items() for found in keys(v, f"{at}.{k}") if not open_ended
        }
    if isinstance(value, list):
        return {found for item in value for found in keys(item, at + "[]")}
    return set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_json_keys_are_frozen(name: str) -> None:
    document = json.loads(tables.as_json(DOCUMENTS[name]))
    assert document["version"] == VERSION
    now = {key for key in keys(document) if "service_costs." not in key}
    path = GOLDEN / (name.replace(" ", "-") + ".json")
    frozen = json.loads(path.read_text()) if path.exists() else {"version": VERSION, "keys": []}
    gone = set(frozen["keys"]) - now
    assert not gone or frozen["version"] != VERSION, f"keys went without a new VERSION: {sorted(gone)}"
    if UPDATE:
        path.write_text(json.dumps({"version": VERSION, "keys": sorted(now)}, indent=2) + "\n")
        frozen = json.loads(path.read_text())
    assert frozen == {"version": VERSION, "keys": sorted(now)}, "a new key belongs into the golden file"


def test_no_golden_file_is_left_over() -> None:
    wanted = {name.replace(" ", "-") + ".txt" for name in TABLES} | {
        name.replace(" ", "-") + ".json" for name in DOCUMENTS
    }
    assert {path.name for path in GOLDEN.iterdir()} == wanted


def test_rows_hold_only_the_list_that_was_asked_for() -> None:
    assert set(json.loads(tables.as_json(DOCUMENTS["show links"]))) == {"links", "truncated", "version"}


def test_names_from_other_sites_cannot_drive_the_terminal() -> None:
    row = DOCUMENTS["explain backend"]
    assert isinstance(row, Explain)
    printed = tables.explain_text(Explain("x\x1b[2J\n", "edge-a", row.candidates, "\x9b31m\u202eabc"))
    assert "\x1b" not in printed
    assert "\x9b" not in printed
    assert "\u202e" not in printed
    assert "x\\x1b[2J\\n" in printed
