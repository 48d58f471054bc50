"""`make demo`, `make demo-vm`: three edge hosts deployed with Ansible, 100 held connections, a new cost, a stopped
workload.

Every number shown beside "expected" is computed by `skedge.core.placement.rule` from the costs at hand. The exit code
is 0 only if each split is as expected and no open connection was cut by the change. The lab stays up.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from tests.lab import lab as labs
from tests.lab.sh import REPO, LabError, say
from tests.lab.topology import DEFAULT_LAB
from tests.lab.traffic import Holder, expected, start_server, stop_server

INVENTORY = REPO / "inventories" / "demo"
CONNECTIONS = 100
COST_BEFORE, COST_AFTER = 10, 1
HOSTS = ("edge-a", "edge-b", "edge-c")
CALM = {"container": 30.0, "vm": 300.0}


class Demo:
    """The steps, and whether all of them showed what the rule says."""

    def __init__(self, lab: labs.Lab) -> None:
        self.lab = lab
        self.holder = Holder(lab, "edge-a")
        self.calm = CALM[lab.plan.topology.kind]
        self.failures: list[str] = []
        self.step_number = 0
        self.started = time.monotonic()

    def step(self, text: str) -> None:
        """Say what comes."""
        self.step_number += 1
        print(f"\n== {self.step_number}. {text}  [{time.monotonic() - self.started:.0f} s]", flush=True)

    def expect(self, good: bool, text: str) -> None:
        """Print one finding; a bad one fails the demo at its end."""
        print(f"   {'ok  ' if good else 'FAIL'} {text}", flush=True)
        if not good:
            self.failures.append(text)

    def compare(self, title: str, got: Mapping[str, int], want: Mapping[str, int]) -> None:
        """Print a split beside the expected one."""
        print(f"   {title:34}" + "".join(f"{host:>10}" for host in HOSTS))
        for label, split in (("measured", got), ("expected", want)):
            print(f"   {label:>34}" + "".join(f"{split.get(host, 0):>10}" for host in HOSTS))
        self.expect({h: got.get(h, 0) for h in HOSTS} == {h: want.get(h, 0) for h in HOSTS}, "measured as expected")

    # ---- steps -----------------------------------------------------------------------------------------------

    def deploy(self, inventory: Path) -> None:
        """Run the playbook, as an operator does, with its output shown."""
        argv = ["ansible-playbook", "-i", str(inventory)]
        if inventory != INVENTORY or self.lab.plan.lab != DEFAULT_LAB:
            argv += ["-i", str(self.lab.directory / "inventory")]
        print(f"   $ {' '.join([*argv, 'deploy.yml'])}".replace(f"{REPO}/", ""), flush=True)
        done = subprocess.run(
            [*argv, "deploy.yml"], cwd=REPO, env={**os.environ, "ANSIBLE_FORCE_COLOR": "0"}, check=False
        )
        if done.returncode != 0:
            raise LabError(f"the playbook failed (exit {done.returncode}): see above; the lab stays up")

    def workloads(self) -> None:
        """Start a server on each host, and wait until edge-a's controller has heard of all of them."""
        for host in HOSTS:
            start_server(self.lab, host)
        ready = "skedge explain backend --json"
        self.wait("edge-a sees three healthy workloads", lambda: self._winners(ready) == 3)
        self.holder.start()

    def _winners(self, command: str) -> int:
        done = self.lab.ssh("edge-a", command, check=False)
        if done.returncode != 0:
            return 0
        return sum(1 for row in yaml.safe_load(done.stdout)["candidates"] if row["reason"] == "none")

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait until something holds, and say how long it took."""
        begin = time.monotonic()
        while not condition():
            if time.monotonic() - begin > self.calm:
                raise LabError(f"not within {self.calm:.0f} s: {what}")
            time.sleep(0.2)
        print(f"   {what} ({time.monotonic() - begin:.1f} s)", flush=True)

    def first_hundred(self) -> dict[str, int]:
        """Open the connections one after another and compare the split."""
        answer = self.holder.ask("open", CONNECTIONS)
        self.expect(not answer["failures"], f"{CONNECTIONS} connections opened in {answer['ms']} ms, none failed")
        self.compare(
            f"{CONNECTIONS} held connections from edge-a", answer["answers"], expected(costs(COST_BEFORE), CONNECTIONS)
        )
        return answer["answers"]

    def change_cost(self, held: Mapping[str, int]) -> dict[str, int]:
        """Change a link's cost in a copy of the inventory, deploy, and see what is kept and what is new."""
        edited = self.lab.directory / "edited"
        shutil.rmtree(edited, ignore_errors=True)
        shutil.copytree(INVENTORY, edited)
        file = edited / "host_vars" / "edge-a.yml"
        text = file.read_text()
        changed = text.replace(f"cost: {COST_BEFORE}", f"cost: {COST_AFTER}")
        if changed == text:
            raise LabError(f"{file}: there is no 'cost: {COST_BEFORE}' to change")
        file.write_text(changed)
        print(f"   {file.relative_to(REPO)} (a copy): edge-a -- edge-b, cost {COST_BEFORE} -> {COST_AFTER}")
        self.deploy(edited)
        self.wait("edge-a uses the new cost", lambda: self._cost_of("edge-b") == COST_AFTER)
        check = self.holder.ask("check")
        self.expect(
            check["alive"] == CONNECTIONS and check["dead"] == 0,
            f"{check['alive']} of {CONNECTIONS} open connections live on",
        )
        self.expect(check["alive_by_name"] == dict(held), "each is where it was")
        answer = self.holder.ask("open", CONNECTIONS)
        want = expected(costs(COST_AFTER), CONNECTIONS, held)
        self.compare(f"the next {CONNECTIONS}, on top of those", answer["answers"], want)
        return self.holder.names()

    def _cost_of(self, site: str) -> int | None:
        done = self.lab.ssh("edge-a", "skedge explain backend --json", check=False)
        rows = yaml.safe_load(done.stdout)["candidates"] if done.returncode == 0 else []
        return next((row["path_cost"] for row in rows if row["site"] == site), None)

    def stop_workload(self, held: Mapping[str, int]) -> None:
        """Stop B's workload and see where its clients go, and when."""
        lost = held["edge-b"]
        self.holder.ask("keep")
        stopped = stop_server(self.lab, "edge-b")
        self.wait(f"all {lost} clients of edge-b's workload are served again", lambda: self._served(lost))
        events = self.holder.ask("events")["events"]
        if self.lab.plan.topology.kind == "vm":  # each has its own clock: count from when the clients noticed
            stopped = min(e["cut"] for e in events)
        times = sorted((e["served"] - stopped) * 1000 for e in events if e["served"])
        refusals = sum(e["refused"] for e in events)
        first, median, last = times[0], times[len(times) // 2], times[-1]
        print(f"   served again after: first {first:.0f} ms, median {median:.0f} ms, last {last:.0f} ms")
        print(f"   ({refusals} attempts were refused on the way)")
        rest = {site: cost for site, cost in costs(COST_AFTER).items() if site != "edge-b"}
        want = expected(rest, lost, held)
        got = {site: sum(1 for e in events if e["by"] == site) for site in HOSTS}
        self.compare(f"where the {lost} went", got, want)

    def _served(self, lost: int) -> bool:
        answer = self.holder.ask("events")
        return len(answer["events"]) == lost and answer["busy"] == 0


def costs(a_to_b: int) -> dict[str, int]:
    """Return the path costs from edge-a with that cost of its link to edge-b; edge-b to edge-c is 20."""
    return {"edge-a": 0, "edge-b": a_to_b, "edge-c": a_to_b + 20}


LOOK_AROUND = """
The lab stays up{name}. Look around:
   make shell-a{lab}                       # log in to edge-a; also shell-b, shell-c
     skedge status
     skedge show links                # also: site sites routes services listeners connections drops sync
     skedge explain backend           # every candidate, its perceived cost, and the winner
     curl http://127.0.0.1:8080/      # who answers?
   .venv/bin/python -m tests.lab{option} cut edge-a edge-b      # silently; heal takes it back
   make lab-down{lab}                      # removes it; make clean removes every trace of all labs
"""


def main(argv: list[str] | None = None) -> int:
    """Run the demo in the lab ``LAB``; exit code 1 if anything was not as expected."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.demo", description=__doc__)
    parser.add_argument("--topology", default="line", choices=("line", "vm-line"))
    topology = parser.parse_args(argv).topology
    name = os.environ.get("LAB") or DEFAULT_LAB
    try:
        with labs.locked(name):
            lab = labs.create(name, topology)
            demo = Demo(lab)
            what = "VMs" if topology == "vm-line" else "edge hosts"
            demo.step(f"three {what}: edge-a --10-- edge-b --20-- edge-c")
            lab.up()
        Holder(lab, "edge-a").stop()
        demo.step("deploy with Ansible over ssh")
        demo.deploy(INVENTORY)
        demo.step("a workload on each host, on its own 127.0.0.1:9090")
        demo.workloads()
        demo.step(f"{CONNECTIONS} connections from edge-a to its listener 127.0.0.1:8080, held open")
        held = demo.first_hundred()
        demo.step(f"the link edge-a -- edge-b now costs {COST_AFTER}")
        held = demo.change_cost(held)
        demo.step("edge-b's workload stops")
        demo.stop_workload(held)
    except LabError as error:
        say(str(error))
        return 1
    other = name != DEFAULT_LAB
    print(
        LOOK_AROUND.format(
            name=f" (LAB={name})" if other else "",
            lab=f" LAB={name}" if other else "",
            option=f" --lab {name}" if other else "",
        )
    )
    if demo.failures:
        print(f"demo: {len(demo.failures)} findings were not as expected: {'; '.join(demo.failures)}", file=sys.stderr)
        return 1
    print(f"demo: all as expected, in {time.monotonic() - demo.started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
