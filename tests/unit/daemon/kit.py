"""A whole controller without root: kernel and control plane in memory; identity, flooding, config, state are real."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from skedge import config as configuration
from skedge.control.health.monitor import HealthState
from skedge.control.identity.identity import Identity
from skedge.control.identity.identity import load as load_identity
from skedge.control.liveness.detector import LinkStats
from skedge.control.loads.exchange import LoadPeer
from skedge.control.streams.record_codec import BodyCodec
from skedge.core.ending import Open, Selection
from skedge.core.errors import DataplaneError
from skedge.core.linkstate import own_records
from skedge.core.linkstate.flooding import Flooder, Output
from skedge.core.model import LinkId, Protocol, SiteConfig, WorkloadId
from skedge.core.objects import ServiceKey, ServiceTable, Target
from skedge.core.observed import Counts, Flow, FlowState, FlowSums, Receipt
from skedge.core.reasons import Reason
from skedge.core.records import LoadReport, Version
from skedge.core.routing.surroundings import Surroundings
from skedge.daemon.controller import Controller
from skedge.daemon.events import ControlEvents
from skedge.daemon.kernel.kernel import Kernel
from skedge.daemon.startup import assemble
from skedge.daemon.state import Heard, ServiceWorkload, State
from skedge.daemon.systemd import Notifier
from tests.fakes.memory_driver import MemoryDriver, memory_drivers
from tests.unit.control.authority import Authority

NETWORK = "lab"
WEB = ServiceKey("web")
LINK_AB = LinkId("a", "b")


class FakeEngine:
    """An engine over memory drivers; what it counted is set by the test."""

    name = "memory"

    def __init__(self, services: MemoryDriver, listeners: MemoryDriver, endpoints: MemoryDriver) -> None:
        self.services, self.listeners, self.endpoints = services, listeners, endpoints
        self.counted: dict[ServiceWorkload, Counts] = {}
        self.out: frozenset[ServiceWorkload] = frozenset()
        self.receipts: list[Receipt] = []
        self.table: list[Flow] = []
        self.dropped: dict[Reason, int] = {}
        self.drift = self.swept = 0
        self.others: list[Mapping[ServiceWorkload, int]] = []
        self.resumed: list[WorkloadId] = []
        self.unreadable = False
        self._asked = 0

    def revision(self) -> int:
        """Never the same twice: what a test set must be read."""
        self._asked += 1
        return self._asked

    def counts(self) -> Mapping[ServiceWorkload, Counts]:
        if self.unreadable:
            raise DataplaneError("counters: the kernel does not answer")
        return dict(self.counted)

    def set_others(self, others: Mapping[ServiceWorkload, int]) -> None:
        self.others.append(dict(others))
        for (key, workload), number in others.items():
            table = self.services.objects.get(key, ServiceTable())
            changed = (replace(c, others=number) if c.workload == workload else c for c in table.candidates)
            if key in self.services.objects:
                self.services.objects[key] = ServiceTable(tuple(changed))

    def suspended(self) -> frozenset[ServiceWorkload]:
        return self.out

    def resume(self, workload: WorkloadId) -> None:
        self.resumed.append(workload)

    def connections(self, since: float = 0.0) -> Iterable[Receipt]:
        return (one for one in self.receipts if one.placed_at >= since)

    def placed_sockets(self, protocol: Protocol) -> frozenset[int]:
        return frozenset(one.cookie for one in self.receipts if one.listener.protocol is protocol)

    def drops(self) -> Mapping[Reason, int]:
        return dict(self.dropped)

    def flows(self) -> Iterable[Flow]:
        return iter(self.table)

    def flow_room(self) -> int:
        return 1000

    def flow_sums(self) -> FlowSums:
        return FlowSums(Counter(one.kind for one in self.table), sum(one.state is FlowState.SYN for one in self.table))

    def sweep_flows(self) -> None:
        self.swept += 1

    def reconcile_counts(self) -> int:
        return self.drift


@dataclass
class FakeEnder:
    """Holds what a test says; remembers what it was asked for, and what was ended in each go."""

    held: list[Open] = field(default_factory=list)
    asked: list[Selection] = field(default_factory=list)
    ended: list[tuple[Open, ...]] = field(default_factory=list)
    broken: bool = False

    def find(self, selection: Selection) -> Sequence[Open]:
        self.asked.append(selection)
        if self.broken:
            raise DataplaneError("the kernel does not answer")
        return [one for one in self.held if selection.means(one)]

    def end(self, found: Sequence[Open]) -> int:
        self.ended.append(tuple(found))
        self.held = [one for one in self.held if one not in found]
        return len(found)


class FakeHost:
    def __init__(self) -> None:
        self.found = frozenset({"127.0.0.1/8", "10.0.0.1/24"})
        self.aborted: list[frozenset[Target]] = []
        self.forgotten = 0
        self.served: dict[int, int] = {}
        self.beside: dict[str, str] = {}

    def addresses(self) -> frozenset[str]:
        return self.found

    def end_datagrams(self, targets: Collection[Target], placed: Callable[[], Collection[int]]) -> int:
        return len(placed()) if targets else 0

    def surroundings(self, prefixes: Collection[str], sites: Collection[str]) -> Surroundings:
        return Surroundings(dict.fromkeys(prefixes, ""), self.beside)

    def abort_connecting(self, targets: Collection[Target]) -> int:
        self.aborted.append(frozenset(targets))
        return len(targets)

    def serving(self, ports: Collection[int]) -> int:
        return sum(self.served.get(port, 0) for port in ports)

    def forget(self) -> None:
        self.forgotten += 1


@dataclass
class FakeKernel:
    """The kernel object, and the parts that tests look into."""

    kernel: Kernel
    ender: FakeEnder
    engine: FakeEngine
    refused: dict[Reason, int]
    host: FakeHost
    drivers: Any
    log: list[tuple[str, str, Any]]

    def did(self, action: str, kind: str = "") -> list[Any]:
        """Keys of what was done, in order."""
        return [key for what, of, key in self.log if what == action and kind in ("", of)]


def fake_kernel() -> FakeKernel:
    drivers, log = memory_drivers()
    engine = FakeEngine(drivers.services, drivers.listeners, drivers.endpoints)
    host, refused = FakeHost(), dict[Reason, int]()
    ender = FakeEnder()
    kernel = Kernel(drivers.with_rules(), engine, host, refused=[lambda: refused], enders=[ender])
    return FakeKernel(kernel, ender, engine, refused, host, drivers, log)


# ---- the control plane -----------------------------------------------------------------------------------------------


class FakeBus:
    def __init__(self) -> None:
        self.neighbours: dict[LinkId, Neighbour] = {}
        self.resets: list[tuple[LinkId, Reason]] = []

    def wake(self, link: LinkId) -> None:
        if link in self.neighbours:
            asyncio.get_running_loop().call_soon(self.neighbours[link].exchange)

    def reset(self, link: LinkId, reason: Reason) -> None:
        self.resets.append((link, reason))


class FakeLoads:
    def __init__(self) -> None:
        self.said: dict[str, LoadReport] = {}


class FakeControl:
    """What `ControlPlane` is to the controller. Links are measured as ``measure`` says."""

    def __init__(self, events: ControlEvents, state: State, flooder: Flooder, identity: Identity) -> None:
        self._events = events
        self.bus = FakeBus()
        self.loads = FakeLoads()
        self.measured: dict[LinkId, LinkStats] = {}
        self.configs: list[SiteConfig] = []
        self.probed: list[WorkloadId] = []
        self.suspensions: Mapping[WorkloadId, Target] = {}
        self.reports = 0
        self.peers: dict[str, LoadPeer] = {}
        self.opened = self.closed = False
        self.turning = True
        self.renewals = 0
        self.certificates: dict[str, str] = {}
        self.refused: dict[str, str] = {}

    def open(self) -> None:
        self.opened = True

    def configure(self, config: SiteConfig) -> None:
        self.configs.append(config)

    def wake(self, link: LinkId) -> None:
        self.bus.wake(link)

    def reset(self, link: LinkId, reason: Reason) -> None:
        self.bus.reset(link, reason)

    def link_stats(self) -> Mapping[LinkId, LinkStats]:
        return dict(self.measured)

    def probes_turn(self, within_s: float) -> bool:
        return self.turning and within_s > 0

    def stream_causes(self) -> Mapping[str, str]:
        return {}

    def renew(self) -> None:
        self.renewals += 1

    def shown(self) -> Mapping[str, str]:
        return self.certificates

    def unproven(self) -> Mapping[str, str]:
        return self.refused

    def heard(self, now: float) -> Mapping[str, Heard]:
        return {site: Heard(report, now - 0.25) for site, report in self.loads.said.items()}

    def probe_now(self, workload: WorkloadId) -> None:
        self.probed.append(workload)

    def suspended(self, targets: Mapping[WorkloadId, Target]) -> None:
        self.suspensions = targets

    def report(self) -> None:
        self.reports += 1

    async def close(self) -> None:
        self.closed = True

    def dialled(self, link: LinkId, told: Reason) -> None:
        """Let dialling tell something of a link."""
        self.measured[link] = replace(self.measured[link], tcp=told)
        self._events.links_changed()

    def measure(self, link: LinkId, up: bool, *, sent: int = 20, reason: Reason = Reason.PROBE_LOST) -> None:
        """Let the probes say that a link is up or down."""
        verdict = Reason.NONE if up else reason
        self.measured[link] = LinkStats(
            up, verdict, time.monotonic(), 250 if up else 0, 250, 0.0, sent, sent if up else 0
        )
        self._events.links_changed()


class Neighbour:
    """The far end of a link: a real flooder of another site, joined without delay."""

    def __init__(self, at: Controller, identity: Identity, config: SiteConfig, link: LinkId) -> None:
        self.at, self.config, self.link = at, config, link
        self.flooder = Flooder(
            site=config.site,
            network=config.network,
            signer=identity,
            verifier=identity.verifier,
            codec=BodyCodec(),
            incarnation=1,
        )
        self.flooder.configure(time.monotonic(), {link: link.far_end(config.site)})
        self.records = 0
        self.up = False
        self.boot = ""

    def say(self, *, up: bool = True, healthy: bool = True, boot_age_ms: int = 0) -> None:
        """Originate this site's records: its end of the link, and its workloads."""
        states = {
            LinkId.between(self.config.site, one.to, one.name): own_records.Liveness(up, 200)
            for one in self.config.links
        }
        health = {one.name: healthy for one in self.config.connectors}
        self.flooder.originate(
            time.monotonic(),
            links=own_records.links_record(self.config, states, boot=self.boot, boot_age_ms=boot_age_ms),
            services=own_records.services_record(self.config, health, own_records.endpoint_ports(self.config, {})),
        )
        self.exchange()

    def connect(self) -> None:
        """Bring the stream up at both ends."""
        self.up = True
        self.at.control.bus.neighbours[self.link] = self  # type: ignore[attr-defined]
        self.flooder.adjacency_up(time.monotonic(), self.link, self.link.far_end(self.config.site))
        self.at.stream_up(self.link)
        self.exchange()

    def disconnect(self) -> None:
        """Lose the stream, as when a controller dies."""
        self.up = False
        self.flooder.adjacency_down(time.monotonic(), self.link)
        self.at.stream_down(self.link, Reason.NO_ANSWER)

    def exchange(self) -> None:
        """Carry what waits, both ways, until nothing does."""
        if not self.up:
            return
        self._note(self.flooder.tick(time.monotonic()))
        busy = True
        while busy:
            busy = False
            if (mine := self.flooder.take(time.monotonic(), self.link)) is not None:
                self.at.message(self.link, mine)
                busy = True
            if (theirs := self.at.flooder.take(time.monotonic(), self.link)) is not None:
                self._note(self.flooder.receive(time.monotonic(), self.link, theirs))
                busy = True

    def _note(self, output: Output) -> None:
        assert not output.problems, output.problems
        assert not output.reset, output.reset
        self.records += len(output.changed)


