"""A host for connect-time tests: own network namespace, own cgroup, own bpffs, the real programs, real servers.

The test process itself is the client: it enters namespace and cgroup for the length of a test.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Candidate, ListenerKey, ListenerTarget, ServiceKey, ServiceTable, Target
from skedge.core.observed import Counts
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.engine import EbpfEngine
from skedge.loader import host_requirements, loader
from tests.kit.bytecode import OF_CONNECT, cache
from tests.kit.rows import configure_engine

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
OVERLAY4, OVERLAY6 = "100.64.0.1", "fd77::1"
HOST4, HOST6 = "10.77.0.1", "fd10:77::1"  # the host's own address, not of the overlay
FAR4 = ["100.64.0.2", "100.64.0.3", "100.64.0.4"]  # overlay addresses of other sites: here they answer too
FAR6 = ["fd77::2", "fd77::3", "fd77::4"]
HOLD_S = 5.0


def _call(name: str, *args: object) -> None:
    if getattr(LIBC, name)(*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


class Host:
    """Namespace, cgroup and bpffs of one test host; `inside` is where programs and clients live."""

    def __init__(self, name: str, directory: Path) -> None:
        self.pins = directory / "pins"
        self._mount = directory
        self.cgroup = host_requirements.cgroup2_root() / f"skc-{name}-{os.getpid()}"
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._undo = contextlib.ExitStack()
        self._undo.callback(os.close, self._home)
        try:
            self._make()
        except BaseException:
            self._undo.close()
            raise

    def _make(self) -> None:
        _call("mount", b"skc", os.fsencode(self._mount), b"bpf", 0, None)
        self._undo.callback(_call, "umount2", os.fsencode(self._mount), 2)
        self.cgroup.mkdir()
        self._undo.callback(self._remove_cgroup)
        _call("unshare", CLONE_NEWNET)
        self._net = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._undo.callback(os.close, self._net)
        try:
            run("ip", "link", "set", "lo", "up")
            for address in (OVERLAY4, HOST4, *FAR4):
                run("ip", "addr", "add", f"{address}/32", "dev", "lo")
            for address in (OVERLAY6, HOST6, *FAR6):
                run("ip", "addr", "add", f"{address}/128", "dev", "lo", "nodad")
        finally:
            _call("setns", self._home, CLONE_NEWNET)

    def load(self, pick_log: int = 1) -> None:
        """Load the connect-time programs and the pick as a packet program."""
        options = loader.Options(self.pins, str(self.cgroup), pick_log=pick_log, programs=OF_CONNECT, cache=cache())
        with self.inside():
            self.loader = loader.Loader(options)
            self._undo.callback(self._unload)
            self.loader.load()

    def _unload(self) -> None:
        with self.inside():
            self.loader.unload()

    def _remove_cgroup(self) -> None:
        until = time.monotonic() + HOLD_S
        while True:
            try:
                self.cgroup.rmdir()
                return
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Move this process into the cgroup and this thread into the namespace."""
        before = host_requirements.cgroup2_root() / _own_cgroup().lstrip("/")
        (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))
        _call("setns", self._net, CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", self._home, CLONE_NEWNET)
            (before / "cgroup.procs").write_text(str(os.getpid()))

    def close(self) -> None:
        self._undo.close()


def _own_cgroup() -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:]
    return "/"


def run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")


class Server:
    """A real server that holds its connections; ``hits`` are accepted sockets (TCP) or datagrams (UDP)."""

    def __init__(self, address: str, protocol: Protocol = Protocol.TCP, port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
        self.socket = socket.socket(family, kind)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind((address, port))
        self.target = Target(address, self.socket.getsockname()[1])
        self.accepted: list[socket.socket] = []
        self.datagrams = 0
        self._tcp = protocol is Protocol.TCP
        if self._tcp:
            self.socket.listen(1024)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                if self._tcp:
                    self.accepted.append(self.socket.accept()[0])
                else:
                    data, peer = self.socket.recvfrom(2048)
                    if peer is None:  # shut down
                        return
                    self.datagrams += 1
                    self.socket.sendto(data, peer)
            except OSError:
                return

    def reset_all(self) -> None:
        """Cut all connections with RST."""
        for one in self.accepted:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            one.close()
        self.accepted.clear()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for one in self.accepted:
            one.close()
        self._thread.join(HOLD_S)


def candidate(
    name: str,
    cost: int = 0,
    *targets: Target,
    capacity: int = 1,
    others: int = 0,
    own_site: bool = False,
    out: Reason = Reason.NONE,
) -> Candidate:
    """A workload ``name/w`` with one target of each family at most."""
    by_family = {6 if ":" in target.address else 4: target for target in targets}
    return Candidate(
        WorkloadId(name, "w"),
        cost,
        capacity=capacity,
        others=others,
        target4=by_family.get(4),
        target6=by_family.get(6),
        own_site=own_site,
        out=out,
    )


class Site:
    """The engine of a host, with short words for tests."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.engine = EbpfEngine(str(host.pins))
        configure_engine(self.engine, OVERLAY4, OVERLAY6)
        self._servers: list[Server] = []

    def server(self, address: str = "127.0.0.1", protocol: Protocol = Protocol.TCP) -> Server:
        made = Server(address, protocol)
        self._servers.append(made)
        return made

    def service(
        self,
        candidates: Sequence[Candidate],
        *listeners: tuple[str, int],
        name: str = "web",
        protocol: Protocol = Protocol.TCP,
        affinity_s: int = 0,
    ) -> ServiceKey:
        """Put a service's table and its listeners."""
        key = ServiceKey(name, protocol)
        self.engine.services.put(key, ServiceTable(tuple(sorted(candidates, key=lambda one: one.workload))))
        for address, port in listeners:
            self.engine.listeners.put(ListenerKey(address, port, protocol), ListenerTarget(key, affinity_s=affinity_s))
        return key

    def open(self, name: str = "", key: ServiceKey | None = None) -> int:
        """Open connections of workload ``name/w``, of all workloads without a name."""
        return sum(
            count.open
            for (service, workload), count in self.engine.counts().items()
            if name in ("", workload.site) and key in (None, service)
        )

    def count(self, name: str) -> Counts:
        return next(count for (_, workload), count in self.engine.counts().items() if workload.site == name)

    def suspended(self) -> set[str]:
        return {workload.site for _, workload in self.engine.suspended()}

    def clean(self) -> None:
        """Take everything of a test away; what is still open then is a leak of the test."""
        for server in self._servers:
            server.close()
        for listener in list(self.engine.listeners.read()):
            self.engine.listeners.delete(listener)
        for service in list(self.engine.services.read()):
            self.engine.services.delete(service)
        self.engine.close()


def eventually(holds: Callable[[], object], what: str, timeout: float = HOLD_S) -> None:
    """Wait until ``holds()``; for what the kernel does in its own time (a RST, a FIN)."""
    until = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < until, f"{what}: not within {timeout} s"
        time.sleep(0.005)


def connect(address: str, port: int, family: int | None = None, timeout: float | None = HOLD_S) -> socket.socket:
    """Open a TCP connection to a literal address."""
    made = socket.socket(family or (socket.AF_INET6 if ":" in address else socket.AF_INET))
    try:
        made.settimeout(timeout)
        made.connect((address, port))
    except BaseException:
        made.close()
        raise
    return made
