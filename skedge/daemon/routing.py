"""The routing protocol of one site: messages go into flooding, what flooding asks for is done, paths are computed."""

from __future__ import annotations

from skedge.core.linkstate.flooding import Flooder, Output
from skedge.core.linkstate.messages import Message
from skedge.core.linkstate.pacing import Backoff
from skedge.core.model import LinkId
from skedge.daemon.events import Orders
from skedge.daemon.loop.dirty import Dirty
from skedge.daemon.refusals import Refusals
from skedge.daemon.state import SOFTWARE, State
from skedge.daemon.state_file import Memory


class Routing:
    """Drives one `Flooder`; ``now`` is monotonic seconds."""

    def __init__(self, state: State, flooder: Flooder, streams: Orders, memory: Memory) -> None:
        self._state, self._flooder, self._streams, self._memory = state, flooder, streams, memory
        self.refusals = Refusals()
        self.spf = Backoff()
        self.save()

    def deadline(self, now: float) -> float:
        """Return when to `tick` or to compute paths at the latest."""
        return min(self._flooder.next_deadline(now), self.spf.deadline, self._state.forwarding.deadline)

    def configure(self, now: float) -> None:
        """Follow a new configuration: its links, and paths over them."""
        self._do(now, self._flooder.configure(now, self._state.configured_links()))
        self.spf.event(now)

    def recheck(self, now: float) -> None:
        """Judge all records again: the certificates that count may have changed."""
        self._do(now, self._flooder.recheck(now))

    def stream_up(self, now: float, link: LinkId) -> None:
        """Begin an adjacency."""
        neighbour = self._state.configured_links().get(link)
        if neighbour is not None:
            self._do(now, self._flooder.adjacency_up(now, link, neighbour))

    def stream_down(self, now: float, link: LinkId) -> None:
        """End an adjacency."""
        self._do(now, self._flooder.adjacency_down(now, link))

    def message(self, now: float, link: LinkId, message: Message) -> None:
        """Take one message of a neighbour."""
        self._do(now, self._flooder.receive(now, link, message))

    def tick(self, now: float) -> None:
        """Do what is due."""
        if now >= self._flooder.next_deadline(now):
            self._do(now, self._flooder.tick(now))

    def originate(self, now: float, dirty: Dirty) -> None:
        """Say of this site what is dirty."""
        output = self._flooder.originate(
            now,
            links=self._state.links_record(SOFTWARE, now) if Dirty.LINKS_RECORD in dirty else None,
            services=self._state.services_record() if Dirty.SERVICES_RECORD in dirty else None,
        )
        self._do(now, output)

    def compute(self, now: float, *, at_once: bool) -> bool:
        """Compute paths when that is due, or must be at once; return whether it was done."""
        if not (at_once or self.spf.due(now)):
            return False
        self.spf.done()
        self._state.recompute(self._flooder.network_map(), now)
        return True

    def save(self) -> None:
        """Write down what the next life needs."""
        self._memory.save(self._flooder.incarnation, self._state.ports)

    def _do(self, now: float, output: Output) -> None:
        """Carry out what flooding asks for."""
        for link in output.ready:
            self._streams.wake(link)
        for link, reason in output.reset:
            self._streams.reset(link, reason)
        for reason, text in output.problems:
            self.refusals.add(now, reason, text)
        if output.changed:
            self.spf.event(now)
        if self._flooder.incarnation != self._memory.last.incarnation:
            self.save()
