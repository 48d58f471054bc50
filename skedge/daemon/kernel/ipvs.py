"""The engine `ipvs` beside its drivers, as one fixture: base rules, default deny, the host's settings of IPVS."""

from __future__ import annotations

from collections.abc import Mapping

from skedge.core.desired.compute import Desired
from skedge.core.errors import DataplaneError
from skedge.core.model import SiteConfig
from skedge.core.reasons import Reason
from skedge.daemon.kernel.handover import Handover
from skedge.daemon.kernel.matching import match
from skedge.dataplane.ebpf.packet_check import FilterConfig
from skedge.dataplane.ipvs import chains
from skedge.dataplane.ipvs.engine import IpvsEngine
from skedge.dataplane.nftables import default_deny, notrack
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver
from skedge.dataplane.nftables.default_deny import OverlayGuard
from skedge.dataplane.nftables.table import NftTable
from skedge.dataplane.retired_engines import Leftover


class IpvsSide:
    """What the engine needs around it; ensured before any link, so that none is up without the check."""

    name = "ipvs"

    def __init__(
        self, engine: IpvsEngine, guard: OverlayGuard, table: NftTable, leftover: Leftover | None = None
    ) -> None:
        self._engine = engine
        self._guard = guard
        self._deny = ChainGroupDriver(table, default_deny.OWNED)
        self._chains = ChainGroupDriver(table, chains.OWNED)
        self._beginning = ChainGroupDriver(table, chains.OWNED, notrack.OWNED)
        self.handover = Handover(leftover, self._begin)

    def ensure(self, config: SiteConfig, desired: Desired) -> bool:
        """Make it so; return whether anything changed. Raises DataplaneError."""
        wanted = FilterConfig.of_site(config)
        changed = match(self._deny, {default_deny.NAME: default_deny.group(wanted, desired.links)})
        changed |= self._engine.settle()
        serving = not self.handover.waiting
        return match(self._chains, chains.wanted(wanted, self._chains.read(), serving=serving)) or changed

    def _begin(self, config: SiteConfig) -> None:
        """Serve, and let everything be tracked, in one change."""
        self._beginning.change({chains.NAME: chains.group(FilterConfig.of_site(config))}, (notrack.NAME,))

    def drops(self) -> Mapping[Reason, int]:
        """Return what default deny refused, by reason."""
        try:
            return self._guard.drops()
        except DataplaneError:
            return {}