# ---- configurations --------------------------------------------------------------------------------------------


def document(site: str = "a", **changes: object) -> dict[str, Any]:
    """Content of skedge.yaml: site a with one link to b, one listener, one connector."""
    far = {"a": "b", "b": "a"}[site]
    number = {"a": 1, "b": 2}
    content: dict[str, Any] = {
        "version": 1,
        "network": NETWORK,
        "site": site,
        "links": [
            {
                "to": far,
                "cost": 10,
                "transport": "vxlan",
                "local": f"10.9.0.{number[site]}",
                "remote": f"10.9.0.{number[far]}",
            }
        ],
        "listeners": [{"service": "web", "port": 8080}],
        "connectors": [{"service": "web", "host": "127.0.0.1", "port": 9090}],
        "metrics": {"port": 0},
    }
    return content | changes


def write(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(content)))
    return path


def site(tmp_path: Path, name: str = "a", **changes: object) -> SiteConfig:
    """The parsed configuration of a site, written to ``<name>.yaml``; the hold time is not the parser's business."""
    hold = changes.pop("hold_time_s", 120.0)
    loaded = configuration.load(str(write(tmp_path / f"{name}.yaml", document(name, **changes))))
    return replace(loaded, hold_time_s=hold)  # type: ignore[arg-type]


