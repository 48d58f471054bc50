"""Real sites on one machine: a network namespace, a cgroup and a pin directory each, with real loaders and daemons."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from skedge.cli.client import ask
from skedge.core.api.documents import Answer, Explain, PlanReport, Request, Status
from skedge.core.api.shown import CandidateRow
from skedge.core.errors import ApiError
from skedge.loader.host_requirements import cgroup2_root
from tests.kit.bytecode import cache
from tests.unit.control.authority import Authority

NETWORK = "line"
BIN = Path(sys.executable).parent
WORKLOADS = Path(__file__).resolve().parents[2] / "workloads"
LOAD_S = 1800  # emulated processors compile slowly
LISTENER = "127.0.0.1:8080"
L = TypeVar("L", bound="Line")
_NUMBERS = itertools.count()
PATIENCE = 4  # limits of waits say that something never comes; on a machine that others load too, all comes later
SYSCTLS = (
    "net.ipv4.fib_multipath_hash_policy=1",
    "net.ipv4.ip_local_reserved_ports=61000-65535",
)


def run(*command: object, check: bool = True, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout)
    assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stderr or done.stdout}"
    return done


def until(condition: Callable[[], object], within: float, what: str) -> float:
    """Wait for a condition, `PATIENCE` times as long as it should take; return the seconds it took."""
    start, limit = time.monotonic(), PATIENCE * within
    while not condition():
        assert time.monotonic() - start < limit, f"{what}: not within {limit} s"
        time.sleep(0.02)
    return time.monotonic() - start


class Site:
    """One site: files under ``directory``, a namespace, a cgroup, pins; its daemon, its server, its clients."""

    def __init__(self, name: str, directory: Path, bpffs: Path, authority: Authority, line: str) -> None:
        self.name, self.directory, self.line = name, directory, line
        self.lives = 0
        self.pin_dir = bpffs / name
        self.cgroup = cgroup2_root() / line / name
        self.document: dict[str, Any] = {}
        self.log = directory / "skedged.log"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.server: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []
        directory.mkdir()
        (directory / "state").mkdir()
        authority.directory(directory / "identity", name)

    @property
    def netns(self) -> str:
        """The namespace; that of its life before was another one."""
        return f"{self.line}{self.name}" + "x" * self.lives

    def make(self) -> None:
        """Make namespace and cgroup."""
        self.cgroup.mkdir(parents=True)
        run("ip", "netns", "add", self.netns)
        self.settings()

    def settings(self) -> None:
        """Set what the role sets on a host."""
        run("ip", "-n", self.netns, "link", "set", "lo", "up")
        self.inside("sysctl", "-qw", *SYSCTLS)

    def load(self, engine: str = "") -> None:
        """Load and attach the programs, as the unit does before the daemon starts."""
        engine = engine or self.document.get("engine", "ebpf")
        load = (BIN / "skedge-loader", "load", "--pin-dir", self.pin_dir, "--cgroup", self.cgroup, "--engine", engine)
        load += ("--cache", cache(), "--verdict", self.directory / "run" / "engine.json")
        run("nsenter", f"--net=/run/netns/{self.netns}", *load, timeout=LOAD_S)

    def inside(self, *command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace. (`ip netns exec` would give it another /sys, without our pins.)"""
        return run("nsenter", f"--net=/run/netns/{self.netns}", *command, check=check)

    def spawn(self, *command: object, log: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a process in namespace and cgroup."""
        enter = f'echo $$ > {self.cgroup}/cgroup.procs && exec nsenter --net=/run/netns/{self.netns} "$@"'
        with (log or self.directory / "others.log").open("ab") as out:
            made = subprocess.Popen(
                ["sh", "-c", enter, "sh", *map(str, command)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._started.append(made)
        return made

    # ---- the daemon ----

    @property
    def config(self) -> Path:
        return self.directory / "skedge.yaml"

    @property
    def socket(self) -> Path:
        return self.directory / "api.sock"

    def write(self, **changes: Any) -> None:
        """Write the configuration with some keys changed; without any: as it was made."""
        self.config.write_text(yaml.safe_dump({**self.document, **changes}))

    def start(self, *command: object) -> None:
        """Start the daemon, by another command if one is given; does not wait."""
        self.daemon = self.spawn(
            *(command or (BIN / "skedged",)), "--config", self.config, "--identity", self.directory / "identity",
            "--state-dir", self.directory / "state", "--pin-dir", self.pin_dir, "--socket", self.socket, log=self.log,
        )  # fmt: skip

    def kill(self) -> None:
        """Kill the daemon as the kernel would."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait(10)

    def reload(self) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGHUP)

    def log_size(self) -> int:
        return self.log.stat().st_size

    def log_since(self, size: int) -> str:
        return self.log.read_bytes()[size:].decode()

    # ---- the command ----

    def skedge(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command as an operator does."""
        return run(BIN / "skedge", "--socket", self.socket, *words, check=check)

    def document_of(self, *words: str) -> Any:
        """The document that a command prints as JSON."""
        return json.loads(self.skedge(*words, "--json").stdout)

    def ask(self, op: str, what: str = "", name: str = "", site: str = "") -> Answer:
        """Ask as the command does, without starting a process for it."""
        return ask(Request(op, what, name, site), str(self.socket))

    def status(self) -> Status:
        answer = self.ask("status").status
        assert answer is not None
        return answer

    def works(self) -> bool:
        """Whether the daemon answers, balances and heard its neighbours."""
        try:
            status = self.status()
        except ApiError:
            return False
        return status.ready and status.synced

    def rows(self, what: str) -> Any:
        """Rows of `skedge show`."""
        rows = self.ask("show", what).rows
        assert rows is not None
        return getattr(rows, "sites" if what == "site" else what)

    def connections(self) -> list[Any]:
        """Connections of the service web; flows of datagrams last a minute longer than the test that made them."""
        return [row for row in self.rows("connections") if row.service == "web"]

    def explain(self, site: str = "") -> Explain:
        answer = self.ask("explain", name="web", site=site).explain
        assert answer is not None
        return answer

    def candidates(self) -> dict[str, CandidateRow]:
        """Site -> its candidate as this site sees it."""
        return {row.site: row for row in self.explain().candidates}

    def reasons(self) -> dict[str, str]:
        return {site: row.reason for site, row in self.candidates().items()}

    def opens(self) -> dict[str, int]:
        return {site: row.open for site, row in self.candidates().items()}

    def others(self) -> dict[str, int]:
        return {site: row.others for site, row in self.candidates().items()}

    def plan(self) -> PlanReport:
        answer = self.ask("plan").plan
        assert answer is not None
        return answer

    def at_rest(self) -> bool:
        """Whether the kernel has all that the daemon wants."""
        return self.plan().steps == ()

    # ---- workload and clients ----

    def serve(self) -> None:
        """Start the workload's server and wait until it listens."""
        self.server = self.spawn("/usr/bin/python3", WORKLOADS / "server.py", "--name", self.name)
        until(lambda: ":9090" in self.inside("ss", "-Hltn").stdout, 10, f"server at {self.name}")

    def unserve(self) -> float:
        """Kill the server; return when (monotonic seconds)."""
        assert self.server is not None
        self.server.kill()
        self.server.wait(10)
        return time.monotonic()

    def stop_all(self) -> None:
        """Kill every process of the site."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait(10)
        with contextlib.suppress(FileNotFoundError):
            for pid in (self.cgroup / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            until(lambda: not (self.cgroup / "cgroup.procs").read_text(), 10, "processes of the cgroup")

    def close(self) -> None:
        """Remove every trace; may be called in any state."""
        self.stop_all()
        run("ip", "netns", "del", self.netns, check=False)
        shutil.rmtree(self.pin_dir, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            self.cgroup.rmdir()


class Machine:
    """A machine on a site's LAN: a namespace behind a device of the site, which comes while the daemon runs."""

    def __init__(self, site: Site, name: str, prefix: str) -> None:
        self.site, self.device, self.directory = site, f"lan-{name}", site.directory
        self.netns = f"{site.line}{name}"
        self.address, self.gateway = f"{prefix}.9", f"{prefix}.1"
        self._started: list[subprocess.Popen[bytes]] = []
        run("ip", "netns", "add", self.netns)
        run("ip", "-n", site.netns, "link", "add", self.device, "type", "veth", "peer", "name", "eth0",
            "netns", self.netns)  # fmt: skip
        for netns, device, address in ((site.netns, self.device, self.gateway), (self.netns, "eth0", self.address)):
            run("ip", "-n", netns, "addr", "add", f"{address}/24", "dev", device)
            run("ip", "-n", netns, "link", "set", device, "up")
        run("ip", "-n", self.netns, "link", "set", "lo", "up")

    def spawn(self, *command: object) -> subprocess.Popen[bytes]:
        """Start a process on the machine."""
        made = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.netns}", *map(str, command)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._started.append(made)
        return made

    def serve(self, name: str, port: int) -> subprocess.Popen[bytes]:
        """Start a server and wait until it listens."""
        made = self.spawn("/usr/bin/python3", WORKLOADS / "server.py", "--name", name, "--port", port,
                          "--address", self.address)  # fmt: skip
        until(lambda: f":{port}" in self.inside("ss", "-Hltn").stdout, 10, f"server {name}")
        return made

    def inside(self, *command: object) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine."""
        return run("nsenter", f"--net=/run/netns/{self.netns}", *command)

    def close(self) -> None:
        """Remove the machine and its device."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait(10)
        run("ip", "-n", self.site.netns, "link", "del", self.device, check=False)
        run("ip", "netns", "del", self.netns, check=False)


