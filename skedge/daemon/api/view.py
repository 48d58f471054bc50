"""What the answers and the metrics look at: a controller, as far as they see it."""

from __future__ import annotations

from typing import Protocol

from skedge.control.identity.identity import Identity
from skedge.core.desired.compute import Desired
from skedge.core.linkstate.flooding import Flooder
from skedge.daemon.counter_polling import Counting, Tally
from skedge.daemon.ending.endings import Endings
from skedge.daemon.events import Orders
from skedge.daemon.kernel.kernel import Applied
from skedge.daemon.kernel.resumption import Resumption
from skedge.daemon.kernel.tunnel_watch import Tunnels
from skedge.daemon.kernel.worker import Worker
from skedge.daemon.loop.life import Life
from skedge.daemon.refusals import Refusals
from skedge.daemon.state import State


class View(Protocol):
    """Nothing of it is changed by who looks; the kernel is read by way of ``worker``."""

    life: Life
    state: State
    flooder: Flooder
    applied: Applied
    config_error: str
    identity: Identity
    refusals: Refusals
    tally: Tally
    counting: Counting
    endings: Endings
    resumption: Resumption
    tunnels: Tunnels
    control: Orders
    worker: Worker

    def wanted(self) -> Desired:
        """Return what the next reconcile run would make so."""
        ...

    def refresh_heard(self) -> None:
        """Bring the ages of load reports up to now."""
        ...

    @property
    def desired(self) -> Desired:
        """Return what the kernel should hold."""
        ...
