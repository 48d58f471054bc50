"""The engine `ipvs` on hosts with very many addresses: work adds up with the listeners, it does not multiply.

Counted are steps of the interpreter in the product's own files, what is listed of nftables, what is written down, and
looks at the kernel's table; not time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import skedge
from skedge.core.desired.reconcile import KindReport, reconcile
from skedge.core.model import WorkloadId
from skedge.core.objects import Candidate, ListenerKey, ListenerTarget, ServiceKey, ServiceTable, Target
from skedge.dataplane.ipvs import names_file
from skedge.dataplane.ipvs.engine import IpvsEngine
from skedge.dataplane.ipvs.marks import IpvsRules
from skedge.dataplane.ipvs.procfs import Found, mark_of
from skedge.dataplane.nftables.table import NftTable
from tests.fakes.fake_ipvs import FakeIpvs
from tests.fakes.fake_nft import FakeNft

OURS = str(Path(skedge.__file__).parent)
SERVICES = [ServiceKey(f"s{number}") for number in range(3)]
TABLE = ServiceTable((Candidate(WorkloadId("a", "web"), 0, target4=Target("100.64.0.1", 61000)),))
FEW, MANY = 20, 80
SLACK = 1.3  # what stays the same whatever the number, and a logarithm


def addresses(count: int) -> list[str]:
    return [f"10.{64 + number // 250}.{number % 250}.7" for number in range(count)]


def listeners(count: int, affinity_s: int = 0) -> Mapping[ListenerKey, ListenerTarget]:
    return {
        ListenerKey(address, 8080 + port): ListenerTarget(key, affinity_s=affinity_s)
        for port, key in enumerate(SERVICES)
        for address in addresses(count)
    }


@dataclass
class Work:
    """What was done, by kind."""

    steps: int = 0
    listed: int = 0
    written: int = 0
    looks: int = 0

    def __str__(self) -> str:
        return f"{self.steps} steps, {self.listed} objects listed, {self.written} bytes written, {self.looks} looks"


class Site:
    """One engine over a kernel in memory, which counts what it is asked for."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.work = Work()
        self.nft, self.table = FakeNft(), FakeIpvs()
        monkeypatch.setattr(self.table, "read", self._counted_read(self.table.read))
        save = names_file.save

        def saved(to: Path, memory: names_file.Memory) -> None:
            save(to, memory)
            self.work.written += to.stat().st_size

        monkeypatch.setattr(names_file, "save", saved)
        rules = IpvsRules(NftTable(self._nft, lambda: 100.0))
        self.engine = IpvsEngine(path / "ipvs.json", table=self.table, rules=rules, clock=lambda: 100.0, pace_s=0)
        for key in SERVICES:
            self.engine.services.put(key, TABLE)

    def _counted_read(self, read: Callable[[], Found]) -> Callable[[], Found]:
        def counted() -> Found:
            self.work.looks += 1
            return read()

        return counted

    def _nft(self, script: Mapping[str, Any] | None) -> Mapping[str, Any]:
        found = self.nft(script)
        for item in found.get("nftables", []):
            self.work.listed += 1 + sum(len(value.get("elem", [])) for value in item.values())
        return found

    def measured(self, act: Callable[[], object]) -> Work:
        """Return what an act takes."""
        self.work = Work()

        def step(frame: FrameType, event: str, _: object) -> Any:
            if not frame.f_code.co_filename.startswith(OURS):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            self.work.steps += event == "opcode"
            return step

        before = sys.gettrace()
        sys.settrace(step)
        try:
            act()
        finally:
            sys.settrace(before)
        return self.work


def works(path: Path, monkeypatch: pytest.MonkeyPatch, count: int, affinity_s: int = 0) -> Mapping[str, Work]:
    """Return the work of each thing that a controller does with that many addresses."""
    path.mkdir()
    with monkeypatch.context() as patch:
        site = Site(path, patch)
        engine, wanted = site.engine, listeners(count, affinity_s)

        def make(these: Mapping[ListenerKey, ListenerTarget]) -> KindReport[ListenerKey]:
            report = reconcile(engine.listeners, these)
            assert report.clean, report.failed
            return report

        found = {"create": site.measured(lambda: make(wanted))}
        assert engine.listeners.read() == wanted
        found["plan"] = site.measured(lambda: reconcile(engine.listeners, wanted, dry_run=True))
        found["rest"] = site.measured(engine.look)
        found["services"] = site.measured(engine.services.read)
        rest = {key: value for key, value in wanted.items() if key.port != 8080}
        found["a port goes"] = site.measured(lambda: make(rest))
        assert engine.listeners.read() == rest
        found["delete"] = site.measured(lambda: make({}))
        assert engine.listeners.read() == {}
        return found


@pytest.mark.parametrize("affinity_s", [0, 60])
def test_work_grows_as_the_listeners_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, affinity_s: int) -> None:
    few = works(tmp_path / "few", monkeypatch, FEW, affinity_s)
    many = works(tmp_path / "many", monkeypatch, MANY, affinity_s)
    told = "\n".join(f"{name}: {few[name]}; {many[name]}" for name in few)
    for name, one in few.items():
        other = many[name]
        for kind in ("steps", "listed", "written", "looks"):
            grown = getattr(other, kind) / max(1, getattr(one, kind))
            assert grown <= SLACK * MANY / FEW, f"{name}: {kind} grew {grown:.1f} times, listeners {MANY / FEW}\n{told}"


def test_changes_of_listeners_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one program run, one file and one look a listener."""
    done = works(tmp_path / "site", monkeypatch, FEW)
    assert done["create"].looks <= 5
    assert done["rest"].looks == 1


def test_who_cannot_be_served_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused are an address of loopback, one that is others', and a service whose servers the kernel does not take."""
    site = Site(tmp_path, monkeypatch)
    wanted = dict(listeners(2))
    loopback, taken = ListenerKey("127.0.0.1", 80), ListenerKey("10.0.0.9", 80)
    bad = {loopback: ListenerTarget(SERVICES[0]), taken: ListenerTarget(SERVICES[0])}
    site.table.others.add(taken)
    report = reconcile(site.engine.listeners, {**wanted, **bad})
    assert report.failed.keys() == bad.keys()
    assert "loopback" in str(report.failed[loopback])
    assert "not ours" in str(report.failed[taken])
    assert set(report.changed) == wanted.keys()
    assert site.engine.listeners.read() == wanted
    site.nft.broken = True
    more = {ListenerKey("10.0.0.7", 80): ListenerTarget(SERVICES[1])}
    assert reconcile(site.engine.listeners, {**wanted, **more}).failed.keys() == more.keys()
    assert set(reconcile(site.engine.listeners, {}).failed) == set(wanted)
    site.nft.broken = False
    assert reconcile(site.engine.listeners, {**wanted, **more}).clean
    assert site.engine.listeners.read() == {**wanted, **more}


def test_a_service_that_the_kernel_refuses_fails_its_own_listeners_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, wanted = Site(tmp_path, monkeypatch), listeners(2)
    mark = mark_of(site.engine.memory.ident(names_file.Virtual(SERVICES[1])), 4)
    site.table.ours[mark].clear()
    site.table.refused.add(mark)
    report = reconcile(site.engine.listeners, wanted)
    assert report.failed.keys() == {key for key, value in wanted.items() if value.service == SERVICES[1]}
    site.table.refused.clear()
    assert reconcile(site.engine.listeners, wanted).clean
    assert site.engine.listeners.read() == wanted
