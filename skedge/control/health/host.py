"""What a health check asks the host about its own connection: where it was led, and whether anybody took it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from skedge.core.model import WorkloadId
from skedge.core.objects import Target


@dataclass(frozen=True, slots=True)
class Listening:
    """What the host tells of the sockets that take connections to a workload, without one.

    ``waiting`` connections are to be accepted; ``full``: no socket takes another. ``ways`` is None where connections of
    the host go where they are sent; else the host's rules may lead them elsewhere, which a connect tells, and it is
    another value whenever that must be asked anew.
    """

    waiting: int
    full: bool
    ways: object = None


class Host(Protocol):
    """Answers at once, from the kernel's own tables; ``own`` and ``asked`` are the two ends of a probe."""

    def bound(self, address: str, port: int) -> None:
        """Look for the socket of a UDP workload. Raises ProbeFailed when there is none."""
        ...

    def listening(self, asked: Target) -> Listening | None:
        """Look for sockets that listen. None: it takes a connect to tell, as the workload is elsewhere, or nowhere."""
        ...

    def led_to(self, own: Target, asked: Target) -> Target:
        """Return where the connection went: elsewhere than ``asked`` where the host's own rules translated it."""
        ...

    def waits(self, own: Target, asked: Target) -> bool:
        """Return whether no program of the host has accepted the connection yet, though the kernel has."""
        ...

    def serves(self, workload: WorkloadId, asked: Target) -> bool:
        """Return whether some program of the host holds a connection that it accepted as this workload."""
        ...


class NoHost:
    """A host that tells nothing: everything goes where it was sent, and is accepted there."""

    def bound(self, address: str, port: int) -> None:
        """Find every socket."""

    def listening(self, asked: Target) -> Listening | None:  # noqa: ARG002
        """Leave it to a connect."""
        return None

    def led_to(self, own: Target, asked: Target) -> Target:  # noqa: ARG002
        """Return what was asked for."""
        return asked

    def waits(self, own: Target, asked: Target) -> bool:  # noqa: ARG002
        """Return that it was accepted."""
        return False

    def serves(self, workload: WorkloadId, asked: Target) -> bool:  # noqa: ARG002
        """Return that it serves."""
        return True
