"""`make test`: every stage, all of them even when one fails; at the end one closing line, and why tests were skipped.

A test with real daemons on a machine that others load too may miss a moment: one that fails in the stages integration
and vm-* is tried once more, and the closing lines name each that needed it.

The closing line counts as pytest does; a stage that is not pytest (lint, a Molecule scenario, the demo) counts as one
test. The exit code is 0 only if every stage's is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import vm
from tests.lab.sh import CACHE, REPO, LabError

RESULTS = CACHE / "run"
PYTEST = [sys.executable, "-m", "pytest", "-q"]
AGAIN = ["--reruns", "1", "--rerun-show-tracebacks"]
AFTER_S = 2.0
LAST_WORDS = 15  # lines of a stage that failed without naming a test
VM_TIMEOUT = 2700
VM_STAGES = {  # stage: kernel, list of vm_tests
    "vm-6.1": ("6.1", "short"),
    "vm-6.12": ("6.12", "short"),
    "vm-6.1-rest": ("6.1", "rest"),
    "vm-6.12-rest": ("6.12", "rest"),
    "vm-backports": ("backports", "short"),
    "vm-5.10": ("5.10", "old"),
    "vm-6.1-long": ("6.1", "long"),
}
VM_SHORT = ("vm-6.1", "vm-6.12")  # in every run; the others when they are named
COMPILED = "bytecode"  # the stage without which a VM has nothing to load: it cannot fetch what compiles it
LOADING = ("integration", "long", *VM_STAGES)
DEFAULT = ["molecule", "test", "--scenario-name", "default"]
LONG = ("rolling",)  # Molecule scenarios that run only when named
NEEDS_KVM = ("vm",)  # Molecule scenarios whose hosts, emulated, take too long for every run
EMULATED = "KVM runs no guest here, and emulated the scenario takes about half an hour; make molecule-vm runs it"


@dataclass(frozen=True)
class Stage:
    """One part of the tests: a command, and whether it leaves a JUnit file named after it."""

    name: str
    argv: list[str]
    junit: bool = False
    asked: bool = False  # runs only when named on the command line
    needs_kvm: bool = False  # elsewhere the same
    env: dict[str, str] = field(default_factory=dict)


def stages() -> list[Stage]:
    """Return all stages, the quick ones first."""
    molecule = [
        Stage(
            f"molecule {name}",
            ["molecule", "test", "--scenario-name", name],
            needs_kvm=name in NEEDS_KVM,
            asked=name in LONG,
        )
        for name in sorted(p.parent.name for p in (REPO / "molecule").glob("*/molecule.yml"))
    ]
    return [
        Stage("lint", ["make", "lint"]),
        Stage("ansible-lint", ["make", "lint-ansible"]),
        Stage("unit", [*PYTEST, "tests/unit", "tests/property", "tests/sim"], junit=True),
        Stage(COMPILED, [sys.executable, "-m", "tests.kit.builders"]),
        Stage("integration", [*PYTEST, *AGAIN, "-m", "not long", "tests/integration"], junit=True),
        *(_vm_stage(name, *what) for name, what in VM_STAGES.items()),
        Stage("long", [*PYTEST, *AGAIN, "-m", "long", "tests/integration"], junit=True, asked=True),
        *molecule,
        Stage("molecule default on Debian 13", [*DEFAULT], asked=True, env={"SUITE": "trixie"}),
        Stage("demo", [sys.executable, "-m", "tests.lab.demo"], env={"LAB": "test-demo"}),
        Stage("chaos", [sys.executable, "-m", "tests.chaos", "--lab", "test-chaos", "--slack", "4"]),
    ]


def _vm_stage(name: str, kernel: str, tests: str) -> Stage:
    """Return the stage that runs a list of tests in a VM with a kernel."""
    guest = [sys.executable, "-m", "tests.lab.vm", "--kernel", kernel, "--timeout", str(VM_TIMEOUT)]
    inside = [".venv/bin/python", "-m", "tests.lab.vm_tests", tests, f"/run/vm/keep/{name}.xml", *AGAIN]
    return Stage(name, [*guest, "--keep", str(RESULTS), "--", *inside], junit=True, asked=name not in VM_SHORT)


@dataclass
class Outcome:
    """What all stages together brought."""

    counts: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    times: list[str] = field(default_factory=list)

    def add(self, stage: Stage, code: int, took: float, last: Iterable[str] = ()) -> None:
        """Count one stage's tests; of one that failed without naming any, `last` are its last lines."""
        self.times.append(f"{stage.name} {took:.0f} s" + ("" if code == 0 else f" FAILED (exit {code})"))
        report, faults = RESULTS / f"{stage.name}.xml", len(self.faults)
        found = self._read(stage.name, report) if stage.junit and report.exists() else 0
        if code != 0:
            self.failed.append(stage.name)
        if found == 0:  # not pytest, or it did not come so far as to say anything
            self.counts["passed" if code == 0 and not stage.junit else "failed"] += 1
        if code != 0 and len(self.faults) == faults:
            self.faults += [f"{stage.name} | {line}" for line in last if line]
        if stage.junit and code == 0 and found == 0:
            self.failed.append(f"{stage.name} (no test ran)")

    def leave_out(self, reason: str) -> None:
        """Count a stage that does not run as a test that is skipped."""
        self.counts["skipped"] += 1
        self.skipped[reason] += 1

    def _read(self, stage: str, report: Path) -> int:
        found = ElementTree.parse(report).iter("testcase")
        cases = {(case.get("classname"), case.get("name")): case for case in found}.values()  # the last try of each
        for case in cases:
            if case.find("properties/property[@name='tries']") is not None:
                self.again.append(f"{case.get('classname')}::{case.get('name')}")
            skip = case.find("skipped")
            if skip is not None:
                self.counts["skipped"] += 1
                self.skipped[skip.get("message") or "no reason given"] += 1
            elif (fault := case.find("failure")) is not None or (fault := case.find("error")) is not None:
                self.counts["failed" if fault.tag == "failure" else "errors"] += 1
                said = " ".join((fault.get("message") or "").split())[:300]
                self.faults.append(f"{case.get('classname')}::{case.get('name')} ({stage}): {said}")
            else:
                self.counts["passed"] += 1
        return len(cases)

    def tell(self, took: float) -> None:
        """Print the closing lines."""
        print("\nstages: " + ", ".join(self.times))
        for reason, number in self.skipped.most_common():
            print(f"SKIPPED [{number}] {reason}")
        for name in self.again:
            print(f"TRIED AGAIN {name}")
        for name in self.faults:
            print(f"FAILED {name}")
        for name in self.failed:
            print(f"FAILED stage {name}")
        words = ("failed", "errors", "passed", "skipped")
        parts = [f"{self.counts[word]} {word}" for word in words if self.counts[word]]
        line = ", ".join([*parts, f"{len(self.again)} tried again"])
        clock = time.strftime("%H:%M:%S", time.gmtime(took)).lstrip("0:") or "0"
        print(f"{line} in {took:.2f}s ({clock})".center(100, "="), flush=True)