class FakeNotifier(Notifier):
    def __init__(self) -> None:
        super().__init__()
        self.watchdog_s = 0.05
        self.said: list[str] = []

    def ready(self, status: str) -> None:
        self.said.append("ready")

    def reloading(self) -> None:
        self.said.append("reloading")

    def alive(self) -> None:
        self.said.append("alive")

    def stopping(self) -> None:
        self.said.append("stopping")


@dataclass
class Running:
    """One controller that runs, and all its doubles."""

    at: Controller
    control: FakeControl
    kernel: FakeKernel
    notifier: FakeNotifier
    path: Path
    neighbours: dict[str, Neighbour] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None

    async def until(self, condition: Callable[[], object], within: float = 15.0) -> float:
        """Wait for a condition while the neighbours live on; return the seconds it took."""
        start = time.monotonic()
        while not condition():
            assert time.monotonic() - start < within, f"not within {within} s"
            for neighbour in self.neighbours.values():
                neighbour.exchange()
            await asyncio.sleep(0.005)
        return time.monotonic() - start

    def healthy(self, connector: str = "web", good: bool = True) -> None:
        """Let the health check of an own workload say something."""
        workload = WorkloadId(self.at.state.config.site, connector)
        self.at.health_changed(workload, HealthState(good, True, 0.0, "" if good else "refused", "127.0.0.1"))

    def candidates(self) -> dict[str, Reason]:
        """What the kernel may choose among, and why not."""
        table = self.kernel.drivers.services.objects.get(WEB, ServiceTable())
        return {str(one.workload): one.out for one in table.candidates}

    async def reach_sync(self) -> Neighbour:
        """Bring the network of a and b up as it normally comes."""
        neighbour = self.neighbours["b"]
        self.healthy()
        self.control.measure(LINK_AB, True)
        neighbour.connect()
        neighbour.say()
        await self.until(lambda: self.at.life.synced and self.at.life.ready)
        neighbour.exchange()
        await self.until(lambda: self.candidates() == {"a/web": Reason.NONE, "b/web": Reason.NONE})
        return neighbour


