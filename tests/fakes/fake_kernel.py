"""A kernel that executes desired state: where would this connection go, and over which hops?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from skedge.core.desired.compute import Desired
from skedge.core.model import Protocol, WorkloadId
from skedge.core.names import GATEWAY4
from skedge.core.objects import EndpointKey, ListenerKey, ListenerTarget, ServiceKey, Target
from skedge.core.placement.rule import Ledger
from skedge.core.reasons import Reason


class LoopFound(AssertionError):
    """A packet came to a site twice."""


@dataclass(frozen=True)
class Verdict:
    """``workload`` is what was reached (not what was chosen); ``paths`` are all ways a packet may take there."""

    workload: WorkloadId | None = None
    server: Target | None = None
    paths: frozenset[tuple[str, ...]] = frozenset()
    reason: Reason = Reason.NONE
    chosen: WorkloadId | None = None


@dataclass
class FakeNetwork:
    """One fake kernel a site. Devices are joined by their link's identity, as cables are."""

    kernels: Mapping[str, Desired]
    ledgers: dict[tuple[str, ServiceKey], Ledger] = field(default_factory=dict)
    turns: dict[tuple[str, ListenerTarget], int] = field(default_factory=dict)

    def connect(self, site: str, address: str, port: int, protocol: Protocol = Protocol.TCP) -> Verdict:
        """Open and hold one connection from a program at ``site``."""
        kernel = self.kernels[site]
        listener = kernel.listeners.get(ListenerKey(str(ip_address(address)), port, protocol))
        if listener is None:
            return Verdict(reason=Reason.NOT_PUBLISHED)
        service = self._turn(site, listener)
        family = ip_address(address).version
        candidates = kernel.services[service].candidates
        placement = self.ledgers.setdefault((site, service), Ledger()).place(candidates, family)
        if placement is None:
            return Verdict(reason=Reason.NO_WORKLOAD)
        chosen = candidates[placement.winner]
        target = chosen.target4 if family == 4 else chosen.target6
        assert target is not None
        if chosen.own_site:
            return Verdict(chosen.workload, target, frozenset({(site,)}), chosen=chosen.workload)
        return self._deliver(site, target, protocol, chosen.workload)

    def _turn(self, site: str, listener: ListenerTarget) -> ServiceKey:
        """The service that is next by the listener's schedule."""
        turns = listener.schedule or (listener.service,)
        taken = self.turns[site, listener] = self.turns.get((site, listener), 0) + 1
        return turns[(taken - 1) % len(turns)]

    def _deliver(self, site: str, target: Target, protocol: Protocol, chosen: WorkloadId) -> Verdict:
        paths = self.walk(site, target.address)
        ends = {path[-1] for path in paths}
        if len(ends) != 1:
            return Verdict(reason=Reason.UNREACHABLE, chosen=chosen)
        endpoint = self.kernels[ends.pop()].endpoints.get(EndpointKey(target.port, protocol))
        if endpoint is None:
            return Verdict(reason=Reason.NOT_PUBLISHED, paths=paths, chosen=chosen)
        return Verdict(endpoint.workload, Target(endpoint.host, endpoint.port), paths, chosen=chosen)

    def walk(self, site: str, address: str, seen: tuple[str, ...] = ()) -> frozenset[tuple[str, ...]]:
        """All paths a packet to ``address`` may take from ``site``, following every ECMP next hop."""
        if site in seen:
            raise LoopFound(f"{address}: {' > '.join((*seen, site))}")
        here, kernel = (*seen, site), self.kernels[site]
        key = f"{address}/{32 if ip_address(address).version == 4 else 128}"
        if key in kernel.addresses:
            return frozenset({here})
        if key not in kernel.routes:
            return frozenset()
        found: set[tuple[str, ...]] = set()
        for hop in kernel.routes[key].next_hops:
            found |= self.walk(self._neighbour(site, hop.device, hop.via), address, here)
        return frozenset(found)

    def _neighbour(self, site: str, device: str, via: str) -> str:
        """The site whose end of the same cable has the next hop's address: on a link there is but one neighbour."""
        mine = self.kernels[site].links[device]
        via = mine.peer_link_local if via == GATEWAY4 else via
        ends = [
            other
            for other, kernel in self.kernels.items()
            if other != site and any(one.link == mine.link and one.link_local == via for one in kernel.links.values())
        ]
        assert len(ends) == 1, f"{site}: next hop {via} on {device} is at {ends}"
        return ends[0]
