"""A machine behind an edge host: a network namespace with a root of its own, in which programs are run from outside.

It has the base image's programs (an overlay over it, as the edge hosts have) and no systemd. Every program is in the
machine's cgroup, so that all of them go with it. A container's cgroup is inside its edge host's, as a real one's is:
the host's cgroup programs see its sockets and must leave them alone.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from tests.lab.host import WORKLOADS, WORKLOADS_INSIDE, Host, cgroup2_root, known_names
from tests.lab.sh import LabError, mounted, run, unmount
from tests.lab.topology import Machine, Plan

# What a program sees of this machine is in a mount namespace of its own, so nothing is left to be unmounted.
ENTER = (
    "echo $$ > {cgroup}/cgroup.procs; ulimit -n $(ulimit -Hn); "
    "exec nsenter --net=/run/netns/{namespace} unshare --mount sh -ec '"
    "mount -t proc proc {root}/proc; mount --rbind /dev {root}/dev; mount --bind {workloads} {root}{inside}; "
    'cd {root}; exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 chroot . "$@"\' sh "$@"'
)


@dataclass(frozen=True)
class LanMachine:
    """A machine's files and processes; removing it works in any state."""

    plan: Plan
    machine: Machine
    host: Host
    directory: Path

    @property
    def name(self) -> str:
        """Its name."""
        return self.machine.name

    @property
    def address(self) -> IPv4Address:
        """Its IPv4 address."""
        return self.plan.machine_addresses(self.machine)[0]

    @property
    def address6(self) -> IPv6Address:
        """Its IPv6 address."""
        return self.plan.machine_addresses(self.machine)[1]

    @property
    def gateway(self) -> IPv4Address:
        """Its edge host's IPv4 address on the same network."""
        return self.plan.lan_addresses(self.machine.at, self.machine.device)[0]

    @property
    def gateway6(self) -> IPv6Address:
        """Its edge host's IPv6 address on the same network."""
        return self.plan.lan_addresses(self.machine.at, self.machine.device)[1]

    @property
    def root(self) -> Path:
        """Its mounted root directory."""
        return self.directory / "root"

    def cgroup(self) -> Path:
        """Return where its programs are."""
        if self.machine.inside:
            return self.host.inner_cgroup() / f"box-{self.name}"
        return cgroup2_root() / "skedge-lab" / self.plan.lab / self.name

    def mount(self, base: Path) -> None:
        """Lay its overlay over the base image."""
        for part in ("root", "upper", "work"):
            (self.directory / part).mkdir(parents=True, exist_ok=True)
        if not mounted(self.root):
            layers = f"lowerdir={base},upperdir={self.directory}/upper,workdir={self.directory}/work"
            run("mount", "-t", "overlay", "overlay", "-o", layers, self.root)
        (self.root / "etc/hosts").write_text(known_names(self.plan))
        (self.root / WORKLOADS_INSIDE.lstrip("/")).mkdir(exist_ok=True)

    # ---- programs --------------------------------------------------------------------------------------------

    def argv(self, *words: str | Path) -> list[str]:
        """Return a command line for this machine that runs a program there."""
        group = self.cgroup()
        group.mkdir(parents=True, exist_ok=True)
        enter = ENTER.format(
            cgroup=group, namespace=self.plan.namespace(self.name), root=self.root,
            workloads=WORKLOADS, inside=WORKLOADS_INSIDE,
        )  # fmt: skip
        return ["sh", "-ec", enter, "sh", *map(str, words)]

    def run(self, command: str, *, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a shell command there and return what it said."""
        done = subprocess.run(
            self.argv("sh", "-c", command),
            capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if check and done.returncode != 0:
            words = (done.stderr.strip() or done.stdout.strip())[-400:]
            raise LabError(f"{self.name}: {command[:200]}: exit {done.returncode}: {words}")
        return done

    def start(self, command: str, *, listens: str = "", timeout: float = 10) -> None:
        """Start a program that goes on by itself.

        Args:
            command: a shell command; what it says goes to ``log`` in the machine's directory.
            listens: a filter of ss(8), such as ``sport = :80``; wait until a socket that listens fits it.
            timeout: seconds to wait for that.
        """
        with (self.directory / "log").open("ab") as log:
            made = subprocess.Popen(
                self.argv("sh", "-c", f"exec {command}"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + timeout
        while listens and not self.listening(listens):
            if made.poll() is not None or time.monotonic() > end:
                raise LabError(f"{self.name}: {command[:200]} does not listen: {self.said()[-400:]}")
            time.sleep(0.05)

    def listening(self, expression: str) -> bool:
        """Tell whether a listening socket there fits a filter of ss(8)."""
        return bool(run("ip", "netns", "exec", self.plan.namespace(self.name), "ss", "-Hltun", expression).strip())

    def said(self) -> str:
        """Return what started programs said."""
        log = self.directory / "log"
        return log.read_text(errors="replace") if log.exists() else ""

    def stop(self) -> None:
        """Kill every program of the machine."""
        with contextlib.suppress(LabError):  # a container's host is off: its programs went with it
            group = self.cgroup()
            if not group.exists():
                return
            (group / "cgroup.kill").write_text("1")
            end = time.monotonic() + 10
            while "populated 1" in (group / "cgroup.events").read_text():
                if time.monotonic() > end:
                    raise LabError(f"{group}: processes do not die")
                time.sleep(0.02)
            group.rmdir()

    def remove(self) -> None:
        """Remove every trace of it, but for its network, which goes with the lab's."""
        self.stop()
        unmount(self.root)
        if self.directory.exists():
            shutil.rmtree(self.directory)
