"""From one engine to the other while connections are open: the new one serves first, then the old one drains."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from math import ceil

from skedge.core.api.documents import PlanStep
from skedge.core.desired.compute import Desired
from skedge.core.model import SiteConfig
from skedge.dataplane.retired_engines import RetiredEngine

ENGINE = "engine"
log = logging.getLogger("skedge.kernel")


class Handover:
    """One step a reconcile run.

    ``begin`` is the last thing that the engine of now needs before it serves, and what the other one must not have
    beside it. The deadline counts from there; a controller that is restarted counts anew.
    """

    def __init__(
        self,
        retired: RetiredEngine | None,
        begin: Callable[[SiteConfig], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left, self._begin, self._clock = retired, begin, clock
        self._until: float | None = None
        self._open = 0

    @property
    def waiting(self) -> bool:
        """Whether the other engine still serves."""
        return self._left is not None and self._until is None

    @property
    def draining(self) -> bool:
        """Whether there is anything of the other engine."""
        return self._left is not None

    @property
    def note(self) -> str:
        """What is to be said of it."""
        if self._left is None:
            return ""
        if self._until is None:
            return f"; {self._left.name} serves until all is known"
        seconds = max(0, ceil(self._until - self._clock()))
        return f"; {self._open} connections of {self._left.name} go on, for {seconds} s at most"

    def plan(self, *, ready: bool) -> tuple[PlanStep, ...]:
        """Return what the next `step` would do. Raises DataplaneError."""
        if self._left is None:
            return ()
        if self._until is None:
            return (PlanStep("replace", ENGINE, self._left.name, "serves", "drains"),) if ready else ()
        if self._left.open() and self._clock() < self._until:
            return ()
        return (PlanStep("delete", ENGINE, self._left.name, before="drains"),)

    def step(self, config: SiteConfig, desired: Desired, *, ready: bool) -> bool:
        """Go on; return whether anything changed.

        Args:
            config: this site's.
            desired: what the kernel has of the engine of now.
            ready: it is complete and the site in sync, so the other engine may go.

        Raises:
            DataplaneError: the kernel refused; the next step tries again.
        """
        if self._left is None:
            return False
        if self._until is None:
            if not ready:
                return False
            if self._begin is not None:
                self._begin(config)
            self._left.hand_over(desired.listeners if config.lan.devices else ())
            self._until = self._clock() + config.engine_drain_s
            log.info("op=switch from=%s to=%s drain_s=%.0f", self._left.name, config.engine, config.engine_drain_s)
            return True
        self._open = self._left.open()
        if self._open and self._clock() < self._until:
            return False
        self._left.remove()
        log.info("op=switched from=%s to=%s cut=%d", self._left.name, config.engine, self._open)
        self._left = None
        return True
