"""All that one controller knows, owned by one task, and what follows from it (no I/O here)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from skedge import __version__
from skedge.control.health.monitor import HealthState
from skedge.core import drains
from skedge.core.desired.compute import Desired, compute, link_id
from skedge.core.desired.site_routes import all_routes
from skedge.core.drains import Drains
from skedge.core.linkstate import own_records
from skedge.core.linkstate.boots import Boot
from skedge.core.linkstate.measured_cost import CostParts
from skedge.core.linkstate.own_records import Liveness
from skedge.core.model import LinkId, Protocol, SiteConfig, WorkloadId
from skedge.core.objects import KernelRoute, ServiceKey, Target
from skedge.core.observed import Counts
from skedge.core.placement.candidates import offers
from skedge.core.placement.explain import Facts
from skedge.core.placement.loads import Heard, reporters
from skedge.core.placement.policies import listened
from skedge.core.reasons import Reason
from skedge.core.records import LinksRecord, NetworkMap, ServicesRecord
from skedge.core.routing.forwarding import Forwarding
from skedge.core.routing.lan_prefixes import Prefixes, judge
from skedge.core.routing.overlay_addresses import site_addresses
from skedge.core.routing.rib import Rib

ServiceWorkload = tuple[ServiceKey, WorkloadId]
SOFTWARE = f"skedge {__version__}"  # as this site says it of itself


@dataclass
class State:
    """The facts (set by events) and, from `recompute`, what SPF made of them."""

    config: SiteConfig
    ports: Mapping[str, int]
    network_map: NetworkMap = field(default_factory=lambda: NetworkMap({}, {}))
    forwarding: Forwarding = field(init=False)
    links_used: dict[LinkId, Liveness] = field(default_factory=dict)
    link_costs: Mapping[LinkId, CostParts] = field(default_factory=dict)
    health: dict[str, bool] = field(default_factory=dict)
    causes: dict[str, str] = field(default_factory=dict)  # why the health checks of unhealthy connectors fail
    resolved: dict[str, Target] = field(default_factory=dict)
    host_addresses: tuple[str, ...] = ()
    heard: dict[str, Heard] = field(default_factory=dict)
    counts: Mapping[ServiceWorkload, Counts] = field(default_factory=dict)
    suspended: frozenset[ServiceWorkload] = frozenset()
    boot: Boot = field(default_factory=Boot)
    drains: Drains = ()  # by command
    unusable: bool = False  # others shall not use this site: its host comes up, or goes down
    given: SiteConfig = field(init=False)  # as the file says; ``config`` is this with what is drained by command

    def __post_init__(self) -> None:
        self.given = self.config
        self.forwarding = Forwarding(self.config.site)

    # ---- what follows ---------------------------------------------------------------------------------------------

    def set_config(self, config: SiteConfig, saved: Mapping[str, int]) -> None:
        """Take a new configuration. Raises ConfigError when it has more connectors than endpoint ports."""
        self.ports = own_records.endpoint_ports(config, saved)
        before = {one.name: (one.host, one.port, one.protocol) for one in self.config.connectors}
        self.given, self.config = config, drains.applied(config, self.drains)
        names = {connector.name for connector in config.connectors}
        self.health = {name: good for name, good in self.health.items() if name in names}
        self.causes = {name: cause for name, cause in self.causes.items() if name in names}
        same = {one.name for one in config.connectors if before.get(one.name) == (one.host, one.port, one.protocol)}
        self.resolved = {name: target for name, target in self.resolved.items() if name in same}
        links = self.configured_links()
        self.links_used = {link: state for link, state in self.links_used.items() if link in links}

    def set_drains(self, wanted: Drains) -> None:
        """Take what is drained by command."""
        self.drains, self.config = wanted, drains.applied(self.given, wanted)

    def configured_links(self) -> Mapping[LinkId, str]:
        """Return link -> neighbour."""
        return {link_id(self.config, link): link.to for link in self.config.links}

    @property
    def rib(self) -> Rib:
        """Return the paths to all other sites."""
        return self.forwarding.rib

    def recompute(self, network_map: NetworkMap, now: float = 0.0) -> None:
        """Run SPF over a new map.

        A removed site's records live on until they are old, but nobody is to see them. While it can still be reached
        it carries traffic for those who were not deployed yet: who left it out of SPF alone would make loops.
        """
        self.forwarding.recompute(now, network_map)
        self.network_map = network_map.without(set(self.config.removed_sites) - self.rib.paths.keys())

    def follow_links(self, now: float, used: dict[LinkId, Liveness]) -> bool:
        """Take over which links may be used; return whether routes must change before paths do."""
        lost = {link for link, before in self.links_used.items() if before.up and not used.get(link, before).up}
        self.links_used = used
        failed = (self.forwarding.failed | lost) & {link for link, one in used.items() if not one.up}
        return self.forwarding.follow(now, failed)

    def routes(self) -> Mapping[str, KernelRoute]:
        """Return what `desired` has as routes."""
        addresses, _ = site_addresses(self.config, self.network_map)
        return all_routes(self.config, self.forwarding.hops(), addresses, self.prefixes())

    def desired(self) -> Desired:
        """Return what the kernel should hold.

        Suspension is the data plane's own and takes no part in the tables, only in which service a listener uses.
        """
        return compute(
            self.config,
            self.rib,
            self.network_map,
            host_addresses=self.host_addresses,
            endpoint_ports=self.ports,
            health=self.health,
            others=self.others(),
            avoided=self.suspended,
            resolved=self.resolved,
            hops=self.forwarding.hops(),
        )

    def links_record(self, software: str, now: float) -> LinksRecord:
        """Return what this site says of itself and its links; ``now`` is monotonic seconds."""
        said = own_records.links_record(
            self.config,
            self.links_used,
            software=software,
            refused=self.prefixes().refused,
            boot=self.boot.identity,
            boot_age_ms=self.boot.age_ms(now),
        )
        return replace(said, overload=True, drain=True) if self.unusable else said

    def prefixes(self) -> Prefixes:
        """Return the LAN prefixes that count here."""
        return judge(self.config, self.network_map, self.host_addresses)

    def services_record(self) -> ServicesRecord:
        """Return what this site offers and listens to."""
        return own_records.services_record(
            self.config,
            self.health,
            self.ports,
            resolved=self.resolved,
            own_addresses=self.own_addresses(),
        )

    def own_addresses(self) -> list[str]:
        """Return this host's addresses as literals."""
        return [address.split("/")[0] for address in self.host_addresses]

    def health_known(self) -> bool:
        """Tell whether every checked workload has a verdict."""
        return all(own_records.is_healthy(c, {}) or c.name in self.health for c in self.config.connectors)

    def set_health(self, connector: str, health: HealthState) -> None:
        """Take whether a workload of this site is well, and where it was found (if anywhere)."""
        self.health[connector] = health.healthy
        self.causes.pop(connector, None)
        if not health.healthy:
            self.causes[connector] = health.cause
        for one in self.config.connectors:
            if one.name == connector and (health.at or health.address):
                self.resolved[connector] = health.at or Target(health.address, one.port)

    def line(self) -> str:
        """Return this site in one line, for `systemctl status`."""
        return f"{self.config.site}: {len(self.rib.paths)} sites reachable, {len(self.config.links)} links"

    # ---- load -----------------------------------------------------------------------------------------------------

    def listened(self) -> frozenset[ServiceKey]:
        """Return the services that clients of this site may connect to."""
        return listened(self.config)

    def reporters(self) -> tuple[Heard, ...]:
        """Return the last report of every other site that is reachable; a dead site's contribution ends with it."""
        return reporters(self.heard, self.rib)

    def others(self) -> Mapping[ServiceWorkload, int]:
        """Return the other sites' open connections to every workload of the services listened to here."""
        total: dict[WorkloadId, int] = {}
        for heard in self.reporters():
            for workload, number in heard.report.open.items():
                total[workload] = total.get(workload, 0) + number
        return {
            (key, offer.workload): total.get(offer.workload, 0)
            for key, offered in offers(self.full_map()).items()
            if key in self.listened()
            for offer in offered
        }

    def own_open(self) -> Mapping[str, Mapping[WorkloadId, int]]:
        """Return this site's own open connections, service -> workload -> number, as it reports them to others."""
        total: dict[str, dict[WorkloadId, int]] = {}
        for (key, workload), counts in self.counts.items():
            if counts.open:
                loads = total.setdefault(key.name, {})
                loads[workload] = loads.get(workload, 0) + counts.open
        return total

    def load_readers(self) -> Mapping[str, frozenset[str]]:
        """Return the other reachable sites that listen to services of this site's listeners, and to which."""
        mine = {key.name for key in self.listened()}
        return {
            site: shared
            for site, record in self.network_map.services.items()
            if site != self.config.site and site in self.rib.paths and (shared := frozenset(mine & set(record.listens)))
        }

    def full_map(self) -> NetworkMap:
        """Return the map with this site's services as they are now, said already or not."""
        own_services = self.services_record()
        return replace(self.network_map, services={**self.network_map.services, self.config.site: own_services})

    def facts(self) -> Facts:
        """Return what explanations follow from."""
        return Facts(
            config=self.config,
            network_map=self.full_map(),
            rib=self.rib,
            host_addresses=self.host_addresses,
            resolved=self.resolved,
            counts=self.counts,
            suspended=self.suspended,
            others=self.others(),
            heard=self.heard,
            causes=self.causes,
        )


