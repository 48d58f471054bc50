"""Drains over the local API: who may, what is done, and what is left of what was drained."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Protocol

from skedge.control.peer import Peer, refuse_unless_admin
from skedge.core.api.documents import Request
from skedge.core.api.shown import DrainRow
from skedge.core.drains import Drain, DrainKind, Drains, drained, find, named, undrained, workloads
from skedge.core.ending import Ending, Selection, of_workload
from skedge.core.errors import ApiError, DataplaneError
from skedge.core.linkstate.own_records import workload_target
from skedge.core.model import Protocol as Protocols
from skedge.core.model import WorkloadId
from skedge.core.objects import Target
from skedge.core.observed import FlowKind
from skedge.core.reasons import Reason
from skedge.core.routing.transit import Transit, transit
from skedge.daemon.api.view import View

OPS = ("drain", "undrain", "leave")
LEFT_S = 5.0  # for a look at what is left
FLOODED_S = 1.0  # in which all sites have heard it and their kernels have other paths: 0.1 s measured, 1.0 s the worst
AGED_MAX = 2000  # so many open connections are read for the age of the oldest one; more take too long


class Drainable(View, Protocol):
    """A controller that takes drains by command."""

    def drain(self, wanted: Drains) -> None:
        """Keep and follow what is drained by command. Raises ApiError when it cannot be kept."""
        ...

    def end(self, ending: Ending) -> None:
        """Let connections be ended; does not wait."""
        ...

    def leave(self) -> None:
        """Withdraw this site until its next start."""
        ...


async def command(at: Drainable, request: Request, peer: Peer) -> list[DrainRow]:
    """Drain or take a drain back; return the one as it is now (nothing is left of it: no row). Raises ApiError.

    ``drain`` and ``leave`` are answered when all sites have had the time to choose and route otherwise.
    """
    refuse_unless_admin(peer)
    standing = at.state.drains
    if request.op == "leave":
        at.leave()
        await asyncio.sleep(FLOODED_S)
        return []
    if request.op == "undrain":
        what, name = _standing(at, request)
        at.drain(undrained(standing, what, name))
    else:
        what, name = named(at.state.given, request.what or DrainKind.SITE, request.name)
        if request.abort and what is DrainKind.LINK:
            raise ApiError("connections are of a site or workload: a drained link has none that it could end")
        if request.entry and what is not DrainKind.SITE:
            raise ApiError("--entry goes with the site: listeners belong to no workload and no link")
        at.drain(drained(standing, Drain(what, name, request.entry, peer.name, time.time())))
        await asyncio.sleep(FLOODED_S)
        if request.abort:
            for ending in _endings(at, workloads(at.state.config, what, name), f"drain {what} {name}".strip()):
                at.end(ending)
    return [row for row in await rows(at) if (row.what, row.name) == (what, name)]


def _standing(at: Drainable, request: Request) -> tuple[DrainKind, str]:
    """Return the drain that is to be taken back, also of what the configuration has no more. Raises ApiError."""
    wanted = (request.what or DrainKind.SITE.value, request.name.removeprefix(f"{at.state.given.site}/"))
    for one in at.state.drains:
        if (one.what.value, one.name) == wanted:
            return one.what, one.name
    what, name = named(at.state.given, request.what or DrainKind.SITE, request.name)
    if find(at.state.drains, what, name) is None:
        by_configuration = any(
            (row.what, row.name, row.by_configuration) == (what.value, name, True) for row in _rows(at, time.time())
        )
        way_out = "; its configuration does: deploy it without skedge_drain" if by_configuration else ""
        raise ApiError(f"no command drains {f'{what} {name}'.strip()}{way_out}")
    return what, name


def _endings(at: View, about: Collection[WorkloadId], what: str) -> Iterator[Ending]:
    """Yield what ends the connections to workloads of this site, at either end that is on this host."""
    state, config = at.state, at.state.config
    for protocol in Protocols:
        reached, serves = [], []
        for one in config.connectors:
            if one.protocol is protocol and WorkloadId(config.site, one.name) in about:
                target, port = workload_target(one, state.resolved), state.ports.get(one.name, 0)
                reached += [target] if target else []
                serves += [Target(address, port) for address in (config.overlay4, config.overlay6) if address and port]
        if ends := of_workload(reached, serves):
            yield Ending(Selection(ends, protocol), Reason.DRAINED, what)


async def rows(at: View) -> list[DrainRow]:
    """Return one row a thing that is drained, by command or by configuration, with what is left of it."""
    made = _rows(at, time.time())
    passing = Transit()
    if any(row.what == DrainKind.SITE for row in made):
        passing = await asyncio.to_thread(transit, at.state.network_map, at.state.config.site)
    found = []
    for row in made:
        site = row.what == DrainKind.SITE
        about = workloads(at.state.config, DrainKind(row.what), row.name)
        left, oldest = (None, None) if row.what == DrainKind.LINK else await _left(at, about)
        cut = tuple(f"{a} from {b}" for a, b in passing.cut) if site and at.state.config.overload else ()
        transit_pairs = passing.through if site else None
        found.append(replace(row, connections=left, oldest_s=oldest, transit=transit_pairs, cut_off=cut))
    return found


def _rows(at: View, now: float) -> list[DrainRow]:
    """Return the same without what is left."""
    state = at.state
    given = [(DrainKind.SITE, "")] if state.given.drain else []
    given += [(DrainKind.WORKLOAD, one.name) for one in state.given.connectors if one.drain]
    found = [
        DrainRow(
            one.what.value,
            one.name,
            by=one.by,
            since=one.since,
            age_s=max(0.0, now - one.since),
            entry=one.entry,
            by_configuration=(one.what, one.name) in given,
        )
        for one in state.drains
    ]
    commanded = {(one.what, one.name) for one in state.drains}
    found += [
        DrainRow(what.value, name, by_configuration=True) for what, name in given if (what, name) not in commanded
    ]
    order = list(DrainKind)
    return sorted(found, key=lambda row: (order.index(DrainKind(row.what)), row.name))


async def _left(at: View, about: Collection[WorkloadId]) -> tuple[int | None, float | None]:
    """Return the open connections to workloads of this site, and the age of the oldest one that was placed here.

    Those of other sites are the sockets at the endpoints and the flows that lead off the host; or what the sites
    report, where that is more (UDP, and what IPVS translates).
    """
    state, kernel = at.state, at.worker.kernel
    own = sum(counts.open for (_, workload), counts in state.counts.items() if workload in about)
    reported = sum(n for one in state.reporters() for workload, n in one.report.open.items() if workload in about)
    ports = [port for name, port in state.ports.items() if WorkloadId(state.config.site, name) in about]
    try:
        async with asyncio.timeout(LEFT_S):
            seen = await asyncio.to_thread(kernel.host.serving, ports)
            if at.desired.off_host:
                seen += (await at.worker.beside(kernel.engine.flow_sums)).kinds.get(FlowKind.OVERLAY, 0)
            oldest = await _oldest(at, about) if own else None
    except (TimeoutError, DataplaneError):
        return None, None
    return own + max(reported, seen), oldest


async def _oldest(at: View, about: Collection[WorkloadId]) -> float | None:
    if sum(counts.open for counts in at.state.counts.values()) > AGED_MAX:
        return None
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    ages = (now - one.placed_at for one in at.worker.kernel.engine.connections() if one.workload in about)
    return await at.worker.beside(lambda: max(ages, default=None))
