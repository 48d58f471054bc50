"""What deploying costs: ``python -m tests.bench.deployments [--against CHECKOUT]``.

A first deployment, a second that finds nothing to change, and a restart of the controllers, each in a fresh lab of
three hosts; of every version the time on the clock, the processor seconds of the control node and of a host (its
cgroup's, so other work on the machine counts only for the clock), the tasks, and the commands that are run on a host:
`modules` are those that start Python there, and cost the most where a host is slow.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab import lab as labs
from tests.lab.sh import REPO, LabError, run, say

INVENTORY = REPO / "inventories" / "demo"
CALLBACKS = Path(__file__).parent / "callbacks"
COLUMNS = f"{'tasks':>6} {'commands':>9} {'modules':>8}"


def main() -> int:
    """Measure this checkout and perhaps another; print one row for each step."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.deployments", description=__doc__)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="the version in another checkout, first")
    args = parser.parse_args()
    checkouts = [one.resolve() for one in (args.against, REPO) if one]
    print(f"{'version':10} {'step':20} {'clock s':>8} {'control node s':>15} {'a host s':>9} {COLUMNS}")
    try:
        for checkout in checkouts:
            _measure(checkout)
    except LabError as error:
        say(str(error))
        return 1
    return 0


def _measure(checkout: Path) -> None:
    """Deploy one version in a lab of its own, which is gone afterwards."""
    commit = run("git", "-C", checkout, "rev-parse", "--short", "HEAD", check=False).strip()
    lab = labs.create("bench-deploy", "line")
    try:
        lab.up()
        steps: dict[str, Callable[[], str]] = {
            "first deployment": lambda: _deploy(lab, checkout),
            "second deployment": lambda: _deploy(lab, checkout),
            "restart": lambda: _restart(lab),
        }
        for step, act in steps.items():
            before = time.monotonic(), _children_s(), _hosts_s(lab)
            counts = act()
            after = time.monotonic(), _children_s(), _hosts_s(lab)
            clock, control, hosts = (now - then for now, then in zip(after, before, strict=True))
            row = f"{commit:10} {step:20} {clock:8.1f} {control:15.1f} {hosts / len(lab.hosts):9.2f}"
            print(f"{row} {counts}", flush=True)
    finally:
        lab.down()


def _deploy(lab: labs.Lab, checkout: Path) -> str:
    """Deploy; return the columns of what was run, of all hosts and of one."""
    file = lab.directory / "remote_commands"
    file.unlink(missing_ok=True)
    own = checkout / ".venv/bin/ansible-playbook"
    done = subprocess.run(
        [own if own.exists() else "ansible-playbook", "-i", INVENTORY, "-i", lab.directory / "inventory", "deploy.yml"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACKS)}
        | {"ANSIBLE_CALLBACKS_ENABLED": "remote_commands", "SKEDGE_REMOTE_COMMANDS": str(file)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"the playbook failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    commands = [json.loads(line) for line in file.read_text().splitlines()]
    modules = [one for one in commands if "python" in one["command"]]
    tasks = len(re.findall(r"^(?:TASK|RUNNING HANDLER) ", done.stdout, re.MULTILINE))
    return f"{tasks:6} {len(commands) / len(lab.hosts):9.1f} {len(modules) / len(lab.hosts):8.1f}"


def _restart(lab: labs.Lab) -> str:
    """Restart the controllers of all hosts at once; systemctl returns when each says that it is ready."""
    command = "systemctl restart skedge"
    sessions = [subprocess.Popen([*lab.ssh_argv(host.name), command], stdin=subprocess.DEVNULL) for host in lab.hosts]
    codes = [session.wait() for session in sessions]
    if any(codes):
        raise LabError("a controller is not ready again after its restart")
    return ""


def _children_s() -> float:
    """Return the processor seconds of the programs that this one ran and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _hosts_s(lab: labs.Lab) -> float:
    """Return the processor seconds of all hosts of the lab since they were made."""
    files = [host.cgroup / "cpu.stat" for host in lab.hosts]
    return sum(int(file.read_text().split()[1]) for file in files) / 1e6


if __name__ == "__main__":
    sys.exit(main())