class Clients:
    """A client process at a site, or at a machine of its LAN, that holds connections to a listener."""

    def __init__(self, site: Site | Machine, listener: str = LISTENER, patience_s: float = 60.0) -> None:
        self.site, self._patience_s = site, patience_s
        self._socket = site.directory / f"hold{time.monotonic_ns()}.sock"
        host, port = listener.split(":")
        self._process = site.spawn("/usr/bin/python3", WORKLOADS / "hold.py", "serve", self._socket, host, port)
        until(self._socket.exists, 10, "the client process")

    def do(self, *words: object) -> dict[str, Any]:
        """One command of tests/workloads/hold.py."""
        command = ("/usr/bin/python3", WORKLOADS / "hold.py", "ask", self._socket, *words)
        done = run(*command, check=False, timeout=self._patience_s)
        return json.loads(done.stdout)

    def open(self, count: int, parallel: int = 1) -> dict[str, int]:
        """Open and hold; return the servers' sites. Every connect must succeed."""
        answer = self.do("open", count, parallel)
        assert not answer["failures"], answer
        return answer["answers"]

    def names(self) -> dict[str, int]:
        return self.do("count")["names"]

    def quit(self) -> None:
        self.do("quit")
        self._process.wait(10)


@contextlib.contextmanager
def running(made: L) -> Iterator[L]:
    """Make a line and take it down; its logs are shown when either fails."""
    try:
        made.make()
        yield made
    except BaseException:
        print(made.logs())
        raise
    finally:
        made.close()


