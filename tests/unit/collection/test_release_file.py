"""A release is taken for the sources that it was made from, and for no others."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from ansible_collections.skedge.edge.plugins.action.bundle import taken
from ansible_collections.skedge.edge.plugins.plugin_utils import bundle, bytecode, release_file

CODE = b"what was compiled"
TARGET = bundle.Target("3.11", "x86_64", "2.36")


@pytest.fixture
def release(project: Path) -> Path:
    path = project / release_file.NAME
    release_file.write(path, project, "x86_64", "bcc 0.26.0", CODE)
    return path


def test_it_is_taken_for_its_own_sources(project: Path, release: Path) -> None:
    word, code, warnings = taken(project, release, "x86_64")
    assert (code, warnings) == (CODE, [])
    assert word.startswith("release ")
    assert bundle.digest(project, TARGET, word) != bundle.digest(project, TARGET)


def test_none_is_nothing_to_tell(project: Path, tmp_path: Path) -> None:
    assert taken(project, tmp_path / "none", "x86_64") == ("", b"", [])


def test_it_is_not_taken_for_other_sources_nor_other_machines_and_that_is_one_sentence(
    project: Path, release: Path
) -> None:
    word, code, (said,) = taken(project, release, "aarch64")
    assert (word, code) == ("", b"")
    assert "for hosts of x86_64, not of aarch64" in said
    (project / "skedge/bpf/b.h").write_text("/* c */\n")
    word, code, (said,) = taken(project, release, "x86_64")
    assert (word, code) == ("", b"")
    assert "other sources than this checkout" in said


def test_a_damaged_one_stops_the_deployment(project: Path, release: Path) -> None:
    whole = release.read_bytes()
    changed = whole.replace(CODE, CODE.upper())
    for bad, said in ((changed, "digest"), (whole[:700], "cut off"), (b"", "cut off")):
        release.write_bytes(bad)
        with pytest.raises(bundle.BundleError, match=f"{said}.*copy it again"):
            taken(project, release, "x86_64")
    release.write_bytes(whole.replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(bundle.BundleError, match="format 2, and this checkout reads 1"):
        taken(project, release, "x86_64")


def test_its_bytecode_is_in_the_wheel_and_nothing_compiles(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[bytes] = []

    def pip(*arguments: object) -> None:
        for where in (Path(str(one)) for one in arguments if str(one).endswith(("/host", "/build"))):
            where.mkdir(parents=True, exist_ok=True)
        last = Path(str(arguments[-1]))
        if last.name == "source":
            built.append((last / bytecode.SHIPPED).read_bytes())

    monkeypatch.setattr(bundle, "_pip", pip)
    monkeypatch.setattr(bytecode, "build", lambda *_: pytest.fail("compiles"))
    bundle.build(project, tmp_path / "cache", TARGET, "release 1", CODE)
    assert built == [CODE]


def test_it_says_of_itself_what_it_is_for(release: Path) -> None:
    with tarfile.open(release) as archive:
        head = json.load(archive.extractfile("release.json"))  # type: ignore[arg-type]
    assert head.keys() == {"format", "sources", "machine", "compiler", "bytecode"}
