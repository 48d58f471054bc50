"""What waits for a workload that is gone is ended, so that its client connects anew, now to another one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Protocol as Interface

from skedge.core.desired.compute import Desired
from skedge.core.engine import Engine
from skedge.core.model import Protocol
from skedge.core.objects import Target
from skedge.core.reasons import Reason
from skedge.daemon.state import datagram_targets, usable_targets

log = logging.getLogger("skedge.kernel")


class Host(Interface):
    """What ends sockets of this host."""

    def abort_connecting(self, targets: Collection[Target]) -> int:
        """End connections that still try to reach these targets; return how many. Raises DataplaneError."""
        ...

    def end_datagrams(self, targets: Collection[Target], placed: Callable[[], Collection[int]]) -> int:
        """End connected UDP sockets among ``placed`` (cookies) that send to these targets. Raises DataplaneError."""
        ...


class Withdrawals:
    """Follows which targets are taken back: connects under way, and connected UDP sockets, are told by nothing else."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._usable: frozenset[Target] = frozenset()
        self._taking: frozenset[Target] = frozenset()
        self.ended = 0

    def follow(self, desired: Desired, engine: Engine) -> None:
        """End what waits for a target that was there the last time, and count it. Raises DataplaneError."""
        before, self._usable = self._usable, usable_targets(desired)
        taking, self._taking = self._taking, datagram_targets(desired)
        if withdrawn := before - self._usable:
            self._count("connects", self._host.abort_connecting(withdrawn))
        if withdrawn := taking - self._taking:
            self._count("datagram sockets", self._host.end_datagrams(withdrawn, lambda: _udp_cookies(engine)))

    def _count(self, what: str, ended: int) -> None:
        self.ended += ended
        if ended:
            log.info("op=end reason=%s what=%r ended=%d", Reason.WITHDRAWN.word, what, ended)


def _udp_cookies(engine: Engine) -> frozenset[int]:
    return engine.placed_sockets(Protocol.UDP)
