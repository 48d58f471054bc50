"""What this site says of itself: its endpoint ports and its two records."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from skedge.core.abilities import ABILITIES
from skedge.core.errors import ConfigError
from skedge.core.model import COST_MAX, Connector, HealthType, Link, LinkId, SiteConfig
from skedge.core.objects import Target
from skedge.core.records import LinksRecord, LinkState, ServicesRecord, WorkloadState
from skedge.core.routing.overlay_addresses import plain_address


@dataclass(frozen=True, slots=True)
class Liveness:
    """What the probes of one link say; round-trip time in microseconds, 0 while unknown.

    ``last_resort``: TCP does not pass, so the link is for where no other path is. ``cost`` is the measured one, 0 where
    it is configured.
    """

    up: bool = False
    rtt_us: int = 0
    last_resort: bool = False
    cost: int = 0


NO_RESOLVED: Mapping[str, Target] = {}


def endpoint_ports(config: SiteConfig, saved: Mapping[str, int]) -> Mapping[str, int]:
    """Return the endpoint port of every connector, so that it stays the same over restarts and new connectors.

    A remembered port is kept while it is in the range; a new connector gets the port its name hashes to, or the
    next free one. ``saved`` is what an earlier call returned (the caller keeps it on disk).

    Raises:
        ConfigError: the range has fewer ports than there are connectors.
    """
    first, last = config.endpoint_ports
    size = last - first + 1
    connectors = sorted(connector.name for connector in config.connectors)
    if len(connectors) > size:
        raise ConfigError(
            f"endpoint_ports: {first}-{last} has {size} ports for {len(connectors)} connectors; widen the range"
        )
    ports: dict[str, int] = {}
    taken: set[int] = set()
    for name in connectors:
        port = saved.get(name, 0)
        if first <= port <= last and port not in taken:
            ports[name] = port
            taken.add(port)
    for name in connectors:
        if name not in ports:
            port = first + int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % size
            while port in taken:
                port = first + (port + 1 - first) % size
            ports[name] = port
            taken.add(port)
    return ports


def workload_target(connector: Connector, resolved: Mapping[str, Target] = NO_RESOLVED) -> Target | None:
    """Return the address and port of a connector's server; None while its host name has no known address.

    ``resolved`` maps connectors to where their health checks found the server: at an address of the host name, or where
    the host's own DNAT leads.
    """
    target = resolved.get(connector.name, Target(connector.host, connector.port))
    address = plain_address(target.address)
    return None if address is None else Target(str(address), target.port)


def led_on_to(connector: Connector, resolved: Mapping[str, Target]) -> Target | None:
    """Return where the host's own DNAT leads what goes to a connector's server; None where it does not."""
    target, asked = workload_target(connector, resolved), plain_address(connector.host)
    led_on = target is not None and asked is not None and target != Target(str(asked), connector.port)
    return target if led_on else None


def is_ipv4(target: Target) -> bool:
    """Return whether the target is reached over IPv4."""
    return isinstance(plain_address(target.address), IPv4Address)


def links_record(
    config: SiteConfig,
    link_states: Mapping[LinkId, Liveness],
    *,
    software: str = "",
    refused: Iterable[str] = (),
    boot: str = "",
    boot_age_ms: int = 0,
) -> LinksRecord:
    """Return what this site says of itself and its links; a link without a state is down.

    ``refused`` are prefixes of other sites, see `prefixes.Prefixes`; ``boot`` and its age, see `boots.Boot`.
    """
    return LinksRecord(
        site=config.site,
        overlay4=config.overlay4,
        overlay6=config.overlay6,
        links=tuple(
            _link_state(link, link_states.get(LinkId.between(config.site, link.to, link.name), Liveness()))
            for link in sorted(config.links, key=lambda link: (link.to, link.name))
        ),
        overload=config.overload,
        drain=config.drain,
        prefixes=config.prefixes,
        software=software,
        refused=tuple(sorted(refused)),
        nat4=config.nat4,
        nat6=config.nat6,
        boot=boot,
        boot_age_ms=boot_age_ms,
    )


def _link_state(link: Link, liveness: Liveness) -> LinkState:
    """Return what is said of one link.

    A last resort is said to have the largest cost, also for each service: the larger one holds, so the far end
    need not know the word, nor any site of another version, and all agree on the paths.
    """
    cost, service_costs = liveness.cost or link.configured_cost, link.service_costs
    if liveness.last_resort:
        cost, service_costs = COST_MAX, dict.fromkeys(link.service_costs, COST_MAX)
    return LinkState(link.to, link.name, cost, liveness.up, liveness.rtt_us, service_costs)


def is_healthy(connector: Connector, health: Mapping[str, bool]) -> bool:
    """Return whether a connector's server may be chosen: unchecked ones always, others after a good probe."""
    return connector.health.type is HealthType.NONE or health.get(connector.name, False)


def services_record(
    config: SiteConfig,
    health: Mapping[str, bool],
    ports: Mapping[str, int],
    *,
    resolved: Mapping[str, Target] = NO_RESOLVED,
    own_addresses: Collection[str] | None = None,
) -> ServicesRecord:
    """Return what this site offers and listens to.

    Args:
        config: this site's configuration.
        health: connector name -> last verdict; one not named has not been probed and is unhealthy.
        ports: as returned by `endpoint_ports`.
        resolved: connector name -> where its server was found.
        own_addresses: this host's addresses, loopback included; a server elsewhere is then offered to other sites
            only where the site has LAN devices and its engine delivers off the host. None: every address counts
            as this host's.
    """
    can = ABILITIES[config.engine]
    reachable = None if config.lan.devices and can.off_host else own_addresses
    return ServicesRecord(
        site=config.site,
        workloads=tuple(
            _workload_state(
                connector,
                is_healthy(connector, health),
                ports,
                resolved,
                reachable,
                loopback6=can.loopback6_endpoints,
            )
            for connector in sorted(config.connectors, key=lambda connector: connector.name)
            if connector.name in ports
        ),
        listens=tuple(sorted({share.service for listener in config.listeners for share in listener.shares})),
    )


def _workload_state(
    connector: Connector,
    healthy: bool,
    ports: Mapping[str, int],
    resolved: Mapping[str, Target],
    own_addresses: Collection[str] | None,
    *,
    loopback6: bool,
) -> WorkloadState:
    target = workload_target(connector, resolved)
    deliverable = target is not None and (own_addresses is None or is_own(target, own_addresses))
    if target is not None and not loopback6 and is_loopback(target) and not is_ipv4(target):
        deliverable = False
    return WorkloadState(
        connector=connector.name,
        service=connector.service,
        port=ports[connector.name],
        protocol=connector.protocol,
        **connector.terms(),
        healthy=healthy,
        drain=connector.drain,
        ipv4=deliverable and target is not None and is_ipv4(target),
        ipv6=deliverable and target is not None and not is_ipv4(target),
    )


def is_loopback(target: Target) -> bool:
    """Return whether a target is at an address that never leaves the host."""
    address = plain_address(target.address)
    return address is not None and address.is_loopback


def is_own(target: Target, own_addresses: Collection[str]) -> bool:
    """Return whether a target is on this host, by the host's addresses; loopback always is."""
    address = plain_address(target.address)
    return address is not None and (address.is_loopback or address in {plain_address(own) for own in own_addresses})
