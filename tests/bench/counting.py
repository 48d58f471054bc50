"""What comparing the counters costs, and whom it hinders: ``python -m tests.bench.counting`` (root).

Flows are entries of the flow table, sockets real connections over lo in a namespace. Each look is what the controller
does every 5 or 30 s, on a thread as there; beside it another one programs routes, as after a failure.
"""

from __future__ import annotations

import argparse
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
        self.took: list[float] = []
        self.cpu: list[float] = []

    def during(self, work: Callable[[], float], rounds: int) -> list[float]:
        """Return what ``work`` takes while looks go on."""
        end = threading.Event()

        def run_on() -> None:
            while not end.is_set():
                self.once()

        thread = threading.Thread(target=run_on)
        thread.start()
        try:
            return [work() for _ in range(rounds)]
        finally:
            end.set()
            thread.join()

    def once(self) -> None:
        before, cpu = time.perf_counter(), time.thread_time()
        self._what()
        self.took.append(time.perf_counter() - before)
        self.cpu.append(time.thread_time() - cpu)


def milliseconds(values: list[float]) -> str:
    """Return median and maximum."""
    return f"{median(values) * 1000:7.1f} (at most {max(values) * 1000:.1f})"


def measure(site: Site, title: str, failover: Failover) -> None:
    """Print a row a look."""
    engine = site.engine
    looks: dict[str, Callable[[], object]] = {"compare": engine.reconcile_counts, "sweep": engine.sweep_flows}
    alone = [failover() for _ in range(ROUNDS)]
    print(f"{title}: a failover of {ROUTES} routes alone {milliseconds(alone)} ms", flush=True)
    for name, what in looks.items():
        look = Look(site, what)
        look.once()
        beside = look.during(failover, ROUNDS)
        print(
            f"  {name}: {milliseconds(look.took)} ms, of processor {milliseconds(look.cpu)} ms;"
            f" a failover meanwhile {milliseconds(beside)} ms",
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
        crowded.open(sockets)
        measure(site, f"{flows:,} flows and {sockets:,} sockets", failover)
    finally:
        crowded.close()
        for server in servers:
            server.close()
        maps.close()
        site.clean()


if __name__ == "__main__":
    main()
