"""Which of its services a listener's new connections go to. Among the workloads of one service, the rule decides.

``priority``: all to the first service that has a workload that may be chosen. ``weighted``: to all such services in
turn, by a schedule that the data plane walks through, so that any run of connections is shared out evenly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from math import gcd

from skedge.core.model import Affinity, Listener, Policy, SiteConfig, WorkloadId
from skedge.core.objects import ListenerTarget, ServiceKey, ServiceTable
from skedge.core.reasons import Reason

SCHEDULE_SIZE = 128

Tables = Mapping[ServiceKey, ServiceTable]
Suspended = Set[tuple[ServiceKey, WorkloadId]]


def service_keys(listener: Listener) -> tuple[ServiceKey, ...]:
    """Return all services of a listener, in the order of their priority."""
    return tuple(ServiceKey(share.service, listener.protocol) for share in listener.shares)


def listened(config: SiteConfig) -> frozenset[ServiceKey]:
    """Return all services of a site's listeners."""
    return frozenset(key for listener in config.listeners for key in service_keys(listener))


def listener_target(listener: Listener, tables: Tables, suspended: Suspended = frozenset()) -> ListenerTarget:
    """Return where the connections to a listener go while the services' tables are these."""
    keys = service_keys(listener)
    affinity_s = listener.affinity_timeout_s if listener.affinity is Affinity.CLIENT else 0
    if len(keys) == 1:
        return ListenerTarget(keys[0], (), affinity_s, listener.preserve_client_ip)
    usable = usable_services(keys, tables, suspended)
    if listener.policy is not Policy.WEIGHTED:
        return ListenerTarget(usable[0], (), affinity_s, listener.preserve_client_ip)
    weights = {key: share.weight for key, share in zip(keys, listener.shares, strict=True) if key in usable}
    return ListenerTarget(keys[0], schedule(weights), affinity_s, listener.preserve_client_ip)


def usable_services(keys: Sequence[ServiceKey], tables: Tables, suspended: Suspended) -> Sequence[ServiceKey]:
    """Return the services with a workload that may be chosen, in their order.

    Where all that may be chosen are suspended, the suspension is ignored; where none may, all take their part, and
    each connection is refused with its service's reason.
    """
    healthy = {
        key: [one.workload for one in tables.get(key, ServiceTable()).candidates if one.out is Reason.NONE]
        for key in keys
    }
    best = [key for key in keys if any((key, workload) not in suspended for workload in healthy[key])]
    return best or [key for key in keys if healthy[key]] or keys


def schedule(weights: Mapping[ServiceKey, int]) -> tuple[ServiceKey, ...]:
    """Return the turns of services by weight, as evenly mixed as can be (smooth weighted round robin).

    Exact where the weights, reduced, sum up to at most 128; else within one turn of 128, and everyone gets one.
    """
    turns = _turns(weights)
    total, credit = sum(turns.values()), dict.fromkeys(turns, 0)
    made: list[ServiceKey] = []
    for _ in range(total):
        for key, turn in turns.items():
            credit[key] += turn
        chosen = max(credit, key=lambda key: credit[key])  # the first of equals
        credit[chosen] -= total
        made.append(chosen)
    return tuple(made)


def _turns(weights: Mapping[ServiceKey, int]) -> Mapping[ServiceKey, int]:
    """Return how many turns each service has in one round of at most 128."""
    divisor, total = gcd(*weights.values()), sum(weights.values())
    if total // divisor <= SCHEDULE_SIZE:
        return {key: weight // divisor for key, weight in weights.items()}
    turns = {key: max(1, weight * SCHEDULE_SIZE // total) for key, weight in weights.items()}
    while (missing := SCHEDULE_SIZE - sum(turns.values())) != 0:
        # to the one furthest below its share, or from the one furthest above it
        step = 1 if missing > 0 else -1
        off = {key: step * (weights[key] * SCHEDULE_SIZE - turn * total) for key, turn in turns.items()}
        turns[max((key for key in off if turns[key] + step > 0), key=lambda key: off[key])] += step
    return turns
