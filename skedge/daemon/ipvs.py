"""The engine `ipvs` beside its drivers, as one fixture: base rules, default deny, the host's settings of IPVS."""

from __future__ import annotations

from collections.abc import Mapping

from skedge.core.desired import Desired
from skedge.core.errors import DataplaneError
from skedge.core.model import SiteConfig
from skedge.core.reasons import Reason
from skedge.dataplane.ipvs import IpvsEngine
from skedge.dataplane.linkfilter import FilterConfig
from skedge.dataplane.overlay_guard import OverlayGuard


class IpvsSide:
    """What the engine needs around it; ensured before any link, so that none is up without the check."""

    name = "ipvs"

    def __init__(self, engine: IpvsEngine, guard: OverlayGuard) -> None:
        self._engine = engine
        self._guard = guard

    def ensure(self, config: SiteConfig, desired: Desired) -> bool:  # noqa: ARG002  (one shape for all fixtures)
        """Make it so; return whether anything changed. Raises DataplaneError."""
        wanted = FilterConfig.of_site(config)
        changed = self._guard.configure(wanted)
        changed |= self._engine.settle()
        return self._engine.rules.configure(wanted) or changed

    def drops(self) -> Mapping[Reason, int]:
        """Return what default deny refused, by reason."""
        try:
            return self._guard.drops()
        except DataplaneError:
            return {}
