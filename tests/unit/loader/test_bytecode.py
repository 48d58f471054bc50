"""Where bytecode is taken from, what is kept of it, and what is passed over."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from skedge.core.errors import DataplaneError, HostError
from skedge.core.observed import Origin
from skedge.dataplane.bpf.creation import last_words
from skedge.dataplane.bpf.programs import PROGRAMS
from skedge.loader import bytecode, owned_files, refusals
from skedge.loader.compiling import compile, sources
from skedge.loader.compiling.sources import Compilation, compilations
from skedge.loader.constants import CONSTANTS, of_site
from skedge.loader.image import Unit

WANTED = compilations(PROGRAMS)


def made(wanted: Sequence[Compilation]) -> tuple[Unit, ...]:
    return tuple(Unit(one.source, one.digest, "test", (), ()) for one in wanted)


class Compiler:
    """Counts what it is asked for."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[str] = []
        self.error = error

    def __call__(self, wanted: Sequence[Compilation]) -> tuple[Unit, ...]:
        self.asked += [one.source for one in wanted]
        if self.error is not None:
            raise self.error
        return made(wanted)


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user who runs the tests counts as root."""
    real = os.geteuid()
    check = owned_files.check_owner

    def ours(found: os.stat_result, path: Path) -> None:
        if found.st_uid == real:
            found = os.stat_result((*found[:4], 0, *found[5:10]))
        check(found, path)

    monkeypatch.setattr(owned_files, "check_owner", ours)


@pytest.mark.usefixtures("owner")
def test_shipped_then_cached_then_compiled(tmp_path: Path) -> None:
    cache, shipped, compiler = tmp_path / "cache", tmp_path / "shipped.bytecode", Compiler()
    first = bytecode.obtain(WANTED, cache, shipped, compiler=compiler)
    assert (first.origin, first.trouble) == (Origin.COMPILED, "")
    assert compiler.asked == [one.source for one in WANTED]
    assert [one.digest for one in first.units] == [one.digest for one in WANTED]
    again = bytecode.obtain(WANTED, cache, shipped, compiler=compiler)
    assert (again.origin, len(compiler.asked), again.units) == (Origin.CACHED, len(WANTED), first.units)
    bytecode.write(shipped, made(WANTED[:1]))
    assert bytecode.obtain(WANTED, cache, shipped, compiler=compiler).origin is Origin.CACHED
    assert bytecode.obtain(WANTED[:1], cache, shipped, compiler=compiler).origin is Origin.SHIPPED
    bytecode.write(shipped, made(WANTED))
    assert bytecode.obtain(WANTED, None, shipped, compiler=compiler).origin is Origin.SHIPPED
    assert len(compiler.asked) == len(WANTED)
    assert bytecode.obtain(WANTED, cache, shipped, again=True, compiler=compiler).origin is Origin.COMPILED
    assert len(compiler.asked) == 2 * len(WANTED)


@pytest.mark.usefixtures("owner")
def test_bytecode_of_other_sources_is_not_taken(tmp_path: Path) -> None:
    shipped, compiler = tmp_path / "shipped.bytecode", Compiler()
    bytecode.write(shipped, [msgspec.structs.replace(one, digest="0" * 64) for one in made(WANTED)])
    assert bytecode.obtain(WANTED, None, shipped, compiler=compiler).origin is Origin.COMPILED
    assert len(compiler.asked) == len(WANTED)


@pytest.mark.usefixtures("owner")
def test_a_damaged_file_is_said_and_passed_over(tmp_path: Path) -> None:
    shipped, cache = tmp_path / "shipped.bytecode", tmp_path / "cache"
    bytecode.write(shipped, made(WANTED))
    shipped.write_bytes(shipped.read_bytes()[:-1])
    found = bytecode.obtain(WANTED, cache, shipped, compiler=Compiler())
    assert found.origin is Origin.COMPILED
    assert found.trouble.startswith(f"{shipped}: ")
    assert "cut off" in found.trouble
    with pytest.raises(HostError, match=r"bcc is missing; and .*cut off"):
        bytecode.obtain(WANTED, None, shipped, compiler=Compiler(HostError("bcc is missing")))
    for kept in cache.iterdir():
        kept.write_bytes(b"?")
    mended = bytecode.obtain(WANTED, cache, None, compiler=Compiler())
    assert mended.trouble.count("not bytecode") == len(WANTED)
    assert bytecode.obtain(WANTED, cache, None, compiler=Compiler()).trouble == ""


@pytest.mark.usefixtures("owner")
def test_what_others_can_write_is_not_loaded(tmp_path: Path) -> None:
    cache, compiler = tmp_path / "cache", Compiler()
    bytecode.obtain(WANTED, cache, None, compiler=compiler)
    cache.chmod(0o777)
    found = bytecode.obtain(WANTED, cache, None, compiler=compiler)
    assert found.origin is Origin.COMPILED
    assert "others than root can write it" in found.trouble
    cache.chmod(0o755)
    next(iter(sorted(cache.iterdir()))).chmod(0o666)
    assert "mode 0666" in bytecode.obtain(WANTED, cache, None, compiler=compiler).trouble


@pytest.mark.usefixtures("owner")
def test_what_does_not_compile_is_not_tried_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Compiler(DataplaneError("nat.c: does not compile: no word"))
    for _ in range(3):
        with pytest.raises(DataplaneError, match=r"nat\.c: does not compile: no word"):
            bytecode.obtain(WANTED, tmp_path / "cache", None, compiler=compiler)
        assert len(compiler.asked) == len(WANTED)
    with pytest.raises(refusals.RefusedBefore, match=r"^nat\.c: does not compile: no word$"):
        bytecode.obtain(WANTED, tmp_path / "cache", None, compiler=compiler)
    boot = tmp_path / "boot"
    boot.write_text("another boot\n")
    monkeypatch.setattr(refusals, "_BOOT_ID", boot)
    with pytest.raises(DataplaneError):
        bytecode.obtain(WANTED, tmp_path / "cache", None, compiler=compiler)
    assert len(compiler.asked) == 2 * len(WANTED)
    compiler.error = None
    assert bytecode.obtain(WANTED, tmp_path / "cache", None, retry=True, compiler=compiler).origin is Origin.COMPILED
    assert bytecode.obtain(WANTED, tmp_path / "cache", None, compiler=compiler).origin is Origin.CACHED


@pytest.mark.usefixtures("owner")
def test_a_mended_source_is_tried_whichever_of_them_it_is(tmp_path: Path) -> None:
    compiler = Compiler(DataplaneError("nat.c: does not compile: no word"))
    with pytest.raises(DataplaneError):
        bytecode.obtain(WANTED, tmp_path / "cache", None, compiler=compiler)
    compiler.error = None
    mended = [*WANTED[:-1], Compilation("x.c", "mended", (), ())]
    assert bytecode.obtain(mended, tmp_path / "cache", None, compiler=compiler).origin is Origin.COMPILED


@pytest.mark.usefixtures("owner")
def test_the_cache_does_not_grow_for_ever(tmp_path: Path) -> None:
    for number in range(50):
        one = Compilation("x.c", f"{number}", (), ())
        bytecode.obtain([one], tmp_path, None, compiler=Compiler())
        os.utime(tmp_path / f"{one.digest}.bytecode", ns=(number, number))
    assert len(list(tmp_path.iterdir())) == 32
    assert (tmp_path / f"{one.digest}.bytecode").exists()


def test_the_digest_is_of_everything_that_the_bytecode_depends_on() -> None:
    one = WANTED[0]
    others = [
        Compilation(one.source, one.text + " ", one.defines, one.programs),
        Compilation(one.source, one.text, (*one.defines, "SECOND"), one.programs),
        Compilation(one.source, one.text, one.defines, one.programs[:-1]),
        compilations(PROGRAMS, pick_log=8)[0],
    ]
    assert len({each.digest for each in (one, *others)}) == 5
    assert compilations(PROGRAMS)[0].digest == one.digest
    assert len({each.digest for each in WANTED}) == len(WANTED)


def test_every_constant_of_the_sources_has_a_number() -> None:
    """One that the loader does not know would be taken for a plain name by the compiler."""
    text = "\n".join(one.text for one in WANTED)
    assert {name for name in CONSTANTS if name not in text} == set()
    assert set(of_site(8)) <= set(CONSTANTS)
    assert sources.source_text("sockets.c").count("SKEDGE_PLACEMENT_MAPS_H") == 2  # once, whoever includes it


def test_the_verifier_has_the_last_word() -> None:
    log = (
        "0: (bf) r6 = r1\nR1 type=ctx\ninvalid mem access 'scalar'\nprocessed 5 insns (limit 1000000)\nstack depth 8\n"
    )
    assert last_words(log) == "invalid mem access 'scalar'"
    assert last_words("") == ""


def test_what_the_compiler_says_is_one_line() -> None:
    said = (
        b"warning: x\n/virtual/main.c:5:1: error: use of undeclared identifier\n  here\n1 error generated.\nTraceback\n"
    )
    assert compile._why(said, 1) == "/virtual/main.c:5:1: error: use of undeclared identifier"
    assert compile._why(b"", 139).startswith("the compiler ended with 139 and no word")
