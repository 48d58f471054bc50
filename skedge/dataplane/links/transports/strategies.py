"""The strategy of every transport."""

from __future__ import annotations

from collections.abc import Mapping

from skedge.core.transports import Transport
from skedge.dataplane.links.transports.direct import Direct
from skedge.dataplane.links.transports.strategy import Strategy
from skedge.dataplane.links.transports.vxlan import Vxlan
from skedge.dataplane.links.transports.wireguard import WireGuardLinks


def strategies(wireguard: WireGuardLinks) -> Mapping[Transport, Strategy]:
    """Return them all; that of WireGuard is given, because it is also asked what its far ends do."""
    return {Transport.WIREGUARD: wireguard, Transport.VXLAN: Vxlan(), Transport.DIRECT: Direct()}
