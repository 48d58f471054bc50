"""What follows from the boot that each site says: a site that came back has none of its connections any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine

from skedge.core.ending import Ending, Selection, of_site
from skedge.core.linkstate.boots import Returned, learnt, returned
from skedge.core.linkstate.flooding import Flooder
from skedge.core.linkstate.messages import Key, Kind
from skedge.core.reasons import Reason
from skedge.core.records import LinksRecord
from skedge.core.routing.overlay_addresses import SiteAddresses, site_addresses
from skedge.daemon.ending.endings import Endings
from skedge.daemon.state import State
from skedge.daemon.state_file import Memory

log = logging.getLogger("skedge.daemon")


class ReturnedSites:
    """Follows the boots of the other sites; those of the life before are in its memory."""

    def __init__(
        self, state: State, flooder: Flooder, memory: Memory, endings: Endings, settled: Callable[[], Awaitable[None]]
    ) -> None:
        """``settled`` waits until the kernel has what is wanted."""
        self._state, self._flooder, self._memory, self._endings = state, flooder, memory, endings
        self._settled = settled
        self._known = dict(memory.last.boots)

    def look(self) -> Coroutine[object, object, None] | None:
        """Compare with the map as it is now; return what is to be done beside the loop, None for nothing."""
        heard = self._heard()
        news = dict(learnt(self._known, heard))
        if news == self._known:
            return None
        endings = tuple(self._ending(one) for one in returned(self._known, heard))
        self._known = news
        return self._follow(endings)

    async def _follow(self, endings: tuple[Ending, ...]) -> None:
        """End first, remember then: a controller that dies in between ends them again in its next life.

        Clients connect anew at once, so before that the kernel is to know what the site says of its new life: until it
        is in sync it wants no connection, and its workloads may not have started.
        """
        if endings:
            await self._settled()
        await asyncio.gather(*(self._endings.end(one) for one in endings))
        self._memory.save_boots(self._known)

    def _heard(self) -> dict[str, tuple[LinksRecord, float]]:
        """Return the record of each other site, and when it was made (monotonic seconds)."""
        entries = (
            (site, record, self._flooder.database.get(Key(site, Kind.LINKS)))
            for site, record in self._state.network_map.links.items()
            if site != self._state.config.site
        )
        return {site: (record, entry.born) for site, record, entry in entries if entry is not None}

    def _ending(self, one: Returned) -> Ending:
        state, config = self._state, self._state.config
        addresses, _ = site_addresses(config, state.network_map)
        prefixes = [prefix for prefix, site in state.prefixes().others.items() if site == one.site]
        ends = of_site(addresses[one.site], prefixes, addresses.get(config.site, SiteAddresses()))
        log.warning("op=returned site=%s: it has none of its connections any more", one.site)
        return Ending(Selection(ends, silent_since=one.began), Reason.SITE_RESTARTED, f"site {one.site}")