def usable_targets(desired: Desired) -> frozenset[Target]:
    """Return where connections are served, drained ones included; a closed port of this site answers by itself."""
    return frozenset(
        target
        for table in desired.services.values()
        for one in table.candidates
        if one.out in (Reason.NONE, Reason.DRAINED, Reason.ENTRY_DRAINED) and not one.own_site
        for target in (one.target4, one.target6)
        if target is not None
    )


def datagram_targets(desired: Desired) -> frozenset[Target]:
    """Return where connected UDP sockets may go on sending: such a client has no end, so it does not stay at a
    drained workload; but where this site takes nothing new, it would find no other.
    """
    return frozenset(
        target
        for key, table in desired.services.items()
        if key.protocol is Protocol.UDP
        for one in table.candidates
        if one.out in (Reason.NONE, Reason.ENTRY_DRAINED)
        for target in (one.target4, one.target6)
        if target is not None
    )


def endpoints_of(desired: Desired, slots: Collection[ServiceWorkload]) -> Mapping[WorkloadId, Target]:
    """Return where the workloads of other sites among these are reached."""
    return {
        one.workload: target
        for key, table in desired.services.items()
        for one in table.candidates
        if (key, one.workload) in slots and not one.own_site and (target := one.target4 or one.target6) is not None
    }
