"""The modelled wire: a link with delay, loss and cuts, the probes on it, and one reliable ordered stream, as TCP.

Loss is delay, a cut stalls what is under way, and a stream ends when probes give the link up or a controller dies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skedge.core.linkstate.messages import Message, Records
from skedge.core.model import LinkId

if TYPE_CHECKING:
    from tests.sim.node import Node
    from tests.sim.world import World

DETECT_S = 0.3  # probes: three lost at 100 ms
ANSWER_S = 0.1  # probes: the first answer
DIAL_S = 0.05
REDIAL_S = 0.2  # after a stream ended, with jitter up to twice this
RETRANSMIT_S = 0.2
STREAM_BYTES_S = 10e6


@dataclass
class Wire:
    """The link between two sites, and the one stream on it. ``session`` tells streams apart; 0: none."""

    world: World
    link: LinkId
    cost: int
    delay: float
    loss: float = 0.0
    bytes_s: float = STREAM_BYTES_S
    up: bool = True
    frames: int = 0
    session: int = 0
    answers: bool = True  # what the probes found
    _sessions: int = 0
    _busy: set[str] = field(default_factory=set)
    _last_arrival: dict[str, float] = field(default_factory=dict)
    _stalled: list[tuple[str, Message, int]] = field(default_factory=list)

    def ends(self) -> tuple[Node, Node]:
        return self.world.nodes[self.link.a], self.world.nodes[self.link.b]

    def cut(self) -> None:
        if self.up:
            self.up = False
            self.world.after(DETECT_S, self._probe)

    def mend(self) -> None:
        if not self.up and all(end.host_up for end in self.ends()):
            self.up = True
            stalled, self._stalled = self._stalled, []
            for to, message, session in stalled:
                self._fly(to, message, session, RETRANSMIT_S)
            self.world.after(ANSWER_S, self._probe)

    def recost(self, cost: int) -> None:
        """Change the link's cost at both ends."""
        self.cost = cost
        for end in self.ends():
            end.link_changed()

    def _probe(self) -> None:
        if self.up == self.answers:
            return  # it changed back before the probes noticed
        self.answers = self.up
        if not self.answers:
            self.close()
        for end in self.ends():
            end.link_changed()
        if self.answers:
            self.dial(DIAL_S)

    def dial(self, wait: float) -> None:
        self.world.after(wait * self.world.random.uniform(1, 2), self._open)

    def _open(self) -> None:
        if self.session or not (self.up and self.answers and all(end.running for end in self.ends())):
            return
        self._sessions += 1
        self.session = self._sessions
        self._busy.clear()
        self._last_arrival.clear()
        for end in self.ends():
            end.adjacency_up(self.link)

    def close(self) -> None:
        """End the stream; both ends notice, and dial again."""
        if not self.session:
            return
        self.session = 0
        self._stalled.clear()
        for end in self.ends():
            if end.running:
                end.adjacency_down(self.link)
        self.dial(REDIAL_S)

    def wake(self, sender: Node) -> None:
        """Take the sender's next frame if its direction is free."""
        if not self.session or sender.name in self._busy:
            return
        message = sender.take(self.link)
        if message is None:
            return
        message = self.world.carry(message)
        self._busy.add(sender.name)
        self.frames += 1
        size = 100 + sum(aged.record.size for aged in message.records) if isinstance(message, Records) else 1000
        session = self.session
        self.world.after(size / self.bytes_s, lambda: self._written(sender, session))
        self._fly(self.link.far_end(sender.name), message, session, 0.0)

    def _written(self, sender: Node, session: int) -> None:
        if session == self.session:
            self._busy.discard(sender.name)
            if sender.running:
                self.wake(sender)

    def _fly(self, to: str, message: Message, session: int, late: float) -> None:
        if not self.up:
            self._stalled.append((to, message, session))
            return
        world = self.world
        late += self.delay
        while self.loss and world.random.random() < self.loss:
            late += RETRANSMIT_S
        arrival = max(world.now + late, self._last_arrival.get(to, 0.0))
        self._last_arrival[to] = arrival
        world.at(arrival, lambda: self._arrive(to, message, session))

    def _arrive(self, to: str, message: Message, session: int) -> None:
        if session != self.session:
            return
        if not self.up:
            self._stalled.append((to, message, session))
            return
        self.world.nodes[to].receive(self.link, message)
