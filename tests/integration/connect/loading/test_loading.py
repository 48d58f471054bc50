"""Loading in two phases, from bytecode: what cannot be loaded whole changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from skedge.core.errors import DataplaneError, HostError
from skedge.dataplane.bpf import links, syscall
from skedge.dataplane.bpf.programs import Program, ProgType
from skedge.loader import bytecode, load_image, loader, publish
from skedge.loader.compiling import compile
from skedge.loader.compiling.sources import Compilation, source_text
from skedge.loader.image import Unit

from ..kit import Host, Site, candidate, connect
from .kit import broken, pinned

LISTENER = ("127.0.0.1", 8080)
WITHOUT_A_COMPILER = """
import sys
sys.modules["bcc"] = None
from skedge.loader import loader
from skedge.loader.compiling import compile
compile._COMMAND = ("false",)
result = loader.main(sys.argv[1:])
assert "LLVM" not in open("/proc/self/maps").read()
sys.exit(result)
"""


def run(host: Host, shipped: Path, **changes: object) -> loader.Loader:
    made = loader.Loader(
        replace(loader.Options(host.pins, str(host.cgroup), "root", shipped=shipped), **changes)  # type: ignore[arg-type]
    )
    with host.inside():
        made.load()
    return made


def test_a_host_without_a_compiler_serves_from_bytecode(fresh: Host, units: Sequence[Unit], shipped: Path) -> None:
    bytecode.write(shipped, units)
    words = ["load", "--pin-dir", fresh.pins, "--cgroup", fresh.cgroup, "--cache", shipped.parent / "none"]
    words += ["--verdict", shipped.parent / "engine.json"]

    def load(*more: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT_A_COMPILER, *map(str, (*words, *more))]
        with fresh.inside():
            return subprocess.run(command, capture_output=True, text=True, check=False)

    nothing = load("--bytecode", shipped.parent / "nothing")
    assert nothing.returncode == 1
    assert not fresh.pins.exists(), "half an engine is none"
    done = load("--bytecode", shipped)
    assert (done.returncode, done.stdout, done.stderr) == (0, "load: changed\n", "")
    report = json.loads((shipped.parent / "programs.json").read_text())
    assert report == {"origin": "shipped", "refused": "", "trouble": ""}
    with fresh.inside():
        site = Site(fresh)
        site.service([candidate("a", 0, site.server().target)], LISTENER)
        held = [connect(*LISTENER) for _ in range(3)]
        assert site.open() == 3
        assert len(list(site.engine.connections())) == 3, "the iterators are loaded, too"
        for one in held:
            one.close()
        assert site.open() == 0
        site.clean()
        loader.main(["unload", "--pin-dir", str(fresh.pins), "--cgroup", str(fresh.cgroup)])
    assert not fresh.pins.exists()


@pytest.mark.parametrize("function", ["skedge_release", "bpf_iter__bpf_map_elem", "link_egress"])
def test_a_program_that_the_kernel_refuses_changes_nothing(
    fresh: Host, units: Sequence[Unit], shipped: Path, function: str
) -> None:
    bytecode.write(shipped, broken(units, function))
    with pytest.raises(DataplaneError, match=rf"^kernel \S+ refuses the program {function}: R0 !read_ok$"):
        run(fresh, shipped)
    assert pinned(fresh) == {}
    bytecode.write(shipped, units)
    made = run(fresh, shipped)
    before = pinned(fresh)
    bytecode.write(shipped, broken(units, function))
    with pytest.raises(DataplaneError, match="R0 !read_ok"):
        run(fresh, shipped, nat_flows=4096)
    assert pinned(fresh) == before
    made.unload()


def failing(real: Callable[..., object], after: int) -> Callable[..., object]:
    """Do so many calls, then fail once."""
    calls = iter(range(10_000))

    def call(*arguments: object) -> object:
        if next(calls) == after:
            raise DataplaneError("no room")
        return real(*arguments)

    return call


@pytest.mark.parametrize(
    ("module", "name", "after"),
    [(publish, "pin", 3), (publish, "pin", 25), (links, "update", 4), (links, "create", 2), (syscall, "map_update", 5)],
)
def test_what_fails_half_way_in_publishing_is_taken_back(
    fresh: Host,
    units: Sequence[Unit],
    shipped: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    name: str,
    after: int,
) -> None:
    bytecode.write(shipped, units)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing(getattr(module, name), after))
        if name != "update":
            with pytest.raises(DataplaneError, match="no room"):
                run(fresh, shipped)
            assert pinned(fresh) == {}
    made = run(fresh, shipped)
    before = pinned(fresh)
    (fresh.pins / "ports_v1").unlink()  # a map that comes anew
    del before["ports_v1"]  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing(getattr(module, name), after))
        if name != "create":  # what is attached is updated
            with pytest.raises(DataplaneError, match="no room"):
                run(fresh, shipped, nat_flows=4096)
            assert pinned(fresh) == before
    run(fresh, shipped, nat_flows=4096)
    after_all = pinned(fresh)
    assert after_all.keys() == {*before, "ports_v1"}
    assert after_all["connect4_v1"] != before["connect4_v1"]
    made.unload()


def test_the_controller_goes_on_with_what_is_there(
    fresh: Host, units: Sequence[Unit], shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --keep, as the unit calls it; the report says what is wrong until a load is good again."""
    words = ["load", "--pin-dir", str(fresh.pins), "--cgroup", str(fresh.cgroup), "--bytecode", str(shipped)]
    words += ["--verdict", str(shipped.parent / "engine.json"), "--cache", str(shipped.parent / "none"), "--keep"]

    def report() -> dict[str, str]:
        return dict(json.loads((shipped.parent / "programs.json").read_text()))

    bytecode.write(shipped, broken(units, "skedge_connect6"))
    with fresh.inside():
        assert loader.main(words) == 1, "nothing serves"
        assert not fresh.pins.exists()
        bytecode.write(shipped, units)
        assert loader.main(words) == 0
        assert report() == {"origin": "shipped", "refused": "", "trouble": ""}
        before = pinned(fresh)
        bytecode.write(shipped, broken(units, "skedge_connect6"))
        capsys.readouterr()
        newer = [*words, "--nat-flows", "4096"]
        assert loader.main(newer) == 0
        said = capsys.readouterr()
        assert said.err.count("\n") == 1
        assert "refuses the program skedge_connect6: R0 !read_ok; the programs from before go on" in said.err
        assert said.out == "load: nothing to do\n"
        assert report()["origin"] == "shipped"
        assert report()["refused"].endswith("skedge_connect6: R0 !read_ok")
        assert loader.main(newer[:-3] + newer[-2:]) == 1, "by hand it fails"
        assert pinned(fresh) == before
        bytecode.write(shipped, units)
        assert loader.main(newer) == 0
        assert report() == {"origin": "shipped", "refused": "", "trouble": ""}
        assert loader.main(["unload", *words[1:5]]) == 0


