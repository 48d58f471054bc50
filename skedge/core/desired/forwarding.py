"""Whether the host must forward packets between devices."""

from __future__ import annotations

from skedge.core.abilities import ABILITIES
from skedge.core.model import SiteConfig


def host_forwards(config: SiteConfig) -> bool:
    """Return whether packets pass through this host: those of a transit site, and replies to LAN clients.

    Only some engines need the host for the replies (`Abilities.replies_forwarded`).
    """
    transit = len({link.to for link in config.links}) > 1 and not config.overload
    return transit or (ABILITIES[config.engine].replies_forwarded and bool(config.listeners))
