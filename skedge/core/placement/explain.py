"""Where the next connection to a service goes, and why: from what a site knows to the documents it answers with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from skedge.core.api.documents import Explain
from skedge.core.api.shown import CandidateRow, ListenerRow, ListenerServiceRow
from skedge.core.linkstate.own_records import NO_RESOLVED
from skedge.core.model import ANY_ADDRESS, Listener, Protocol, SiteConfig, WorkloadId
from skedge.core.names import address_port
from skedge.core.objects import Candidate, ListenerKey, ListenerTarget, ServiceKey, ServiceTable, Target
from skedge.core.observed import Counts
from skedge.core.placement import rule
from skedge.core.placement.candidates import offers, service_table
from skedge.core.placement.loads import Heard, oldest_age, reporters
from skedge.core.placement.policies import Suspended, Tables, listened, listener_target, service_keys
from skedge.core.placement.view import view
from skedge.core.reasons import Reason
from skedge.core.records import NetworkMap
from skedge.core.routing import rib
from skedge.core.routing.overlay_addresses import site_addresses

NOTHING = Counts()

ServiceWorkload = tuple[ServiceKey, WorkloadId]


@dataclass(frozen=True, slots=True)
class Facts:
    """What an explanation at the site of ``config`` follows from.

    ``network_map`` has all records, with that site's own services as they are now. ``rib``, ``counts`` and
    ``suspended`` are that site's. ``others`` are the open connections of all other sites as its tables count them,
    ``heard`` the reports these come from, by site. ``causes`` say why health checks of own connectors fail.
    """

    config: SiteConfig
    network_map: NetworkMap
    rib: rib.Rib
    host_addresses: tuple[str, ...] = ()
    resolved: Mapping[str, Target] = field(default_factory=lambda: NO_RESOLVED)
    counts: Mapping[ServiceWorkload, Counts] = field(default_factory=dict)
    suspended: frozenset[ServiceWorkload] = frozenset()
    others: Mapping[ServiceWorkload, int] = field(default_factory=dict)
    heard: Mapping[str, Heard] = field(default_factory=dict)
    causes: Mapping[str, str] = field(default_factory=dict)


def known_services(facts: Facts) -> frozenset[ServiceKey]:
    """Return the services that any site offers or this one listens to."""
    return frozenset(offers(facts.network_map)) | listened(facts.config)


def find_service(facts: Facts, name: str) -> ServiceKey | None:
    """Return the known service of this name, that of TCP where both protocols have one; None when none has."""
    known = known_services(facts)
    return next((key for protocol in Protocol if (key := ServiceKey(name, protocol)) in known), None)


def explain(facts: Facts, key: ServiceKey, site: str, now: float, listeners: Iterable[ListenerRow] = ()) -> Explain:
    """Return where the next connection from ``site`` goes, and why.

    For another entering site the split between its own and the others' open connections is as it last reported, and
    its listeners are not known.

    Args:
        facts: what this site knows.
        key: the service.
        site: where the connection enters, this site or another one of the map.
        now: monotonic seconds, the clock of ``facts.heard``.
        listeners: all of this site, from `listener_rows`; those that name the service are told.
    """
    here = site == facts.config.site
    paths = facts.rib if here else rib.compute(facts.network_map, site)
    candidates = _candidates(facts, key, paths)
    slots = [(key, one.workload) for one in candidates]
    opens = [_open_at(facts, slot, site) for slot in slots]
    # another site's choices are not known here
    last_chosen = [facts.counts.get(slot, NOTHING).last_chosen if here else 0 for slot in slots]
    chosen = rule.choose(candidates, opens, last_chosen)
    rows = tuple(
        _candidate_row(facts, key, one, opens[index], index == chosen, now, paths)
        for index, one in enumerate(candidates)
    )
    return Explain(
        service=key.name,
        site=site,
        candidates=rows,
        winner=None if chosen is None else str(candidates[chosen].workload),
        reason=(_refused(facts, here) if chosen is None else Reason.NONE).word,
        listeners=tuple(row for row in listeners if _names(row, key)) if here else (),
    )


def _refused(facts: Facts, here: bool) -> Reason:
    """Return why a connection is refused that enters here, or elsewhere."""
    return Reason.ENTRY_DRAINED if here and facts.config.entry_drain else Reason.NO_WORKLOAD


def _candidates(facts: Facts, key: ServiceKey, paths: rib.Rib) -> Sequence[Candidate]:
    """Return the candidates of a service at the site of these paths."""
    here = paths.site == facts.config.site
    addresses, _ = site_addresses(facts.config, facts.network_map)
    judged = view(
        facts.config,
        paths,
        facts.network_map,
        addresses,
        others=facts.others if here else _others_of(facts, key, paths.site),
        suspended=facts.suspended if here else frozenset(),
        resolved=facts.resolved,
        host_addresses=facts.host_addresses,
    )
    table, _ = service_table(key, offers(facts.network_map).get(key, ()), judged)
    return table.candidates


def _open_at(facts: Facts, slot: ServiceWorkload, site: str) -> int:
    """Return the connections from a site to a workload that are open."""
    if site == facts.config.site:
        return facts.counts.get(slot, NOTHING).open
    heard = facts.heard.get(site)
    return heard.report.open.get(slot[1], 0) if heard else 0


def _others_of(facts: Facts, key: ServiceKey, site: str) -> Mapping[ServiceWorkload, int]:
    """Return the open connections of all sites but another one than this."""
    total: dict[ServiceWorkload, int] = {slot: counts.open for slot, counts in facts.counts.items() if slot[0] == key}
    for heard in reporters(facts.heard, facts.rib):
        if heard.report.site != site:
            for workload, number in heard.report.open.items():
                total[key, workload] = total.get((key, workload), 0) + number
    return total


def _candidate_row(
    facts: Facts, key: ServiceKey, one: Candidate, open_: int, winner: bool, now: float, paths: rib.Rib
) -> CandidateRow:
    numerator, denominator = rule.perceived(one, open_)
    counts = facts.counts.get((key, one.workload), NOTHING)
    target = one.target4 or one.target6
    return CandidateRow(
        workload=str(one.workload),
        site=one.workload.site,
        path_cost=None if one.out is Reason.UNREACHABLE else one.path_cost,
        **one.terms(),
        open=open_,
        others=one.others,
        others_age_s=oldest_age(reporters(facts.heard, facts.rib), one.workload, now),
        perceived=f"{numerator}/{denominator}",
        perceived_float=numerator / denominator,
        reason=one.out.word,
        winner=winner,
        target=address_port(target.address, target.port) if target else "",
        chosen=counts.chosen,
        refused=counts.refused,
        path=paths.path(one.workload.site),
        cause=facts.causes.get(one.workload.connector, "") if one.workload.site == facts.config.site else "",
    )


def _names(row: ListenerRow, key: ServiceKey) -> bool:
    """Return whether a listener leads to a service."""
    return row.protocol == key.protocol.value and key.name in (one.service for one in row.services)


def listener_rows(
    listeners: Iterable[Listener],
    listener_targets: Mapping[ListenerKey, ListenerTarget],
    tables: Tables,
    suspended: Suspended = frozenset(),
    shared: Iterable[str] = (),
) -> list[ListenerRow]:
    """Return one row a configured listener.

    Args:
        listeners: this site's, as configured.
        listener_targets: where each concrete listener address leads, as desired.
        tables: the services' tables, as desired.
        suspended: what the data plane suspended here.
        shared: addresses, as prefixes, at which all listeners on every address are besides.
    """
    more = {prefix.partition("/")[0] for prefix in shared}
    return [_listener_row(one, listener_targets, tables, suspended, more) for one in listeners]


def _listener_row(
    one: Listener,
    listener_targets: Mapping[ListenerKey, ListenerTarget],
    tables: Tables,
    suspended: Suspended,
    shared: Collection[str],
) -> ListenerRow:
    keys = service_keys(one)
    addresses = {
        at.address: to
        for at, to in listener_targets.items()
        if (at.port, at.protocol) == (one.port, one.protocol)
        and one.address in (ANY_ADDRESS, at.address)
        and not ip_address(at.address).is_unspecified  # what has no address to name
        and to.service in keys
    }
    to = next(iter(addresses.values()), listener_target(one, tables, suspended))
    shares = {key: turns / sum(to.services.values()) for key, turns in to.services.items()}
    services = tuple(
        ListenerServiceRow(share.service, share.weight, round(shares.get(key, 0.0), 4), _healthy(tables, key))
        for share, key in zip(one.shares, keys, strict=True)
    )
    healthy = sum(row.healthy_workloads for row in services if row.share)
    return ListenerRow(
        service=one.service,
        address=one.address,
        port=one.port,
        protocol=one.protocol.value,
        addresses=tuple(sorted({*addresses, *_shared(one, listener_targets, shared)})),
        healthy_workloads=healthy,
        reason=(Reason.NONE if healthy else Reason.NO_WORKLOAD).word,
        services=services,
        policy=one.policy.value,
        affinity_s=to.affinity_s,
        preserve_client_ip=to.preserves_src,
    )


def _shared(
    one: Listener, listener_targets: Mapping[ListenerKey, ListenerTarget], shared: Collection[str]
) -> Iterable[str]:
    """Return the addresses that a listener has without entries of its own; explicit ones go before it."""
    if one.address != ANY_ADDRESS:
        return ()
    return (at for at in shared if ListenerKey(at, one.port, one.protocol) not in listener_targets)


def _healthy(tables: Tables, key: ServiceKey) -> int:
    return sum(one.out is Reason.NONE for one in tables.get(key, ServiceTable()).candidates)
