"""One lab host: a systemd-nspawn container with its own overlay, cgroup, bpffs and network namespace.

Each of these four is made outside and handed in, because containers started side by side otherwise share one cgroup
and one bpffs, and then one host's eBPF attach replaces another's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.lab.sh import REPO, LabError, run, unmount
from tests.lab.topology import Plan

WORKLOADS = REPO / "tests" / "workloads"
WORKLOADS_INSIDE = "/opt/lab"
PROPAGATE = Path("/run/systemd/nspawn/propagate")  # nspawn leaves a directory a machine there


def cgroup_roots() -> list[Path]:
    """Return the cgroup trees that a container's systemd uses: cgroup2, and systemd's v1 tree if any."""
    roots = []
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options = line.split()[:4]
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            roots.append(Path(where))
    if not roots:
        raise LabError("no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup")
    return roots


def cgroup2_root() -> Path:
    """Return where cgroup2 is mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2":
            return Path(line.split()[1])
    raise LabError("no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup")


def known_names(plan: Plan) -> str:
    """Return the /etc/hosts of a lab: its edge hosts and the machines behind them."""
    hosts = [f"{plan.address(host)} {host}" for host in plan.topology.hosts]
    machines = [f"{plan.machine_addresses(machine)[0]} {machine.name}" for machine in plan.topology.machines]
    return "\n".join(["127.0.0.1 localhost", "::1 localhost ip6-localhost", *hosts, *machines]) + "\n"


