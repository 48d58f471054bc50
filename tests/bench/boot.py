"""What starting the programs costs: ``python -m tests.bench.boot [CACHE]`` (root). CACHE keeps the bytecode.

Each program's instructions as the verifier walked them and its time, the best of some rounds; then the processor time
of whole runs of the loader. Nothing is attached but to a cgroup without processes, and nothing is left.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from unittest import mock

from skedge.dataplane.bpf import creation
from skedge.dataplane.bpf.programs import PROGRAMS
from skedge.loader import bytecode, constants, host_requirements, load_image, loading
from skedge.loader.compiling.sources import compilations
from tests.kit import verifier

ROUNDS = 5
RUNS = 9


def programs(cache: Path) -> Mapping[str, tuple[int, float]]:
    """Return for each C function what the verifier walked and how long its loading took (s)."""
    units = compilations(PROGRAMS)
    found = bytecode.obtain(units, cache, None)
    members = [(unit, one.programs) for unit, one in zip(found.units, units, strict=True)]
    numbers = {**constants.kernel_defines(), **constants.of_site(loading.NAT_FLOWS)}
    best: dict[str, tuple[int, float]] = {}
    prog_load = creation.prog_load

    def timed(name: str, *rest: object) -> int:
        before = time.process_time()
        fd = prog_load(name, *rest)  # type: ignore[arg-type]
        took = time.process_time() - before
        count, least = verifier.walked_by(fd), best.get(name, (0, took))[1]
        best[name] = (max(count, best.get(name, (0, 0.0))[0]), min(took, least))
        return fd

    with mock.patch.object(creation, "prog_load", timed):
        for _ in range(ROUNDS):
            with load_image.load(members, Path("/nonexistent"), constants.map_sizes(loading.NAT_FLOWS), numbers):
                pass
    return best


def whole(cache: Path, cgroup: Path) -> list[float]:
    """Return the processor time of whole runs of the loader, from the interpreter's start on (s)."""
    where = ("--pin-dir", f"/sys/fs/bpf/skedge-boot-{os.getpid()}", "--cgroup", str(cgroup), "--cache", str(cache))
    took = []

    def run(what: str) -> None:
        subprocess.run([sys.executable, "-m", "skedge.loader.loader", what, *where], check=True, capture_output=True)

    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run("load")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        run("unload")
    return sorted(took)


def main(cache: Path) -> None:
    """Print both tables."""
    found = programs(cache)
    for name, (count, took) in sorted(found.items(), key=lambda one: -one[1][1]):
        print(f"{name:30} {count:8} {took * 1000:7.1f} ms")
    count, took = sum(one[0] for one in found.values()), sum(one[1] for one in found.values())
    print(f"{'all':30} {count:8} {took * 1000:7.1f} ms")
    cgroup = Path(host_requirements.cgroup2_root()) / f"skedge-boot-{os.getpid()}"
    cgroup.mkdir()
    try:
        runs = whole(cache, cgroup)
    finally:
        cgroup.rmdir()
    print(f"a whole load, processor time: {runs[0]:.2f} to {runs[-1]:.2f} s, median {median(runs):.2f} s")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as directory:
            main(Path(directory))
