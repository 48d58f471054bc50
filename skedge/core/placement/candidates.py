"""Service tables: every workload of a service as one site may choose it now, or the reason why it may not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from skedge.core.linkstate.own_records import is_ipv4
from skedge.core.model import WORKLOADS_PER_SERVICE_MAX, WorkloadId
from skedge.core.objects import Candidate, ServiceKey, ServiceTable, Target
from skedge.core.placement.view import View
from skedge.core.reasons import Reason
from skedge.core.records import NetworkMap, WorkloadState
from skedge.core.routing.overlay_addresses import SiteAddresses, Skipped


@dataclass(frozen=True, slots=True)
class Offer:
    """One workload as its site describes it."""

    site: str
    state: WorkloadState

    @property
    def workload(self) -> WorkloadId:
        """Return its network-wide identity."""
        return WorkloadId(self.site, self.state.connector)


def offers(network_map: NetworkMap) -> Mapping[ServiceKey, Sequence[Offer]]:
    """Return all workloads of the network by service, sorted by workload id."""
    found: defaultdict[ServiceKey, list[Offer]] = defaultdict(list)
    for site, record in sorted(network_map.services.items()):
        for state in sorted(record.workloads, key=lambda state: state.connector):
            found[ServiceKey(state.service, state.protocol)].append(Offer(site, state))
    return found


def service_table(key: ServiceKey, offered: Sequence[Offer], view: View) -> tuple[ServiceTable, tuple[Skipped, ...]]:
    """Return the candidates of a service at the view's site, sorted by workload id, and those beyond 256.

    When there are more than a table holds, those that may be chosen stay before those that may not, the cheapest
    first; the rest is reported with `Reason.TABLE_FULL`.
    """
    found = [candidate(key, offer, view) for offer in offered]
    if len(found) <= WORKLOADS_PER_SERVICE_MAX:
        return ServiceTable(tuple(found)), ()
    usable = (Reason.NONE, Reason.SUSPENDED)
    ranked = sorted(found, key=lambda one: (one.out not in usable, one.path_cost, one.workload))
    first, rest = ranked[:WORKLOADS_PER_SERVICE_MAX], ranked[WORKLOADS_PER_SERVICE_MAX:]
    return (
        ServiceTable(tuple(sorted(first, key=lambda one: one.workload))),
        tuple(Skipped("workload", f"{key.name}: {one.workload}", Reason.TABLE_FULL) for one in rest),
    )


def candidate(key: ServiceKey, offer: Offer, view: View) -> Candidate:
    """Return one workload as the view's site may choose it. The path cost of an unreachable one is 0 and unused."""
    workload, state = offer.workload, offer.state
    path_cost = view.rib.path_cost(offer.site, key.name)
    here = offer.site == view.rib.site
    direct = here and view.own_site is not None
    target4, target6 = _local_targets(view, workload) if direct else _remote(offer, view)
    made = Candidate(
        workload=workload,
        path_cost=path_cost or 0,
        **state.terms(),
        others=view.others.get((key, workload), 0),
        target4=target4,
        target6=target6,
        own_site=here,
        off_host=direct and workload in view.off_host,
        preserves_src=offer.site in view.preserving,
    )
    return replace(made, out=_out(key, offer, view, made, path_cost is not None))


def _out(key: ServiceKey, offer: Offer, view: View, made: Candidate, reachable: bool) -> Reason:
    """Return the first reason, worst first, why a workload may not be chosen."""
    verdicts = (
        (not reachable, Reason.UNREACHABLE),
        (not offer.state.healthy, Reason.UNHEALTHY),
        (offer.state.drain or offer.site in view.drained_sites, Reason.DRAINED),
        (view.closed, Reason.ENTRY_DRAINED),
        (offer.workload in view.unserved & view.led_on, Reason.PUBLISHED_BY_DNAT),
        (offer.workload in view.unserved, Reason.ENGINE),
        (made.target4 is None and made.target6 is None, Reason.NO_FAMILY),
        ((key, offer.workload) in view.suspended, Reason.SUSPENDED),
    )
    return next((reason for holds, reason in verdicts if holds), Reason.NONE)


def _local_targets(view: View, workload: WorkloadId) -> tuple[Target | None, Target | None]:
    target = (view.own_site or {}).get(workload)
    if target is None:
        return None, None
    return (target, None) if is_ipv4(target) else (None, target)


def _remote(offer: Offer, view: View) -> tuple[Target | None, Target | None]:
    """Return the endpoint of a workload of another site, per address family."""
    addresses, state = view.addresses.get(offer.site, SiteAddresses()), offer.state
    return (
        Target(addresses.v4, state.port) if state.ipv4 and addresses.v4 else None,
        Target(addresses.v6, state.port) if state.ipv6 and addresses.v6 else None,
    )


def merge_candidates(current: ServiceTable, wanted: ServiceTable) -> ServiceTable:
    """Return the wanted table without the loss of a candidate that the kernel has.

    Before this site is in sync, a workload it has not heard of, or whose site it cannot reach yet, is unknown, not
    gone: the kernel keeps it as it is. What is known holds. At most 256, the wanted ones first.
    """
    merged = {one.workload: one for one in current.candidates}
    for one in wanted.candidates:
        if one.out is not Reason.UNREACHABLE or one.workload not in merged:
            merged[one.workload] = one
    known = {one.workload for one in wanted.candidates}
    ranked = sorted(merged.values(), key=lambda one: (one.workload not in known, one.workload))
    return ServiceTable(tuple(sorted(ranked[:WORKLOADS_PER_SERVICE_MAX], key=lambda one: one.workload)))