def test_a_map_of_another_layout_is_named(fresh: Host, units: Sequence[Unit], shipped: Path) -> None:
    changed = tuple(
        msgspec.structs.replace(
            unit,
            maps=tuple(
                msgspec.structs.replace(one, value_size=16) if one.name == "ports_v1" else one for one in unit.maps
            ),
        )
        for unit in units
    )
    bytecode.write(shipped, units)
    made = run(fresh, shipped)
    before = pinned(fresh)
    bytecode.write(shipped, changed)
    with pytest.raises(DataplaneError, match="map ports_v1: what is pinned has another layout"):
        run(fresh, shipped, nat_flows=4096)
    assert pinned(fresh) == before
    made.unload()


def test_a_kernel_that_lacks_what_is_looked_at(
    fresh: Host, units: Sequence[Unit], shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_image, "_target", lambda function: f"no_{function}")
    bytecode.write(shipped, units)
    with pytest.raises(HostError, match="no function no_bpf_iter__bpf_map_elem"):
        run(fresh, shipped)
    assert pinned(fresh) == {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return undeclared;", "undeclared identifier 'undeclared'"),
        ("volatile char much[600]; much[c->len & 511] = 1; return much[c->mark & 511];", "stack"),
        ("return kernel_constant(0x736bc05700000063ull);", "uses constant 99"),
    ],
)
def test_what_does_not_compile_is_said_in_one_sentence(body: str, said: str) -> None:
    """Whatever becomes of the compiler, this process goes on."""
    text = source_text("common/bytecode.h") + f"int mistaken(struct __sk_buff *c) {{ {body} }}\n"
    program = Program("mistaken.c", "mistaken", ProgType.SCHED_CLS, "mistaken_v1")
    with pytest.raises(DataplaneError) as error:
        compile.compile_all([Compilation("mistaken.c", "#include <uapi/linux/bpf.h>\n" + text, (), (program,))])
    assert str(error.value).startswith("mistaken.c: does not compile: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_map_that_the_kernel_refuses_changes_nothing(fresh: Host, units: Sequence[Unit], shipped: Path) -> None:
    unheard_of = tuple(
        msgspec.structs.replace(
            unit,
            maps=tuple(msgspec.structs.replace(one, type=9999) if one.name == "news_v1" else one for one in unit.maps),
        )
        for unit in units
    )
    bytecode.write(shipped, unheard_of)
    with pytest.raises(DataplaneError, match=r"^kernel \S+ refuses the map news_v1: Invalid argument$"):
        run(fresh, shipped)
    assert pinned(fresh) == {}
