"""How far the engine `ipvs` is from the exact rule in a real kernel: `tests.sim.ipvs_error`'s rows, real connections.

``python -m tests.integration.ipvs.error`` (root, a kernel with IPVS) prints the table of docs/benchmarks.md.
"""

from __future__ import annotations

import random
import resource
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from skedge.core.objects import Candidate, ListenerKey, ListenerTarget, ServiceKey, ServiceTable, Target
from skedge.core.placement.rule import fill
from skedge.dataplane.ebpf.packet_check import PacketCheckConfig
from skedge.dataplane.ipvs import chains
from skedge.dataplane.ipvs.engine import PACE_S, IpvsEngine
from skedge.dataplane.ipvs.marks import IpvsRules
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver
from skedge.dataplane.nftables.table import NftTable
from tests.integration.links.kit import CIDR, CONTROL_PORT, ENDPOINT_PORTS, LOAD_PORT, Namespace, veth
from tests.sim.ipvs_error import ROWS, Measured, candidates

from .kit import PORT, WORKLOAD, dial, server

HOST = "10.96.0.1"
CONFIG = PacketCheckConfig("100.64.0.1", "fd00:1:2::1", CIDR, "fd00:1:2::/48", CONTROL_PORT, LOAD_PORT, ENDPOINT_PORTS)
ONE_BY_ONE, FASTEST, AT_ONCE = 0.0, float("inf"), -1.0
RATES: Sequence[tuple[str, float]] = (
    ("one by one", ONE_BY_ONE),
    ("50/s", 50.0),
    ("as fast as they come", FASTEST),
    ("at once", AT_ONCE),
)


@dataclass(frozen=True)
class Result:
    """What one run brought: errors as in the simulation, and how many connections came a second."""

    error: Measured
    rate: float


class Bench:
    """A host with IPVS, and another one with a server on each of three addresses."""

    def __init__(self, stack: ExitStack) -> None:
        self.host, self.far = (Namespace(name) for name in ("vhost", "vfar"))
        for ns in (self.host, self.far):
            stack.callback(ns.close)
        veth(self.host, self.far, "e0", "e0", f"{HOST}/24", "10.96.0.100/24")
        self.runs = 0
        self.servers = []
        for i in range(3):
            self.far.ip("addr", "add", f"10.96.0.{101 + i}/24", "dev", "e0")
            self.servers.append(server(str(i), self.far, f"10.96.0.{101 + i}"))
            stack.callback(self.servers[-1].close)

    def run(self, workloads: Sequence[tuple[int, int]], n: int, rate: float) -> Result:
        """Hold ``n`` connections that arrive at ``rate``; a new engine and table each time."""
        rows = tuple(
            replace(one, target4=Target(f"10.96.0.{101 + i}", WORKLOAD)) for i, one in enumerate(candidates(workloads))
        )
        with self._engine(rows, 0.0 if rate in (ONE_BY_ONE, AT_ONCE) else PACE_S) as engine, ExitStack() as held:
            looks = _watched(engine)
            began = time.monotonic()
            counted, times, worst = [0] * len(rows), [], 0
            rng, due = random.Random(n), began
            for k in range(1, n + 1):
                made, name = self.host(dial, HOST, PORT)
                held.enter_context(made)
                times.append(time.monotonic())
                counted[int(name)] += 1
                if k <= 100 or k == n:  # as the simulation does
                    worst = max(worst, _off(rows, counted, k))
                if rate == ONE_BY_ONE:
                    self.host(engine.look)
                elif 0 < rate < FASTEST:
                    due += rng.expovariate(rate)
                    time.sleep(max(0.0, due - time.monotonic()))
            took = time.monotonic() - began
            return Result(Measured(worst, _off(rows, counted, n), _crowd(times, looks)), n / took)

    @contextmanager
    def _engine(self, rows: tuple[Candidate, ...], pace_s: float) -> Iterator[IpvsEngine]:
        with TemporaryDirectory(prefix="ipvserror-") as directory:
            engine = self.host(IpvsEngine, Path(directory) / "ipvs.json", rules=IpvsRules(), pace_s=pace_s)
            try:
                self.host(ChainGroupDriver(NftTable(), chains.OWNED).put, chains.NAME, chains.group(CONFIG))
                self.runs += 1
                key = ServiceKey(f"run{self.runs}")  # a new one: servers keep their counts
                self.host(engine.services.put, key, ServiceTable(rows))
                self.host(engine.listeners.put, ListenerKey(HOST, PORT), ListenerTarget(key))
                yield engine
            finally:
                engine.close()
                self.host(engine.listeners.delete, ListenerKey(HOST, PORT))
                for mark in self.host(engine.table.read).ours:
                    self.host(engine.table.delete_service, mark)
                for one in self.servers:
                    while one.held:
                        one.held.pop().close()


def _watched(engine: IpvsEngine) -> list[float]:
    """Return when the engine began to look, a list that grows."""
    looks, look = [time.monotonic()], engine.look

    def watched() -> None:
        looks.append(time.monotonic())
        look()

    engine.look = watched  # type: ignore[method-assign]
    return looks


def _off(rows: Sequence[Candidate], counted: Sequence[int], k: int) -> int:
    return max(abs(one - wanted) for one, wanted in zip(counted, fill(rows, k), strict=True))


def _crowd(times: Sequence[float], looks: Sequence[float]) -> int:
    """Return the most connections that came between two looks, with those of the look before, while it was at work."""
    edges = [*looks, float("inf")]
    between = [0] * (len(edges))
    for at in times:
        between[next(i for i, edge in enumerate(edges) if at <= edge)] += 1
    return max(a + b for a, b in zip(between, [*between[1:], 0], strict=True))


def main() -> None:
    """Print the table: most that any workload was off at any moment / at the end (most that came between two looks)."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, max(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    socket.setdefaulttimeout(None)
    print("| topology | N | " + " | ".join(name for name, _ in RATES) + " |")
    print("|---|---|" + "---|" * len(RATES))
    with ExitStack() as stack:
        bench = Bench(stack)
        for name, workloads, numbers in ROWS:
            for n in numbers:
                cells = []
                for _, rate in RATES:
                    found = bench.run(workloads, n, rate)
                    rated = f" ({found.error.crowd}; {found.rate:.0f}/s)" if rate > 0 else ""
                    cells.append(f"{found.error.worst} / {found.error.last}{rated}")
                print(f"| {name} | {n} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