@dataclass(frozen=True)
class Host:
    """A lab host's files and processes; every method may be called in any state."""

    plan: Plan
    name: str
    directory: Path

    @property
    def root(self) -> Path:
        """The mounted root directory."""
        return self.directory / "root"

    @property
    def bpffs(self) -> Path:
        """Its own bpffs, seen from outside."""
        return self.directory / "bpf"

    @property
    def console(self) -> Path:
        """What its systemd says while booting."""
        return self.directory / "console.log"

    @cached_property
    def cgroups(self) -> list[Path]:
        """Its cgroup in each tree; cgroup2 is among them."""
        return [root / "skedge-lab" / self.plan.lab / self.name for root in cgroup_roots()]

    @property
    def cgroup(self) -> Path:
        """Its cgroup in the cgroup2 tree."""
        return cgroup2_root() / "skedge-lab" / self.plan.lab / self.name

    # ---- files -----------------------------------------------------------------------------------------------

    def mount(self, base: Path) -> None:
        """Lay the overlay over the base image, and mount the bpffs."""
        for part in ("root", "upper", "work", "bpf"):
            (self.directory / part).mkdir(parents=True, exist_ok=True)
        if not os.path.ismount(self.root):
            layers = f"lowerdir={base},upperdir={self.directory}/upper,workdir={self.directory}/work"
            run("mount", "-t", "overlay", "overlay", "-o", layers, self.root)
        if not os.path.ismount(self.bpffs):
            run("mount", "-t", "bpf", "-o", "mode=0700", "bpf", self.bpffs)  # as systemd mounts a real host's

    def furnish(self, public_key: str, host_key: Path) -> None:
        """Write the host's identity: names, machine id, ssh host key, who may log in."""
        etc = self.root / "etc"
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(known_names(self.plan))
        machine = hashlib.md5(f"{self.plan.lab}/{self.name}".encode(), usedforsecurity=False).hexdigest()
        (etc / "machine-id").write_text(f"{machine}\n")
        key = etc / "ssh" / "ssh_host_ed25519_key"
        shutil.copy(host_key, key)
        key.chmod(0o600)
        (etc / "ssh/sshd_config.d/lab.conf").write_text(
            "HostKey /etc/ssh/ssh_host_ed25519_key\nUseDNS no\nMaxStartups 100\n"
        )
        ssh = self.root / "root/.ssh"
        ssh.mkdir(mode=0o700, exist_ok=True)
        (ssh / "authorized_keys").write_text(public_key)
        (ssh / "authorized_keys").chmod(0o600)

    # ---- processes -------------------------------------------------------------------------------------------

    def running(self) -> bool:
        """Tell whether any process of the host lives."""
        events = self.cgroup / "cgroup.events"
        return events.exists() and "populated 1" in events.read_text()

    def leader(self) -> int:
        """Return the process id, outside, of the host's PID 1; 0 when there is none."""
        for group, _, _ in os.walk(self.cgroup):  # a session's group may go while it is walked over
            with contextlib.suppress(OSError):
                for pid in map(int, Path(group, "cgroup.procs").read_text().split()):
                    if _inner_pids(pid)[1:] == [1]:
                        return pid
        return 0

    def inner_cgroup(self) -> Path:
        """Return the root of the cgroup2 tree as the host sees it, from outside: where its programs are attached."""
        leader = self.leader()
        if not leader:
            raise LabError(f"{self.name} does not run")
        for line in Path(f"/proc/{leader}/cgroup").read_text().splitlines():
            if line.startswith("0::"):  # …/payload/init.scope
                return (self.cgroup.parents[2] / line[4:]).parent
        raise LabError(f"{self.name}: its systemd is in no cgroup2")

    def start(self) -> None:
        """Boot it; returns as soon as its processes are in its cgroup (`running`), or ended before that."""
        if self.running():
            return
        self._remove_cgroups()
        for group in self.cgroups:
            group.mkdir(parents=True, exist_ok=True)
        enter = "".join(f"echo $$ > {group}/cgroup.procs; " for group in self.cgroups)
        env = {**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network", "SYSTEMD_NSPAWN_LOCK": "0"}
        with self.console.open("ab") as out:
            made = subprocess.Popen(
                ["sh", "-ec", f'{enter} exec "$@"', "sh", *self.boot_argv()],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True,
            )  # fmt: skip
        while not self.running() and made.poll() is None:
            time.sleep(0.01)

    def boot_argv(self) -> list[str]:
        """Return the command line that boots it."""
        binds = [f"--bind={self.bpffs}:/sys/fs/bpf", f"--bind-ro={WORKLOADS}:{WORKLOADS_INSIDE}"]
        if Path("/dev/net/tun").exists():
            binds.append("--bind=/dev/net/tun")
        return [
            "systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}", f"--machine={self.plan.tag}-{self.name}",
            f"--hostname={self.name}", "--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off",
            "--timezone=off", f"--network-namespace-path=/run/netns/{self.plan.namespace(self.name)}",
            "--capability=all", "--system-call-filter=bpf perf_event_open", "--console=pipe", *binds,
        ]  # fmt: skip

    def power_off(self, timeout: float = 20) -> None:
        """Shut it down as its power button would, then without asking."""
        leader = self.leader()
        if leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(leader, signal.SIGRTMIN + 4)
            end = time.monotonic() + timeout
            while self.running() and time.monotonic() < end:
                time.sleep(0.1)
        self.kill()

    def kill(self) -> None:
        """Pull the plug: every process of its cgroup dies, nothing else does."""
        if self.cgroup.exists():
            (self.cgroup / "cgroup.kill").write_text("1")
        end = time.monotonic() + 10
        while self.running():
            if time.monotonic() > end:
                raise LabError(f"{self.cgroup}: processes do not die")
            time.sleep(0.05)

    def _remove_cgroups(self) -> None:
        """Remove the cgroups of a host that does not run.

        One in which everything was killed cannot be used again: Linux since 6.14 kills what a process of such a group
        starts in a newer group of its own, as systemd 257 starts every service.
        """
        for group in self.cgroups:
            for inner in sorted(group.rglob("*/"), key=lambda p: len(p.parts), reverse=True):
                inner.rmdir()
            with contextlib.suppress(FileNotFoundError):
                group.rmdir()

    def remove(self) -> None:
        """Kill it and remove its mounts, cgroups and files."""
        self.kill()
        self._remove_cgroups()
        unmount(self.root)
        unmount(self.bpffs)
        if self.directory.exists():
            shutil.rmtree(self.directory)
        shutil.rmtree(PROPAGATE / f"{self.plan.tag}-{self.name}", ignore_errors=True)


def _inner_pids(pid: int) -> list[int]:
    """Return a process's ids, outermost namespace first."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return [int(word) for word in line.split()[1:]]
    return []
