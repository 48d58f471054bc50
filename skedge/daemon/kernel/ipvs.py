"""The engine `ipvs` beside its drivers, as one fixture: base rules, default deny, the host's settings of IPVS."""

from __future__ import annotations

from collections.abc import Mapping

from skedge.core.desired.compute import Desired
from skedge.core.errors import DataplaneError
from skedge.core.model import SiteConfig
from skedge.core.reasons import Reason
from skedge.daemon.kernel.handover import Handover
from skedge.dataplane.ebpf.packet_check import FilterConfig
from skedge.dataplane.ipvs.engine import IpvsEngine
from skedge.dataplane.nftables.default_deny import OverlayGuard
from skedge.dataplane.nftables.notrack import Untracked
from skedge.dataplane.retired_engines import Leftover


class IpvsSide:
    """What the engine needs around it; ensured before any link, so that none is up without the check."""

    name = "ipvs"

    def __init__(self, engine: IpvsEngine, guard: OverlayGuard, leftover: Leftover | None = None) -> None:
        self._engine = engine
        self._guard = guard
        self.handover = Handover(leftover, self._begin)

    def ensure(self, config: SiteConfig, desired: Desired) -> bool:
        """Make it so; return whether anything changed. Raises DataplaneError.

        While another engine serves, no packet is marked or translated yet: the kernel would take sockets away from
        connections that its programs deliver (see `Untracked`).
        """
        wanted = FilterConfig.of_site(config)
        changed = self._guard.configure(wanted, desired.links)
        changed |= self._engine.settle()
        return changed if self.handover.waiting else self._engine.rules.configure(wanted) or changed

    def _begin(self, config: SiteConfig) -> None:
        self._engine.rules.configure(FilterConfig.of_site(config), Untracked.removal())

    def drops(self) -> Mapping[Reason, int]:
        """Return what default deny refused, by reason."""
        try:
            return self._guard.drops()
        except DataplaneError:
            return {}