@asynccontextmanager
async def running(
    tmp_path: Path,
    authority: Authority,
    *,
    first: SiteConfig | None = None,
    kernel: FakeKernel | None = None,
    boot: str = "",
    booted: bool = False,
) -> AsyncIterator[Running]:
    """Run site a's controller; with the fixture ``wireless`` it is in a hurry. ``booted``: its host has nothing yet."""
    first = first or site(tmp_path)
    identity = load_identity(directory(tmp_path, authority, first.site), NETWORK, first.site)
    (tmp_path / "state").mkdir(exist_ok=True)
    kernel, notifier = kernel or fake_kernel(), FakeNotifier()
    kernel.host.found |= frozenset() if booted else {f"{first.overlay4}/32"}
    path = tmp_path / f"{first.site}.yaml"
    controller = assemble(
        str(path),
        first,
        identity=identity,
        kernel=kernel.kernel,
        state_dir=tmp_path / "state",
        notifier=notifier,
        boot=boot,
        control=FakeControl,
    )
    found = Running(controller, controller.control, kernel, notifier, path)  # type: ignore[arg-type]
    there = load_identity(directory(tmp_path, authority, "b"), NETWORK, "b")
    found.neighbours["b"] = Neighbour(controller, there, site(tmp_path, "b"), LINK_AB)
    task = found.task = asyncio.create_task(controller.run())
    try:
        await asyncio.sleep(0)
        yield found
    finally:
        controller.stop()
        await task


def directory(tmp_path: Path, authority: Authority, name: str) -> Path:
    where = tmp_path / f"identity-{name}"
    return where if where.exists() else authority.directory(where, name)


def report(site: str, **opens: int) -> LoadReport:
    """A load report: ``b=3`` means three connections to b/web."""
    return LoadReport(site, Version(1, 1), {WorkloadId(to, "web"): number for to, number in opens.items()})
