"""What all parts of the benchmark need of a run: the lab, a version deployed in it, rounds, and the report."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from tests.bench.judge import LEAST
from tests.bench.probes import build
from tests.bench.report import Report
from tests.bench.rounds import Budget, Series, measure
from tests.lab.lab import Lab
from tests.lab.sh import CACHE, LabError, run, say

OUT = CACHE / "bench"
INVENTORY = Path(__file__).parent / "inventory"


class Bench:
    """One lab of a run, and what is found in it."""

    def __init__(self, lab: Lab, checkout: Path, rounds: int, budget: Budget, report: Report) -> None:
        """Take a lab.

        Args:
            lab: of topology ``lan-pair``.
            checkout: the version that is deployed.
            rounds: so many at least.
            budget: how long further rounds may take.
            report: where rows go.
        """
        self.lab, self.checkout, self.rounds, self.budget, self.report = lab, checkout, rounds, budget, report
        self.program = build(OUT)

    def measure(self, *series: Series, rounds: int = 0, warm_up: bool = True) -> None:
        """Measure one part of the run: rounds until its targets are decided or its share of the time is up."""
        end = self.budget.next_end(time.monotonic())
        measure(series, rounds or self.rounds, end, warm_up=warm_up)

    def show(self, *series: Series) -> None:
        """Measure a part that has no target: its least rounds, no more."""
        measure(series, self.rounds, end=0.0)

    def fewer(self) -> int:
        """Return the least rounds of a part that is measured for the second time, without offloads."""
        return min(self.rounds, max(LEAST, self.rounds // 2))

    def deploy(self, transport: str, *extra: str) -> None:
        """Deploy both hosts with that transport of their link."""
        say(f"bench: deploying {self.checkout} with a {transport} link")
        own = self.checkout / ".venv/bin/ansible-playbook"
        program = own if own.exists() else "ansible-playbook"
        done = subprocess.run(
            [program, "-i", INVENTORY, "-i", self.lab.directory / "inventory", "-e", f"bench_transport={transport}",
             *extra, "deploy.yml"],
            cwd=self.checkout,
            env={**os.environ, "PYTHONPATH": str(self.checkout)},  # its action plugins import its own skedge
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise LabError(f"the playbook failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")

    def wait_ready(self) -> None:
        """Wait until edge-a may choose edge-b's workload."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            done = self.lab.ssh("edge-a", "skedge explain backend --json", check=False)
            if done.returncode == 0 and yaml.safe_load(done.stdout)["winner"]:
                return
            time.sleep(0.2)
        raise LabError("edge-a has no workload to choose")

    def offload(self, on: bool, clients: Sequence[str] = ()) -> None:
        """Switch segmentation offloads of all devices of both hosts, the clients' machines and the switch.

        With offloads veth passes super-packets of 64 KiB.
        """
        state = "on" if on else "off"
        command = (
            "for d in $(ls /sys/class/net | grep -vx lo); do "
            f"ethtool -K $d tso {state} gso {state} gro {state} 2>/dev/null; done; true"
        )
        plan = self.lab.plan
        names = [plan.namespace(name) for name in (*plan.topology.hosts, *clients)]
        for namespace in [*names, plan.switch] if clients else names:
            run("ip", "netns", "exec", namespace, "sh", "-c", command)