def _pass_on(lines: Iterable[str], last: deque[str]) -> None:
    for line in lines:
        print(line, end="", flush=True)
        last.append(line.rstrip())


def run_stage(stage: Stage, last: deque[str]) -> int:
    """Run one stage with its output shown, also gathered in `last`; return its exit code."""
    argv = list(stage.argv)
    if stage.junit and "tests.lab.vm" not in argv:
        argv.append(f"--junitxml={RESULTS / (stage.name + '.xml')}")
    print(f"\n######## {stage.name}: {' '.join(stage.argv)}".replace(f"{REPO}/", ""), flush=True)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **stage.env}
    process = subprocess.Popen(
        argv,
        cwd=REPO,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    reader = threading.Thread(target=_pass_on, args=(process.stdout, last), daemon=True)
    reader.start()
    try:
        return process.wait()
    finally:
        process.wait()  # also when interrupted: it cleans up
        reader.join(AFTER_S)  # what it left running may hold the pipe open
        if "LAB" in stage.env:
            subprocess.run([sys.executable, "-m", "tests.lab", "down"], cwd=REPO, env=env, check=False)


def _has_kvm() -> bool:
    try:
        return vm.accelerator() == "kvm"
    except (LabError, OSError):  # the stage vm has said what is wrong
        return False


def with_needed(named: list[str]) -> list[str]:
    """Return the stages that were named with the one that they cannot do without."""
    return [*named, COMPILED] if {*LOADING} & {*named} else named


def main() -> int:
    """Run all stages, or those named on the command line."""
    wanted = with_needed(sys.argv[1:])
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir(parents=True)
    outcome, begin = Outcome(), time.monotonic()
    for stage in stages():
        if stage.needs_kvm and not wanted and not _has_kvm():
            outcome.leave_out(EMULATED)
        elif stage.name in wanted or not (wanted or stage.asked):
            started, last = time.monotonic(), deque(maxlen=LAST_WORDS)
            code = run_stage(stage, last)
            outcome.add(stage, code, time.monotonic() - started, last)
    took = time.monotonic() - begin
    outcome.tell(took)
    return 1 if outcome.failed or not outcome.counts else 0


if __name__ == "__main__":
    sys.exit(main())
