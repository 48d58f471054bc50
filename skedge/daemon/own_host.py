"""What this host's kernel says of the health checks' connections to the workloads of this site."""

from __future__ import annotations

import logging
import time

from skedge.control.health.accepting import DatagramQueue
from skedge.control.health.host import Listening
from skedge.control.health.probe_failed import ProbeFailed
from skedge.core.errors import DataplaneError
from skedge.core.linkstate.own_records import is_own
from skedge.core.model import WorkloadId
from skedge.core.objects import Target
from skedge.daemon.state import State
from skedge.dataplane.host import conntrack, sock_diag
from skedge.dataplane.host.translation import ALWAYS, Translation

log = logging.getLogger(__name__)

BLIND_S = 60.0  # so long a table that could not be read is not asked again


class OwnHost:
    """Asks connection tracking and the sockets (`skedge.control.health.host.Host`)."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._blind_until = 0.0
        self._translation = Translation()
        self._datagrams: dict[Target, DatagramQueue] = {}

    def bound(self, address: str, port: int) -> None:
        """Look for the socket of a UDP workload; of one on another machine it cannot be told. Raises ProbeFailed."""
        target = Target(address, port)
        try:
            sockets = sock_diag.datagram_sockets(target) if self._here(target) else None
        except DataplaneError as error:
            raise ProbeFailed(str(error)) from error
        if sockets is None:
            return
        if not sockets:
            raise ProbeFailed("no UDP socket is bound to it")
        queue = self._datagrams.setdefault(target, DatagramQueue())
        if queue.stuck(sum(one.queued for one in sockets), time.monotonic()):
            raise ProbeFailed("a UDP socket is bound to it, but nothing reads from that")

    def listening(self, asked: Target) -> Listening | None:
        """Look for sockets of this host's namespace that take connections to a workload; None: it takes a connect."""
        try:
            sockets = sock_diag.listening_sockets(asked) if self._here(asked) else []
            rules = self._translation.rules() if sockets else None
        except DataplaneError:
            return None
        if not sockets or rules == ALWAYS:
            return None
        ways = None if rules is None else (rules, frozenset(one.cookie for one in sockets))
        full = all(one.queued > one.limit for one in sockets)
        return Listening(sum(one.queued for one in sockets), full, ways)

    def led_to(self, own: Target, asked: Target) -> Target:
        """Return where a connection went; where that cannot be told, as it was asked for."""
        now = time.monotonic()
        if now < self._blind_until or not conntrack.tracks():
            return asked
        try:
            return conntrack.led_to(own, asked)
        except DataplaneError as error:
            self._blind_until = now + BLIND_S
            log.warning("op=health failed=%r DNAT of this host is not followed", str(error))
            return asked

    def waits(self, own: Target, asked: Target) -> bool:
        """Return whether a connection is to be accepted yet by a program of this host."""
        try:
            return self._here(asked) and sock_diag.waits_for_accept(own, asked)
        except DataplaneError:
            return False

    def serves(self, workload: WorkloadId, asked: Target) -> bool:
        """Return whether a program holds a connection at the workload's port, or at its endpoint's."""
        ports = {asked.port, self._state.ports.get(workload.connector, asked.port)}
        try:
            return any(sock_diag.has_accepted(port) for port in ports)
        except DataplaneError:
            return True

    def _here(self, target: Target) -> bool:
        return is_own(target, self._state.own_addresses())
