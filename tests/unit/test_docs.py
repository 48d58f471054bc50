"""What the documents say of the sources is so: the paths that they name exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "skedge"
DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "roles/skedge/README.md"]
ARCHITECTURE = ROOT / "docs/architecture.md"
WINGS = "core|config|control|dataplane|loader|bpf|daemon|cli"
SOURCES = sorted(path for pattern in ("*.py", "*.[ch]") for path in PACKAGE.rglob(pattern))

# A path from the root, or (in backticks, or with an ending) from skedge/.
PATH = re.compile(
    r"(?<![\w./<>~-])(?:(?:skedge|tests|docs|roles|collections|molecule|inventories(?=/example|/demo))/[\w@-][\w./@-]*"
    rf"|(?<=`)(?:{WINGS})/[\w./@-]+(?=`)|(?:{WINGS})/[\w/]+\.(?:py|c|h)\b)"
)
IN_SOURCES = re.compile(r"(?<![\w./<>~-])(?!linux/|openssl/|Documentation/)(?:[a-z_0-9]+/)+[a-z_0-9]+\.(?:py|c|h)\b")


def exists(text: str) -> bool:
    """Return whether a file or folder has this path, or a module this attribute (``core/names.overlay_prefix6``)."""
    at = text.rstrip(".").rstrip("/")
    if any((base / at).exists() for base in (ROOT, PACKAGE, PACKAGE / "bpf")):
        return True
    module, _, name = at.rpartition(".")
    files = [base / f"{module}.py" for base in (ROOT, PACKAGE)]
    return bool(module) and any(re.search(rf"\b{name}\b", one.read_text()) for one in files if one.exists())


def paths(text: str) -> Iterator[str]:
    yield from (match[0] for match in PATH.finditer(text))


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading."""
    section = ARCHITECTURE.read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("|--")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_in_a_document_exists(document: Path) -> None:
    assert [one for one in paths(document.read_text()) if not exists(one)] == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_path_in_a_comment_exists(source: Path) -> None:
    text = re.sub(r"#include <[^>]*>", "", source.read_text())
    assert [one for one in IN_SOURCES.findall(text) if not exists(one)] == []


def test_each_row_of_where_to_change_what_names_files_and_a_test() -> None:
    rows = table("Where to change what")
    assert len(rows) >= 30
    assert len({row[0] for row in rows}) == len(rows)
    for what, where, test in rows:
        assert any(paths(where)) or "test" in where or what.startswith("log line"), what
        assert any(one.startswith(("tests/", "molecule/")) for one in paths(test)) or "test" in test or test == "itself"


def test_the_tree_has_every_room() -> None:
    text = ARCHITECTURE.read_text().split("## The rooms\n", 1)[1].split("\n## ", 1)[0]
    listed = re.findall(r"^(\S+/) +\S", text.split("```")[1], re.M)
    assert [one for one in listed if not (ROOT / one).is_dir()] == []
    folders = {path.parent for path in SOURCES}
    assert {f"{folder.relative_to(ROOT)}/" for folder in folders} - {"skedge/"} <= set(listed)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("see `skedge/core/no_such.py`.", ["skedge/core/no_such.py"]),
        ("see skedge/core/reasons.py.", []),
        ("`core/placement/gone.py` and `core/placement/rule.place`", ["core/placement/gone.py"]),
        ("`core/names.no_such_name`", ["core/names.no_such_name"]),
        ("/etc/skedge/skedge.yaml, /sys/fs/bpf/skedge/x, https://example.org/docs/x", []),
    ],
)
def test_a_path_that_is_not_there_is_seen(text: str, missing: list[str]) -> None:
    assert [one for one in paths(text) if not exists(one)] == missing
