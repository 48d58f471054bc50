"""docs/cli.md says what the command is."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import msgspec
import pytest

from skedge.cli import reference
from skedge.cli.options import EXIT_CODES
from skedge.core.api import documents, shown
from skedge.core.errors import ExitCode

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"


def test_the_page_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKEDGE_SOCKET", raising=False)
    if os.environ.get("UPDATE_GOLDEN"):
        PAGE.write_text(reference.text())
    assert PAGE.read_text() == reference.text(), "run: python -m skedge.cli.reference > docs/cli.md"


def test_every_exit_code_is_explained() -> None:
    assert set(EXIT_CODES) == set(ExitCode)


def test_every_document_is_described() -> None:
    described = {kind for _, kind in reference.DOCUMENTS} | set(reference.ROWS)
    known = {value for value in (*vars(documents).values(), *vars(shown).values()) if dataclasses.is_dataclass(value)}
    assert known - {documents.Request, documents.Answer} <= described
    assert all(issubclass(kind, msgspec.Struct) or kind in known for kind in described)
