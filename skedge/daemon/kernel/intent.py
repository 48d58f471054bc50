"""What the kernel's thread is told to make so: everything in a run, and routes round a failure before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from skedge.core.desired.compute import Desired
from skedge.core.objects import KernelRoute
from skedge.daemon.kernel.kernel import Applied
from skedge.daemon.kernel.resumption import Resumption
from skedge.daemon.kernel.worker import Worker
from skedge.daemon.loop.life import Life
from skedge.daemon.state import State


class Intent:
    """What was last asked of the kernel; ``desired`` is what the state asks for, of which a young life asks a part."""

    def __init__(self, state: State, worker: Worker, resumption: Resumption) -> None:
        self._state, self._worker, self._resumption = state, worker, resumption
        self.desired = self._asked = Desired()
        self._routes: Mapping[str, KernelRoute] = self.desired.routes

    def ask(self, life: Life) -> None:
        """Tell the kernel's thread what should be."""
        self.desired = self._state.desired()
        self._resumption.expect(self.desired.routes)
        self._routes = self.desired.routes
        self._asked = _so_far(self.desired, life)
        self._worker.want(self._state.config, self._asked, allow_delete=life.deleting)

    def next(self, life: Life) -> Desired:
        """Return what the next reconcile run would make so."""
        return _so_far(self._state.desired(), life)

    def reroute(self, life: Life) -> None:
        """Lead routes that are there the way that is known now, before anything else is computed or compared."""
        routes, told = self._state.routes(), self._routes
        if life.synced:
            self._worker.lead(
                routes, [key for key, one in routes.items() if key in told and told[key].leads_unlike(one)]
            )
        self._routes = routes

    def reachable(self, made: Applied) -> bool:
        """Tell whether the kernel has all by which others use this site: its ways to them, and its endpoints."""
        failed = any(key.startswith(("endpoint", "route")) for key in made.failed)
        routed = all(made.routes.get(key) == route for key, route in self._asked.routes.items())
        return routed and made.endpoints == self._asked.endpoints and not failed


def _so_far(desired: Desired, life: Life) -> Desired:
    """Return what is asked for in this phase.

    Until balancing, services are left as they were found, and endpoints: where they lead to, health checks tell.
    """
    if life.balancing:
        return desired
    return replace(desired, services={}, listeners={}, choosers={}, endpoints={})
