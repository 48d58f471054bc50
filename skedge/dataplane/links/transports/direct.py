"""Direct links: a macvlan (mode private) on the operator's device, whose other traffic is not touched."""

from __future__ import annotations

from collections.abc import Mapping

from skedge.core.objects import LinkDevice
from skedge.dataplane.links.transports.strategy import Strategy


class Direct(Strategy):
    """Creates macvlan devices; all that one is made of is its underlay."""

    def attributes(self, want: LinkDevice, underlay: int | None) -> Mapping[str, object]:  # noqa: ARG002 (no tunnel)
        """Return the device below, and the mode."""
        return {"link": underlay, "macvlan_mode": "private"}
