"""What comparing the counters costs, and whom it hinders: ``python -m tests.bench.counting`` (root).

Flows are entries of the flow table, sockets real connections over lo in a namespace. Each look is what the controller
does every 5 or 30 s, on a thread as there; beside it another one programs routes, as after a failure.
"""

from __future__ import annotations

import argparse
import resource
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from skedge.core import names
from skedge.core.objects import KernelRoute, NextHop
from skedge.dataplane.ebpf.lan.flow_table import NAT, NatConfigDriver
from skedge.dataplane.ebpf.lan.layout_flow import NatConfig
from skedge.dataplane.ebpf.maps import Maps
from skedge.dataplane.host.netlink import Netlink
from skedge.dataplane.routing.routes import RouteDriver
from tests.integration.connect.kit import FAR4, OVERLAY4, Host, Site, candidate, run
from tests.kit import crowd

LISTENER = ("127.0.0.1", 8080)
DEVICES = ("sk-a", "sk-b")
ROUTES, ROUNDS = 64, 20


class Failover:
    """Programs routes as after a failure, now over one device, now over the other."""

    def __init__(self) -> None:
        run("ip", "link", "add", DEVICES[0], "type", "veth", "peer", "name", DEVICES[1])
        for device in DEVICES:
            run("ip", "link", "set", device, "up")
        self._driver = RouteDriver(Netlink())
        self._turn = 0

    def __call__(self) -> float:
        """Return the seconds that it took."""
        self._turn += 1
        route = KernelRoute((NextHop(DEVICES[self._turn % 2], names.GATEWAY4),), OVERLAY4)
        before = time.perf_counter()
        for index in range(ROUTES):
            self._driver.put(f"100.64.7.{index}/32", route)
        return time.perf_counter() - before


class Look:
    """One look, run again and again on a thread of its own."""

    def __init__(self, site: Site, what: Callable[[], object]) -> None:
        self._host, self._what = site.host, what
        self._running = threading.Lock()
        self.took: list[float] = []
        self.python: list[float] = []
        self.kernel: list[float] = []

    def during(self, work: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
        """Return what ``work`` takes alone, and while looks go on; in turns, as the machine has other work, too."""
        alone, beside = list[float](), list[float]()
        going, end = threading.Event(), threading.Event()

        def run_on() -> None:
            while not end.is_set():
                if going.wait(0.001):
                    self.once()

        thread = threading.Thread(target=run_on)
        thread.start()
        try:
            for _ in range(rounds):
                going.set()
                time.sleep(0.02)
                beside.append(work())
                going.clear()
                with self._running:
                    alone.append(work())
        finally:
            end.set()
            thread.join()
        return alone, beside

    def once(self) -> None:
        with self._running:
            before, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_THREAD)
            self._what()
            self.took.append(time.perf_counter() - before)
            now = resource.getrusage(resource.RUSAGE_THREAD)
            self.python.append(now.ru_utime - used.ru_utime)
            self.kernel.append(now.ru_stime - used.ru_stime)


def milliseconds(values: list[float]) -> str:
    """Return median and maximum."""
    return f"{median(values) * 1000:.1f} ({max(values) * 1000:.1f})"


def measure(site: Site, title: str, failover: Failover) -> None:
    """Print a row a look."""
    engine = site.engine
    looks: dict[str, Callable[[], object]] = {
        "compare": engine.reconcile_counts,
        "sweep": engine.sweep_flows,
        "kinds": engine.flow_sums,
    }
    print(f"{title}; ms, the median (the most)", flush=True)
    for name, what in looks.items():
        look = Look(site, what)
        look.once()
        alone, beside = look.during(failover, ROUNDS)
        print(
            f"  {name}: takes {milliseconds(look.took)}, of it Python {milliseconds(look.python)},"
            f" kernel {milliseconds(look.kernel)};"
            f" failover alone {milliseconds(alone)}, meanwhile {milliseconds(beside)}",
            flush=True,
        )
    site.engine.revision()
    before = time.thread_time()
    site.engine.counts()
    site.engine.suspended()
    print(f"  counters read by the thread that programs routes: {(time.thread_time() - before) * 1000:.1f} ms")


def main() -> None:
    """Measure with nothing, with flows, with sockets."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--flows", type=int, default=262_144)
    options.add_argument("--sockets", type=int, default=100_000)
    wanted = options.parse_args()
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        host = Host("counting", Path(directory))
        try:
            host.load()
            with host.inside():
                bench(host, wanted.flows, wanted.sockets)
        finally:
            host.close()


def bench(host: Host, flows: int, sockets: int) -> None:
    """Measure in the host's namespace."""
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("1024 65000")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    site, maps = Site(host), Maps(str(host.pins))
    NatConfigDriver(str(host.pins)).put(NAT, NatConfig())
    failover = Failover()
    servers = [socket.create_server((address, 0), backlog=4096) for address in ("127.0.0.1", *FAR4)]
    table = [candidate(f"w{i}", 0, crowd.target(server)) for i, server in enumerate(servers)]
    site.service(table, LISTENER)
    site.service([candidate(f"far{i}", 9, crowd.target(servers[0])) for i in range(4)], name="lan")
    ident = {key.name: number for key, number in maps.service_ids().items()}["lan"]
    crowded = crowd.Sockets(LISTENER, servers)
    try:
        measure(site, "nothing open", failover)
        crowd.add_flows(maps, host.pins, ident, range(4), flows)
        measure(site, f"{flows:,} flows", failover)
        crowded.open_many(sockets)
        measure(site, f"{flows:,} flows and {sockets:,} sockets", failover)
    finally:
        crowded.close()
        for server in servers:
            server.close()
        maps.close()
        site.clean()


if __name__ == "__main__":
    main()
