"""One simulated edge host: the real `Flooder`, driven as the daemon drives it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from skedge.core.linkstate.adjacency import AdjacencyState, link_in_use
from skedge.core.linkstate.database import Limits
from skedge.core.linkstate.flooding import Flooder, Output
from skedge.core.linkstate.messages import Codec, Message, Signer
from skedge.core.model import LinkId
from skedge.core.reasons import Reason
from skedge.core.records import LinksRecord, LinkState, ServicesRecord, WorkloadState
from tests.sim.doubles import FakeSigner, PlainCodec
from tests.sim.wire import DETECT_S, DIAL_S, Wire

if TYPE_CHECKING:
    from tests.sim.world import World

HOLD_S = 120.0
NETWORK = "sim"


@dataclass
class Node:
    """One edge host: a kernel that forwards while ``host_up``, a controller that may be down, a disk."""

    world: World
    name: str
    limits: Limits = field(default_factory=Limits)
    signer: Signer | None = None
    codec: Codec = field(default_factory=PlainCodec)
    host_up: bool = True
    disk: int = 0  # last incarnation kept
    port: int = 61000
    flooder: Flooder | None = None
    problems: dict[Reason, int] = field(default_factory=dict)
    spf_runs: int = 0
    _ready: bool = False  # probes have answered since the controller started
    _life: int = 0
    _timer: float = inf

    @property
    def running(self) -> bool:
        return self.flooder is not None

    def wires(self) -> Iterable[Wire]:
        return self.world.wires_of[self.name]

    def start(self) -> None:
        if self.flooder is not None or not self.host_up:
            return
        self._life += 1
        life = self._life
        self.disk += 1
        self.flooder = Flooder(
            site=self.name,
            network=NETWORK,
            signer=self.signer or FakeSigner(self.name),
            verifier=self.world.verifier,
            codec=self.codec,
            incarnation=self.disk,
            seed=self.world.seed,
            limits=self.limits,
        )
        self._ready = False
        self._did(self.flooder.configure(self.world.now, {w.link: w.link.far_end(self.name) for w in self.wires()}))
        self.world.after(DETECT_S, lambda: self._probed(life))
        for wire in self.wires():
            wire.dial(DIAL_S)

    def _probed(self, life: int) -> None:
        if self.flooder is not None and life == self._life:
            self._ready = True
            self.link_changed()
            self.world.after(HOLD_S + 1, lambda: life == self._life and self.link_changed())

    def stop(self, forget: bool = False) -> None:
        """Kill the controller; the kernel goes on. ``forget`` loses the disk."""
        self.flooder, self._timer = None, inf
        if forget:
            self.disk = 0
        for wire in self.wires():
            wire.close()

    def die(self) -> None:
        """Lose power."""
        self.stop()
        self.host_up = False
        for wire in self.wires():
            wire.cut()

    def revive(self) -> None:
        self.host_up = True
        self.start()
        for wire in self.wires():
            if self.world.wanted_up(wire):
                wire.mend()

    # ---- what the daemon does with the flooder --------------------------------------------------------------------

    def link_changed(self) -> None:
        """Say what the links are now; at start, the life before speaks until the probes answered."""
        if self.flooder is None or not self._ready:
            return
        now = self.world.now
        views = self.flooder.adjacencies(now)
        links = tuple(
            LinkState(
                wire.link.far_end(self.name),
                wire.link.name,
                wire.cost,
                link_in_use(views[wire.link], answers=wire.answers, now=now, hold_s=HOLD_S),
            )
            for wire in self.wires()
        )
        workloads = (WorkloadState("web", "web", self.port),)
        self._did(
            self.flooder.originate(
                now, LinksRecord(self.name, "", "", links), ServicesRecord(self.name, workloads, ("web",))
            )
        )

    def adjacency_up(self, link: LinkId) -> None:
        assert self.flooder is not None
        self._did(self.flooder.adjacency_up(self.world.now, link, link.far_end(self.name)))
        self.link_changed()

    def adjacency_down(self, link: LinkId) -> None:
        assert self.flooder is not None
        self._did(self.flooder.adjacency_down(self.world.now, link))
        life = self._life
        self.world.after(HOLD_S + 0.01, lambda: life == self._life and self.link_changed())

    def take(self, link: LinkId) -> Message | None:
        return None if self.flooder is None else self.flooder.take(self.world.now, link)

    def receive(self, link: LinkId, message: Message) -> None:
        if self.flooder is not None:
            before = self.flooder.adjacencies(self.world.now)[link].state
            self._did(self.flooder.receive(self.world.now, link, message))
            after = self.flooder.adjacencies(self.world.now)[link].state
            if AdjacencyState.FULL in (before, after) and before is not after:
                self.link_changed()

    def _tick(self, timer: float) -> None:
        if self.flooder is not None and timer == self._timer:
            self._timer = inf
            self._did(self.flooder.tick(self.world.now))

    def _did(self, output: Output) -> None:
        assert self.flooder is not None
        self.disk = self.flooder.incarnation
        self.spf_runs += bool(output.changed)
        for reason, _ in output.problems:
            self.problems[reason] = self.problems.get(reason, 0) + 1
        for link in output.ready:
            self.world.wires[link].wake(self)
        for link, _ in output.reset:
            self.world.wires[link].close()
        deadline = max(self.flooder.next_deadline(self.world.now), self.world.now)
        if deadline < self._timer:
            self._timer = deadline
            self.world.at(deadline, lambda: self._tick(deadline))