@contextlib.contextmanager
def telling(made: L, session: pytest.Session) -> Iterator[L]:
    """Show a line's logs if a test fails meanwhile."""
    failed = session.testsfailed
    yield made
    if session.testsfailed > failed:
        print(made.logs())


class Line:
    """A -10- B -20- C, and a spare link A -100- C. Servers at all; everybody listens."""

    NAMES = "abc"
    LINKS = (("a", "b", 10, "10.93.1"), ("b", "c", 20, "10.93.2"), ("a", "c", 100, "10.93.3"))

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bpffs = directory / "bpf"
        self.name = f"skd{os.getpid()}-{next(_NUMBERS)}"  # several may be up at once
        self.sites: dict[str, Site] = {}

    def make(self) -> None:
        self.build()
        every = self.sites.values()
        for site in every:
            site.start()
        for site in every:
            until(site.works, 20, f"{site.name} ready")
        self.settle()

    def build(self) -> None:
        """Make everything but the daemons."""
        self.bpffs.mkdir()
        run("mount", "-t", "bpf", "skedge-daemon-test", self.bpffs)
        authority = Authority(NETWORK)
        for name in self.NAMES:
            self.sites[name] = Site(name, self.directory / name, self.bpffs, authority, self.name)
        every = self.sites.values()
        for site in every:
            site.make()
            site.document = self.document(site.name)
            site.write()
        for a, b, _, prefix in self.LINKS:
            self._cable(self.sites[a], self.sites[b], prefix)
        with ThreadPoolExecutor() as pool:
            list(pool.map(Site.load, every))
            list(pool.map(Site.serve, every))

    def _cable(self, a: Site, b: Site, prefix: str) -> None:
        run("ip", "-n", a.netns, "link", "add", f"u-{b.name}", "type", "veth", "peer", "name", f"u-{a.name}",
            "netns", b.netns)  # fmt: skip
        for here, far, number in ((a, b, 1), (b, a, 2)):
            run("ip", "-n", here.netns, "addr", "add", f"{prefix}.{number}/24", "dev", f"u-{far.name}")
            run("ip", "-n", here.netns, "link", "set", f"u-{far.name}", "up")

    def document(self, name: str, costs: Mapping[str, int] | None = None) -> dict[str, Any]:
        """skedge.yaml of a site; ``costs`` changes the cost towards a neighbour."""
        links = []
        for a, b, cost, prefix in self.LINKS:
            if name in (a, b):
                far, mine = (b, 1) if name == a else (a, 2)
                ends = {"local": f"{prefix}.{mine}", "remote": f"{prefix}.{3 - mine}"}
                links.append({"to": far, "cost": (costs or {}).get(far, cost), "transport": "vxlan", **ends})
        return {
            "version": 1,
            "network": NETWORK,
            "site": name,
            "links": links,
            "listeners": [{"service": "web", "port": 8080}],
            "connectors": [{"service": "web", "host": "127.0.0.1", "port": 9090}],
        }

    def settle(self, sites: Iterable[str] = "abc") -> None:
        """Wait until every site may choose all three workloads and nothing is open."""
        for name in sites:
            site = self.sites[name]
            until(lambda site=site: set(site.reasons().values()) == {"none"}, 15, f"all workloads usable at {name}")
            until(site.at_rest, 10, f"{name} at rest")
            until(lambda site=site: not any(site.opens().values()), 10, f"nothing open at {name}")
            until(lambda site=site: not any(site.others().values()), 10, f"no load of others at {name}")

    def cut(self, a: str, b: str) -> float:
        """Drop everything on the cable in silence: carriers stay. Return when (monotonic seconds)."""
        for here, far in ((a, b), (b, a)):
            self._drop(here, far)
        return time.monotonic()

    def _drop(self, here: str, far: str) -> None:
        rules = (
            f"table netdev cut-{far} {{ chain in {{ type filter hook ingress device u-{far} priority -400;"
            " policy drop; }; }"
        )
        self.sites[here].inside("nft", rules)

    def lose_power(self, name: str) -> None:
        """Take all of a site away but its disk, and the cables as far as its neighbours see them; nothing is said."""
        site = self.sites[name]
        cables = [(a, b) for a, b, _, _ in self.LINKS if name in (a, b)]
        for a, b in cables:
            self._drop(b if a == name else a, name)
        before, site.lives = site.netns, site.lives + 1
        run("ip", "netns", "add", site.netns)
        for a, b in cables:
            run("ip", "-n", before, "link", "set", f"u-{b if a == name else a}", "netns", site.netns)
        site.stop_all()
        run("ip", "netns", "del", before)
        shutil.rmtree(site.pin_dir, ignore_errors=True)

    def power(self, name: str) -> None:
        """Let a site boot: all starts anew, its cables are plugged in."""
        site = self.sites[name]
        site.settings()
        for a, b, _, prefix in self.LINKS:
            if name in (a, b):
                far, number = (b, 1) if a == name else (a, 2)
                run("ip", "-n", site.netns, "addr", "add", f"{prefix}.{number}/24", "dev", f"u-{far}")
                run("ip", "-n", site.netns, "link", "set", f"u-{far}", "up")
        site.load()
        site.serve()
        for a, b, _, _ in self.LINKS:
            if name in (a, b):
                self.mend(a, b)
        site.start()

    def mend(self, a: str, b: str) -> None:
        for here, far in ((a, b), (b, a)):
            self.sites[here].inside("nft", f"delete table netdev cut-{far}", check=False)

    def close(self) -> None:
        for site in self.sites.values():
            site.close()
        run("umount", "-l", self.bpffs, check=False)
        with contextlib.suppress(OSError):
            (cgroup2_root() / self.name).rmdir()

    def logs(self, lines: int = 40) -> str:
        """The end of every daemon's log."""
        parts = []
        for site in self.sites.values():
            text = site.log.read_text() if site.log.exists() else ""
            parts.append(f"--- skedged of {site.name}\n" + "\n".join(text.splitlines()[-lines:]))
        return "\n".join(parts)


def changes(log: str) -> list[str]:
    """What a daemon says that it changed in the kernel."""
    return re.findall(r"op=reconcile changed=.*", log)
