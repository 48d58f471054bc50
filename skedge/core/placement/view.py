"""What one entering site judges workloads by: its paths, its drained sites, its own workloads, the others' load."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from skedge.core.abilities import ABILITIES, Abilities
from skedge.core.linkstate.own_records import NO_RESOLVED, is_loopback, is_own, led_on_to, workload_target
from skedge.core.model import SiteConfig, WorkloadId
from skedge.core.objects import ServiceKey, Target
from skedge.core.records import NetworkMap
from skedge.core.routing.lan_prefixes import judge
from skedge.core.routing.overlay_addresses import SiteAddresses
from skedge.core.routing.rib import Rib


@dataclass(frozen=True, slots=True)
class View:
    """What one entering site judges workloads by.

    ``own_site`` holds the targets of that site's own workloads (host:port by workload); None when the site is not
    this one; ``off_host`` are those of them that are not on the host itself, ``unserved`` those that the site's engine
    cannot lead its own clients to, ``led_on`` those that the host's own DNAT leads elsewhere. ``preserving`` are the
    other sites that take that site's LAN clients under their own addresses. ``others`` are open connections as the
    other sites last reported them; ``suspended`` is this site's. ``closed``: that site's listeners are drained.
    """

    rib: Rib
    addresses: Mapping[str, SiteAddresses]
    drained_sites: frozenset[str] = frozenset()
    own_site: Mapping[WorkloadId, Target] | None = None
    others: Mapping[tuple[ServiceKey, WorkloadId], int] = field(default_factory=dict)
    suspended: frozenset[tuple[ServiceKey, WorkloadId]] = frozenset()
    off_host: frozenset[WorkloadId] = frozenset()
    preserving: frozenset[str] = frozenset()
    unserved: frozenset[WorkloadId] = frozenset()
    led_on: frozenset[WorkloadId] = frozenset()
    closed: bool = False


def view(
    config: SiteConfig,
    rib: Rib,
    network_map: NetworkMap,
    addresses: Mapping[str, SiteAddresses],
    *,
    others: Mapping[tuple[ServiceKey, WorkloadId], int],
    suspended: frozenset[tuple[ServiceKey, WorkloadId]] = frozenset(),
    resolved: Mapping[str, Target] = NO_RESOLVED,
    host_addresses: Collection[str] = (),
) -> View:
    """Return what workloads are judged by at the RIB's site, which may be another one than this (explain)."""
    drained = {site for site, record in network_map.links.items() if record.drain and site != config.site}
    if config.drain:
        drained.add(config.site)
    seen = View(rib, addresses, frozenset(drained), others=others, suspended=suspended)
    if rib.site != config.site:
        return seen
    targets = {connector.name: workload_target(connector, resolved) for connector in config.connectors}
    own_site = {WorkloadId(config.site, name): target for name, target in targets.items() if target is not None}
    off_host = frozenset[WorkloadId]()
    if host_addresses:  # else not known yet
        off_host = frozenset(one for one, target in own_site.items() if not is_own(target, host_addresses))
    return replace(
        seen,
        own_site=own_site,
        off_host=off_host,
        preserving=preserving_sites(config, network_map),
        unserved=_unserved(ABILITIES[config.engine], own_site, off_host),
        led_on=frozenset(WorkloadId(config.site, one.name) for one in config.connectors if led_on_to(one, resolved)),
        closed=config.entry_drain,
    )


def _unserved(
    can: Abilities, own_site: Mapping[WorkloadId, Target], off_host: frozenset[WorkloadId]
) -> frozenset[WorkloadId]:
    """Return the own workloads that an engine with these abilities cannot lead clients of this site to."""
    unserved = frozenset[WorkloadId]() if can.off_host else off_host
    if not can.loopback_workloads:
        unserved |= {one for one, target in own_site.items() if is_loopback(target)}
    return unserved


def preserving_sites(config: SiteConfig, network_map: NetworkMap) -> frozenset[str]:
    """Return the other sites that take this one's LAN clients under their own addresses."""
    own = frozenset(judge(config, network_map, ()).own)
    records = network_map.links.items()
    return frozenset(site for site, record in records if site != config.site and own and own.isdisjoint(record.refused))
