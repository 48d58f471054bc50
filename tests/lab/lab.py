"""A whole lab: brings it up and down, remembers it, writes what Ansible and ssh need.

Files are under ``.lab/<LAB>/``. ``/run/skedge-lab/<LAB>.json`` says which labs this machine has and whose they are, so
that two checkouts never take the same name or address range, and an interrupted lab is found again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab import inventory, net, net_lan
from tests.lab.host import Host, cgroup_roots
from tests.lab.image import DEFAULT_SUITE, base_image, wanted_suites
from tests.lab.machine import LanMachine
from tests.lab.sh import LABS, REPO, LabError, run, say, unmount
from tests.lab.topology import DEFAULT_LAB, Machine, Plan, Segment, Topology, check_lab_name, load_topology
from tests.lab.vm_host import VmHost

REGISTRY = Path("/run/skedge-lab")
BOOT_TIMEOUT = {"container": 90.0, "vm": 600.0}
CONNECT_TIMEOUT = {"container": 3, "vm": 20}


@dataclass(frozen=True)
class Lab:
    """A lab that has a name and a place among the others."""

    plan: Plan

    @property
    def directory(self) -> Path:
        """The lab's files."""
        return LABS / self.plan.lab

    @property
    def hosts(self) -> list[Host]:
        """All hosts, in the topology's order."""
        return [self.host(name) for name in self.plan.topology.hosts]

    def host(self, name: str) -> Host:
        """Return one host."""
        if name not in self.plan.topology.hosts:
            raise LabError(f"lab {self.plan.lab} has no host {name}: {', '.join(self.plan.topology.hosts)}")
        kind = VmHost if self.plan.topology.kind == "vm" else Host
        return kind(self.plan, name, self.directory / "hosts" / name)

    @property
    def machines(self) -> list[LanMachine]:
        """All machines behind the hosts, in the topology's order."""
        return [self.lan(machine.name) for machine in self.plan.topology.machines]

    def lan(self, name: str) -> LanMachine:
        """Return one machine of a LAN, or a container."""
        machine = self.plan.topology.machine(name)
        return LanMachine(self.plan, machine, self.host(machine.at), self.directory / "machines" / name)

    # ---- up and down -----------------------------------------------------------------------------------------

    def up(self) -> None:
        """Bring up all that is not up; one that is up stays as it is."""
        started = time.monotonic()
        bases = {host: base_image(self.plan.suite(host)) for host in self.plan.topology.hosts}
        inventory.make_keys(self.plan, self.directory)
        net.build(self.plan)
        net_lan.build(self.plan)
        for machine in self.machines:
            machine.mount(bases[machine.machine.at])
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(lambda host: self._start(host, bases[host.name]), self.hosts))
            inventory.write(self.plan, self.directory)
            list(pool.map(self.wait, self.hosts))
        say(f"lab {self.plan.lab}: {len(self.hosts)} hosts up after {time.monotonic() - started:.0f} s")

    def _start(self, host: Host, base: Path) -> None:
        if host.running():
            return
        host.mount(base)
        public = (self.directory / "ssh/id_ed25519.pub").read_text()
        host.furnish(public, self.directory / "ssh" / f"host_{host.name}")
        host.start()

    def wait(self, host: Host) -> None:
        """Wait until a host has booted and lets us in."""
        timeout = BOOT_TIMEOUT[self.plan.topology.kind]
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            done = self.ssh(host.name, "systemctl is-system-running --wait", check=False, timeout=timeout)
            if done.stdout.strip() in ("running", "degraded"):
                return
            if not host.running():
                raise LabError(f"{host.name} does not boot; the end of {host.console}:\n{_tail(host.console)}")
            time.sleep(0.3)
        raise LabError(
            f"{host.name} is not up after {timeout:.0f} s; the end of {host.console}:\n{_tail(host.console)}"
        )

    def down(self) -> None:
        """Remove every trace of the lab, from whatever state it is in."""
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(LanMachine.remove, self.machines))
            list(pool.map(Host.remove, self.hosts))
        net.tear_down(self.plan)
        for root in cgroup_roots():
            for group in (root / "skedge-lab" / self.plan.lab, root / "skedge-lab"):
                with contextlib.suppress(OSError):  # not there, or another lab is still in it
                    group.rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            LABS.rmdir()
        (REGISTRY / f"{self.plan.lab}.json").unlink(missing_ok=True)
        say(f"lab {self.plan.lab}: gone")

    def restart(self, name: str) -> None:
        """Power one host off and boot it again; its disk stays."""
        host = self.host(name)
        host.power_off()
        unmount(host.bpffs)
        net.reset_host(self.plan, name)
        net_lan.reset_host(self.plan, name)
        host.mount(base_image(self.plan.suite(name)))
        host.start()
        self.wait(host)

    # ---- use -------------------------------------------------------------------------------------------------

    def ssh_argv(self, host: str, *options: str) -> list[str]:
        """Return the command line that logs in to a host."""
        ssh = self.directory / "ssh"
        return [
            "ssh", "-F", "none", "-i", str(ssh / "id_ed25519"), "-o", f"UserKnownHostsFile={ssh / 'known_hosts'}",
            "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
            "-o", f"ConnectTimeout={CONNECT_TIMEOUT[self.plan.topology.kind]}",
            *options, f"root@{self.plan.address(host)}",
        ]  # fmt: skip

    def ssh(
        self, host: str, command: str, *, check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on a host and return what it said."""
        argv = [*self.ssh_argv(host), command]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )
        if check and done.returncode != 0:
            words = (done.stderr.strip() or done.stdout.strip())[-400:]
            raise LabError(f"{host}: {command[:200]}: exit {done.returncode}: {words}")
        return done

    def status(self) -> list[str]:
        """Return one line a host."""
        words = {True: "running", False: "off"}
        hosts = [f"{h.name:12} {words[h.running()]:8} {self.plan.address(h.name)}  {h.root}" for h in self.hosts]
        kinds = {True: "a container of", False: "on the LAN of"}
        return hosts + [f"{m.name:12} {kinds[m.machine.inside]} {m.machine.at} {m.address}" for m in self.machines]


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-12:]) if path.exists() else "(empty)"


# ---- which labs there are ------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(lab: str) -> Iterator[None]:
    """Keep other runs away from a lab while it is brought up or down."""
    REGISTRY.mkdir(exist_ok=True)
    with (REGISTRY / f".{lab}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def registered() -> dict[str, dict[str, object]]:
    """Return all labs of this machine by name."""
    return {p.stem: json.loads(p.read_text()) for p in sorted(REGISTRY.glob("*.json"))}


def find(name: str) -> Lab | None:
    """Return the lab of that name of this checkout, or None."""
    entry = registered().get(check_lab_name(name))
    if entry is None:
        return None
    if entry["checkout"] != str(REPO):
        raise LabError(f"LAB={name} belongs to {entry['checkout']}: take another name, or bring it down there")
    return _from_entry(name, entry)


def get(name: str) -> Lab:
    """Return the lab of that name, which must be there."""
    lab = find(name)
    if lab is None:
        raise LabError(f"there is no lab {name}: make lab-up LAB={name}")
    return lab


def create(name: str, topology: str, suites: tuple[str, ...] = ()) -> Lab:
    """Return the lab of that name, registering it with an address range of its own if it is new.

    Args:
        name: decides everything that labs do not share.
        topology: the name of one in tests/lab/topologies, or a file.
        suites: which Debian the hosts have, in turn; those of ``SUITE`` if there are none.
    """
    if os.geteuid() != 0:
        raise LabError("a lab needs root (namespaces, mounts, containers)")
    wanted, lab = load_topology(topology), find(name)
    asked, suites = bool(suites) or "SUITE" in os.environ, suites or wanted_suites()
    if lab is not None:
        if asked and lab.plan.suites != suites:
            said = f"LAB={name} is up with hosts of {', '.join(lab.plan.suites)}"
            raise LabError(f"{said}: take another name, or make lab-down LAB={name}")
        if lab.plan.topology.kind != wanted.kind:
            kind = lab.plan.topology.kind
            raise LabError(
                f"LAB={name} is up with hosts of kind {kind}: take another name, or make lab-down LAB={name}"
            )
        return lab
    with locked("registry"):
        plan = Plan(name, wanted, _free_slot(name), suites)
        segments = [[s.a, s.b, s.cost] for s in plan.topology.segments]
        entry = {
            "checkout": str(REPO), "slot": plan.slot, "topology": plan.topology.name,
            "kind": plan.topology.kind, "hosts": list(plan.topology.hosts), "segments": segments,
            "machines": [asdict(machine) for machine in plan.topology.machines], "suites": list(suites),
        }  # fmt: skip
        (REGISTRY / f"{name}.json").write_text(json.dumps(entry))
    return Lab(plan)


def _from_entry(name: str, entry: dict) -> Lab:  # type: ignore[type-arg]
    segments = tuple(Segment(a, b, cost, i) for i, (a, b, cost) in enumerate(entry["segments"]))
    machines = tuple(Machine(**row) for row in entry.get("machines", ()))
    topology = Topology(entry["topology"], tuple(entry["hosts"]), segments, machines, entry.get("kind", "container"))
    return Lab(Plan(name, topology, entry["slot"], tuple(entry.get("suites", (DEFAULT_SUITE,)))))


def _free_slot(name: str) -> int:
    """Return the /24 of a new lab: 0 for the demo, whose addresses are written in its inventory."""
    taken = {entry["slot"] for entry in registered().values()}
    routes = run("ip", "-4", "route", "show")
    slots = [0] if name == DEFAULT_LAB else range(1, 256)
    for slot in slots:
        if slot not in taken and f"10.77.{slot}." not in routes:
            return slot
    raise LabError(f"no address range is free for lab {name}; labs up: {', '.join(registered()) or 'none'}")


def remove_all(tell: Callable[[str], None] = say) -> None:
    """Remove every lab of this checkout, also what interrupted runs left."""
    for name, entry in registered().items():
        if entry["checkout"] == str(REPO):
            with locked(name):
                _from_entry(name, entry).down()
    for left in LABS.glob("*") if LABS.exists() else []:
        tell(f"removing {left}")
        shutil.rmtree(left)
