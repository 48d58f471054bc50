"""Which services a listener may name, and what its policy needs: one sentence for each contradiction."""

from __future__ import annotations

from collections.abc import Iterator

from skedge.config.schema import ListenerSpec
from skedge.config.validation import shown
from skedge.core.model import AFFINITY_TIMEOUT_S, LISTENER_SERVICES_MAX, Affinity, Policy

Problem = tuple[str, str]


def listener_services(path: str, listener: ListenerSpec) -> Iterator[Problem]:
    """Yield what is wrong with a listener's services, its policy and its affinity."""
    if not listener.names:
        yield f"{path}.service", "missing; give the name of a service, or services and a policy"
    elif listener.service and listener.services:
        yield f"{path}.services", "service is there too; give one of the two"
    elif listener.policy is Policy.COST:
        if len(listener.services) > 1:
            way_out = "give policy: priority or policy: weighted"
            yield f"{path}.policy", f"cost is among the workloads of one service, not among services; {way_out}"
    elif not listener.services:
        example = f"services: [{{service: {listener.service}}}, …]"
        yield f"{path}.services", f"missing; {listener.policy.value} is among several, give {example}"
    yield from _shares(path, listener)
    if listener.affinity is Affinity.NONE and listener.affinity_timeout_s != AFFINITY_TIMEOUT_S:
        way_out = "give affinity: client too, or remove it"
        yield f"{path}.affinity_timeout_s", f"there is no affinity that could end; {way_out}"


def _shares(path: str, listener: ListenerSpec) -> Iterator[Problem]:
    if len(listener.services) > LISTENER_SERVICES_MAX:
        yield f"{path}.services", f"{len(listener.services)} are more than {LISTENER_SERVICES_MAX}; give fewer"
    seen: dict[str, str] = {}
    for index, share in enumerate(listener.services):
        where = f"{path}.services[{index}]"
        first = seen.setdefault(share.service, where)
        if first != where:
            yield f"{where}.service", f"{shown(share.service)} is already {first}; remove one"
        if share.weight != 1 and listener.policy is not Policy.WEIGHTED:
            way_out = "remove it or give policy: weighted"
            yield f"{where}.weight", f"{listener.policy.value} knows no weights; {way_out}"
