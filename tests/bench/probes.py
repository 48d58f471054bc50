"""Running the small C program in the lab's hosts: with skedge's programs around it, or outside of their cgroup.

Client and server keep to a processor each. A process "inside" is in the host's cgroup, where the programs are attached;
one "outside" shares the host's network namespace only, so the same path can be measured without skedge.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.lab.sh import run

SOURCE = Path(__file__).with_name("wire.c")
SERVER_CPU, CLIENT_CPU = "0", str(min(1, (os.cpu_count() or 1) - 1))


def build(directory: Path) -> Path:
    """Compile the program, once."""
    program = directory / "wire"
    if not program.exists() or program.stat().st_mtime < SOURCE.stat().st_mtime:
        directory.mkdir(parents=True, exist_ok=True)
        run("gcc", "-O2", "-Wall", "-pthread", "-o", program, SOURCE)
    return program


@dataclass(frozen=True)
class Place:
    """Where a process runs: in a host's namespace, inside or outside of the cgroup with the programs."""

    host: Host
    inside: bool
    cgroup: Path

    def argv(self, cpu: str, *argv: str | Path) -> list[str]:
        """Return a command line that runs there, on one processor."""
        namespace = f"/run/netns/{self.host.plan.namespace(self.host.name)}"
        enter = f'echo $$ > {self.cgroup}/cgroup.procs; exec nsenter --net={namespace} taskset -c {cpu} "$@"'
        return ["sh", "-ec", enter, "sh", *map(str, argv)]

    def measure(self, program: Path, *words: object) -> list[float]:
        """Run the client there and return the numbers that it prints."""
        return [float(word) for word in run(*self.argv(CLIENT_CPU, program, *map(str, words))).split()]


@contextlib.contextmanager
def places(host: Host) -> Iterator[tuple[Place, Place]]:
    """Give the two places on a host, and take their cgroups away afterwards."""
    made = [host.inner_cgroup() / "bench", host.cgroup / "bench-outside"]
    try:
        for group in made:
            group.mkdir(exist_ok=True)
        yield Place(host, True, made[0]), Place(host, False, made[1])
    finally:
        for group in made:
            if group.exists():
                (group / "cgroup.kill").write_text("1")
                for _ in range(50):
                    with contextlib.suppress(OSError):
                        group.rmdir()
                        break
                    time.sleep(0.1)


def serve(place: Place, program: Path, *ports: int) -> None:
    """Start the server there; it ends with the place's cgroup."""
    subprocess.Popen(place.argv(SERVER_CPU, program, "serve", *map(str, ports)), stdin=subprocess.DEVNULL)


def at_rest(lab: Lab, host: str, seconds: float) -> list[float]:
    """Return the controller's share of one processor (percent) and its resident memory (MiB), over some seconds."""
    pid = lab.ssh(host, "systemctl show -p MainPID --value skedge").stdout.strip()
    began, before, _ = _look(lab, host, pid)
    time.sleep(seconds)
    ended, after, memory = _look(lab, host, pid)
    used = sum(time_ns - before.get(thread, 0) for thread, time_ns in after.items())
    return [100 * used / 1e9 / (ended - began), memory]


def _look(lab: Lab, host: str, pid: str) -> tuple[float, dict[str, int], float]:
    """Return the seconds of uptime, each thread's processor time in ns, and the resident memory in MiB."""
    read = f"cut -d' ' -f1 /proc/uptime; grep VmRSS /proc/{pid}/status; grep -H . /proc/{pid}/task/*/schedstat"
    uptime, memory, *threads = lab.ssh(host, read).stdout.splitlines()
    times = (line.split(":", 1) for line in threads)
    return float(uptime), {path: int(words.split()[0]) for path, words in times}, int(memory.split()[1]) / 1024
