"""A program that the verifier refuses is refused once, not at each start of a service.

The conditions are the bytecode, the kernel and the boot; what failed for want of memory is tried each time.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest

from skedge.core.observed import ProgramsReport
from skedge.dataplane.bpf import creation, programs_report
from skedge.loader import bytecode, loader, refusals
from skedge.loader.compiling import compile
from skedge.loader.image import Unit

from ..kit import Host
from .kit import broken, pinned

HINT = "(tried before; `skedge-loader load --again` tries again)"


class Starts:
    """Starts of the service, as its unit loads; ``loads`` counts what the verifier is given."""

    def __init__(self, host: Host, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host, self.shipped, self.directory = host, shipped, shipped.parent
        self.loads: list[str] = []
        self.fails: dict[str, creation.Refused] = {}
        real = creation.prog_load

        def prog_load(name: str, *arguments: object, **more: object) -> int:
            self.loads.append(name)
            if name in self.fails:
                raise self.fails[name]
            return real(name, *arguments, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(creation, "prog_load", prog_load)

    def start(self, *more: str) -> tuple[int, int]:
        """Return the exit code, and how many programs the verifier was given."""
        words = ["load", "--pin-dir", str(self.host.pins), "--cgroup", str(self.host.cgroup), "--keep"]
        words += ["--bytecode", str(self.shipped), "--cache", str(self.directory / "cache")]
        words += ["--verdict", str(self.directory / "engine.json"), *more]
        self.loads.clear()
        with self.host.inside():
            code = loader.main(words)
        return code, len(self.loads)

    def report(self) -> ProgramsReport:
        return programs_report.read(self.directory)

    def close(self) -> None:
        with self.host.inside():
            loader.main(["unload", "--pin-dir", str(self.host.pins)])


@pytest.fixture
def starts(fresh: Host, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Starts:
    return Starts(fresh, shipped, monkeypatch)


NEWER = ("--nat-flows", "4096")


def test_what_the_verifier_refused_is_not_verified_at_each_start(
    starts: Starts, units: Sequence[Unit], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bytecode.write(starts.shipped, units)
    code, whole = starts.start()
    assert code == 0
    assert whole > 20
    before = pinned(starts.host)
    bytecode.write(starts.shipped, broken(units, "skedge_connect6"))
    capsys.readouterr()
    code, first = starts.start(*NEWER)
    assert code == 0
    assert first > 0
    said, told = capsys.readouterr().err, starts.report()
    assert told.refused.endswith("refuses the program skedge_connect6: R0 !read_ok")
    assert told.refused in said
    assert HINT not in said
    for _ in range(3):
        assert starts.start(*NEWER) == (0, 0), "nothing is verified"
        said = capsys.readouterr().err
        assert said == f"skedge-loader: {told.refused} {HINT}; the programs from before go on\n"
        assert starts.report() == told, "the same sentence in status"
    assert starts.start(*NEWER, "--again") == (0, first)
    assert starts.start(*NEWER) == (0, 0), "and it is remembered again"
    boot = starts.directory / "boot"
    boot.write_text("another boot\n")
    with monkeypatch.context() as patch:
        patch.setattr(refusals, "_BOOT_ID", boot)
        assert starts.start(*NEWER) == (0, first), "a kernel is of one boot"
        assert starts.start(*NEWER) == (0, 0)
    assert pinned(starts.host) == before
    bytecode.write(starts.shipped, units)
    assert starts.start(*NEWER) == (0, whole), "bytecode that is mended is another one"
    assert starts.report().refused == ""
    assert starts.start(*NEWER) == (0, 0), "there is nothing to do"
    starts.close()


def test_where_nothing_serves_the_restart_loop_verifies_nothing_either(
    starts: Starts, units: Sequence[Unit], capsys: pytest.CaptureFixture[str]
) -> None:
    bytecode.write(starts.shipped, broken(units, "link_egress"))
    code, first = starts.start()
    assert code == 1
    assert first > 0
    said = capsys.readouterr().err.strip()
    for _ in range(2):
        assert starts.start() == (1, 0)
        assert capsys.readouterr().err == f"{said} {HINT}\n"
        assert pinned(starts.host) == {}
    bytecode.write(starts.shipped, units)
    assert starts.start()[0] == 0
    starts.close()


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EPERM, errno.EAGAIN])
def test_what_fails_for_a_passing_reason_is_tried_each_time(starts: Starts, units: Sequence[Unit], code: int) -> None:
    bytecode.write(starts.shipped, units)
    starts.fails["skedge_connect4"] = creation.Refused("load program skedge_connect4", code, "")
    for _ in range(2):
        result, count = starts.start()
        assert result == 1
        assert count > 0
    starts.fails.clear()
    assert starts.start()[0] == 0
    starts.close()


def test_a_layout_that_does_not_fit_is_found_before_the_verifier_works(starts: Starts, units: Sequence[Unit]) -> None:
    """It is not remembered: `unload` takes the reason away."""
    bytecode.write(starts.shipped, units)
    assert starts.start()[0] == 0
    pin = starts.host.pins / "news_v1"
    pin.unlink()
    (starts.host.pins / "ports_v1").rename(pin)
    for _ in range(2):
        assert starts.start(*NEWER) == (0, 0)
        assert "map news_v1: what is pinned has another layout" in starts.report().refused
    starts.close()
    assert starts.start(*NEWER)[0] == 0
    starts.close()


def test_a_host_that_cannot_compile_the_new_version_serves_and_does_not_compile_again(
    starts: Starts, units: Sequence[Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    bytecode.write(starts.shipped, units)
    assert starts.start()[0] == 0
    before = pinned(starts.host)
    asked = starts.directory / "asked"
    monkeypatch.setattr(compile, "_COMMAND", ("sh", "-c", f"cat > /dev/null; echo >> {asked}; exit 1"))
    starts.shipped.unlink()
    assert starts.start(*NEWER) == (0, 0)
    once = asked.stat().st_size
    assert once > 0
    told = starts.report()
    assert ": does not compile: " in told.refused
    for _ in range(2):
        assert starts.start(*NEWER) == (0, 0)
        assert starts.report() == told
        assert asked.stat().st_size == once, "the compiler is not called again"
    assert starts.start(*NEWER, "--again") == (0, 0)
    assert asked.stat().st_size > once
    assert pinned(starts.host) == before
    assert told.origin == "shipped"
    starts.close()
