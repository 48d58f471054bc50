"""The bus: one control stream a link, dialled from both ends, the same one surviving at both.

The flooder sits behind four callables; it is asked for the next message whenever a stream can take one, so nothing
queues here. Everything runs in one asyncio loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from skedge.control.identity.identity import Identity
from skedge.control.streams.link_session import LinkEnd
from skedge.control.streams.seams import Seams, StreamStats
from skedge.control.streams.stream import BusLink
from skedge.core.linkstate.messages import Message
from skedge.core.model import LinkId
from skedge.core.reasons import Reason

__all__ = ["Bus", "BusLink", "StreamStats"]


class Bus:
    """`core.linkstate.messages.Bus` over TLS streams.

    ``on_up(link)``: a stream to the right neighbour is there; ``take(link)`` must then have a first message (Hello).
    ``on_message(link, message)``, ``on_down(link, reason)``: what came, and that the stream is gone.
    ``take(link)`` returns the next message to send, None when there is none until the next `wake`.
    ``rtt(link)`` returns the link's round trip in seconds, 0 when unknown.
    ``on_verdict(link)``: dialling told something new of TCP on the link, see `StreamStats.tcp`.
    """

    def __init__(
        self,
        site: str,
        identity: Identity,
        port: int,
        *,
        on_up: Callable[[LinkId], None],
        on_down: Callable[[LinkId, Reason], None],
        on_message: Callable[[LinkId, Message], None],
        take: Callable[[LinkId], Message | None],
        rtt: Callable[[LinkId], float] = lambda _link: 0.0,
        on_verdict: Callable[[LinkId], None] = lambda _link: None,
    ) -> None:
        self._seams = Seams(site, identity, port, on_up, on_down, on_message, take, rtt, on_verdict)
        self._ends: dict[LinkId, LinkEnd] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def set_links(self, links: Mapping[LinkId, BusLink]) -> None:
        """Serve exactly these links; streams of unchanged links are not touched."""
        for link, end in list(self._ends.items()):
            if links.get(link) != end.at:
                del self._ends[link]
                task = asyncio.get_running_loop().create_task(end.close(Reason.NOT_CONFIGURED))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        for link, at in links.items():
            if link not in self._ends:
                self._ends[link] = LinkEnd(self._seams, link, at)

    def wake(self, link: LinkId) -> None:
        """Say that ``take(link)`` has something."""
        end = self._ends.get(link)
        if end and end.stream:
            end.stream.kick.set()

    def reset(self, link: LinkId, reason: Reason) -> None:
        """Close the link's stream; it is dialled again after a delay."""
        end = self._ends.get(link)
        if end:
            end.drop(reason, f"{link}: reset: {reason.sentence}")

    def set_up(self, link: LinkId, up: bool) -> None:
        """Follow the link's liveness: up means dial now, down means close soon and do not dial."""
        end = self._ends.get(link)
        if end:
            end.set_up(up)

    def renew(self) -> None:
        """Make every stream anew with the certificate that this site has now; one that has it is left alone."""
        for end in self._ends.values():
            end.renew()

    def stats(self) -> Mapping[LinkId, StreamStats]:
        """Return the state of every link's stream."""
        return {link: end.stats() for link, end in self._ends.items()}

    async def close(self) -> None:
        """Close everything; no callback comes afterwards except ``on_down`` of open streams."""
        ends, self._ends = list(self._ends.values()), {}
        await asyncio.gather(*(end.close(Reason.NONE) for end in ends), *self._closing)
