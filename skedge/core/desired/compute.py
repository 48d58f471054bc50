"""The desired state of this site's kernel: a pure function of configuration, network map and what was measured."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from skedge.core import names
from skedge.core.abilities import ABILITIES, Abilities
from skedge.core.desired.listener_addresses import LOOPBACK, listeners, shared
from skedge.core.desired.site_routes import all_routes, first_links
from skedge.core.linkstate.own_records import NO_RESOLVED, services_record, workload_target
from skedge.core.model import Link, LinkId, Listener, Protocol, SiteConfig, WorkloadId
from skedge.core.objects import (
    Endpoint,
    EndpointKey,
    KernelRoute,
    LinkDevice,
    ListenerKey,
    ListenerTarget,
    ServiceKey,
    ServiceTable,
    Target,
)
from skedge.core.placement.candidates import offers, service_table
from skedge.core.placement.policies import Suspended, Tables, listened, listener_target
from skedge.core.placement.view import View, view
from skedge.core.reasons import Reason
from skedge.core.records import NetworkMap
from skedge.core.routing import lan_prefixes as prefixes
from skedge.core.routing.feasible import devices_by_site
from skedge.core.routing.forwarding import Hops
from skedge.core.routing.overlay_addresses import SiteAddresses, Skipped, nat_sources, plain_address, site_addresses
from skedge.core.routing.rib import Rib

LOOPBACK_DEVICE = "lo"


@dataclass(frozen=True, slots=True)
class Desired:
    """Everything that the kernel should hold, one mapping a driver; ``skipped`` is what takes no part, and why.

    ``off_host`` are the addresses of own workloads that are not on this host, ``prefixes`` this site's own LANs.
    ``announced``: any site has some; ``answering`` are the UDP ports of own workloads on this host, whose answers to
    clients of other sites' LANs must find the way by themselves.

    ``nat_local`` are the IPv4 and IPv6 addresses that LAN clients come from at sockets of this host, ``nat_remote``
    those at other sites; "" for this site's overlay address.

    ``sites`` are the overlay addresses of all other sites, reachable or not, and ``sources`` their LANs; both with the
    link devices that packets from there may come by.

    ``uplinks``: device of each link that is bound to an uplink -> its address there.

    ``shared`` are addresses of the host, as prefixes, that share one entry of each listener on every address.

    ``choosers`` are the listeners with several services, and ``avoided`` the suspended workloads: which of the
    services they use follows from tables, so it is decided again for tables that were merged.
    """

    links: Mapping[str, LinkDevice] = field(default_factory=dict)
    uplinks: Mapping[str, str] = field(default_factory=dict)
    nat_local: tuple[str, str] = ("", "")
    nat_remote: tuple[str, str] = ("", "")
    addresses: Mapping[str, str] = field(default_factory=dict)
    routes: Mapping[str, KernelRoute] = field(default_factory=dict)
    endpoints: Mapping[EndpointKey, Endpoint] = field(default_factory=dict)
    services: Mapping[ServiceKey, ServiceTable] = field(default_factory=dict)
    listeners: Mapping[ListenerKey, ListenerTarget] = field(default_factory=dict)
    choosers: Mapping[ListenerKey, Listener] = field(default_factory=dict)
    avoided: Suspended = frozenset()
    shared: frozenset[str] = frozenset()
    off_host: frozenset[str] = frozenset()
    prefixes: frozenset[str] = frozenset()
    announced: bool = False
    answering: frozenset[int] = frozenset()
    sites: Mapping[str, frozenset[str]] = field(default_factory=dict)
    sources: Mapping[str, frozenset[str]] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()


def compute(
    config: SiteConfig,
    rib: Rib,
    network_map: NetworkMap,
    *,
    host_addresses: Iterable[str],
    endpoint_ports: Mapping[str, int],
    health: Mapping[str, bool],
    others: Mapping[tuple[ServiceKey, WorkloadId], int],
    suspended: frozenset[tuple[ServiceKey, WorkloadId]] = frozenset(),
    avoided: frozenset[tuple[ServiceKey, WorkloadId]] = frozenset(),
    resolved: Mapping[str, Target] = NO_RESOLVED,
    hops: Mapping[str, Hops] | None = None,
) -> Desired:
    """Return the desired state of this site.

    Args:
        config: this site's configuration.
        rib: this site's paths, computed from ``network_map``.
        network_map: all records held; this site's own services are taken from the configuration instead.
        host_addresses: the host's current addresses (``/len`` and ``%zone`` are ignored).
        endpoint_ports: connector name -> endpoint port, from `own.endpoint_ports`.
        health: connector name -> last verdict of this site's health checks.
        others: open connections of the other sites, as they last reported, summed.
        suspended: what the data plane suspended at this site, as the tables shall say it.
        avoided: the same, where only listeners with several services shall take notice.
        resolved: connector name -> where its server was found.
        hops: first links of the packets for each other site, from `Forwarding.hops`; None: those of ``rib`` alone.
    """
    addresses, refused = site_addresses(config, network_map)
    nat = (addresses[config.site].nat4, addresses[config.site].nat6)
    hosts = tuple(one for one in host_addresses if str(plain_address(one)) not in nat)
    lans = prefixes.judge(config, network_map, hosts)
    here = view(
        config, rib, network_map, addresses, others=others, suspended=suspended, resolved=resolved, host_addresses=hosts
    )
    own = services_record(config, health, endpoint_ports, resolved=resolved)
    by_service = offers(NetworkMap(network_map.links, {**network_map.services, config.site: own}))
    services: dict[ServiceKey, ServiceTable] = {}
    skipped = [*refused, *lans.skipped]
    for key in sorted(listened(config)):
        services[key], beyond = service_table(key, by_service.get(key, ()), here)
        skipped.extend(beyond)
    catches = listeners(config, hosts)
    behind = devices_by_site(config, network_map)
    skipped.extend(_beyond_engine(config, here, endpoint_ports))
    return Desired(
        links=link_devices(config),
        uplinks=uplinks(config),
        nat_local=nat,
        nat_remote=nat_sources(config, network_map, addresses[config.site]),
        addresses=own_addresses(config, addresses[config.site]),
        routes=all_routes(config, first_links(rib) if hops is None else hops, addresses, lans),
        endpoints=served_endpoints(config, endpoints(config, endpoint_ports, resolved, here.off_host)),
        services=services,
        listeners={key: listener_target(listener, services, avoided) for key, listener in catches.items()},
        choosers={key: listener for key, listener in catches.items() if len(listener.shares) > 1},
        avoided=avoided,
        shared=shared(config, hosts),
        off_host=frozenset(here.own_site[one].address for one in here.off_host) if here.own_site else frozenset(),
        prefixes=frozenset(lans.own),
        announced=bool(lans.own or lans.others),
        answering=frozenset(
            one.port
            for one in config.connectors
            if one.protocol is Protocol.UDP and WorkloadId(config.site, one.name) not in here.off_host
        ),
        sites={
            address: behind.get(site, frozenset())
            for site, its in addresses.items()
            for address in (its.v4, its.v6, its.nat4, its.nat6)
            if address and site != config.site
        },
        sources={prefix: behind.get(site, frozenset()) for prefix, site in lans.others.items()},
        skipped=tuple(skipped),
    )


def link_devices(config: SiteConfig) -> Mapping[str, LinkDevice]:
    """Return the device of every configured link, by its name; what a transport does not use is left empty."""
    return {
        names.device_name(config.network, link_id(config, link), config.site): _device(config, link)
        for link in config.links
    }


def uplinks(config: SiteConfig) -> Mapping[str, str]:
    """Return the address on its uplink of every link device whose packets carry a mark."""
    return {
        names.device_name(config.network, link_id(config, link), config.site): link.local
        for link in config.links
        if link.transport.facts.marked and link.local
    }


def link_id(config: SiteConfig, link: Link) -> LinkId:
    """Return the identity of one of this site's configured links."""
    return LinkId.between(config.site, link.to, link.name)


def _device(config: SiteConfig, link: Link) -> LinkDevice:
    facts = link.transport.facts
    return LinkDevice(
        link=link_id(config, link),
        transport=link.transport,
        link_local=str(names.link_local(config.network, config.site)),
        peer_link_local=str(names.link_local(config.network, link.to)),
        mtu=link.mtu,
        vni=names.vni(config.network, link_id(config, link)) if facts.vni else 0,
        local=link.local if facts.local else "",
        remote=link.remote if facts.tunnel else "",
        port=link.port if facts.port else 0,
        underlay=link.device,
        remote_port=link.remote_port if facts.roaming and link.remote else 0,
        keepalive_s=link.keepalive_s if facts.roaming else 0,
        keys=link.keys if facts.encrypted else (),
        mark=names.uplink_mark(link.port) if facts.marked and link.local else 0,
    )


def own_addresses(config: SiteConfig, own: SiteAddresses) -> Mapping[str, str]:
    """Return the addresses of this site with their device; those of NAT where LAN clients are served by flows."""
    nat = (own.nat4, own.nat6) if config.lan.devices and ABILITIES[config.engine].off_host else ()
    found = [address for address in (config.overlay4, config.overlay6, *nat) if address]
    return {f"{address}/{128 if ':' in address else 32}": LOOPBACK_DEVICE for address in found}


def endpoints(
    config: SiteConfig,
    ports: Mapping[str, int],
    resolved: Mapping[str, Target] = NO_RESOLVED,
    off_host: Collection[WorkloadId] = (),
) -> Mapping[EndpointKey, Endpoint]:
    """Return the published endpoint of every connector with a port and an address.

    Unhealthy and drained ones stay: what may be chosen is decided where a connection enters, and open connections
    go on.
    """
    return {
        EndpointKey(ports[connector.name], connector.protocol): Endpoint(
            workload := WorkloadId(config.site, connector.name), target.address, target.port, workload in off_host
        )
        for connector in config.connectors
        if connector.name in ports and (target := workload_target(connector, resolved)) is not None
    }


def served_endpoints(config: SiteConfig, every: Mapping[EndpointKey, Endpoint]) -> Mapping[EndpointKey, Endpoint]:
    """Return the endpoints that the site's engine can deliver to."""
    can = ABILITIES[config.engine]
    return {key: one for key, one in every.items() if _delivers(can, one.host, off_host=one.off_host)}


def _delivers(can: Abilities, host: str, *, off_host: bool) -> bool:
    """Return whether connections of other sites reach a workload at this address; ``off_host``: not on this host."""
    return (can.off_host or not off_host) and (can.loopback6_endpoints or host != LOOPBACK[1])


def _beyond_engine(config: SiteConfig, here: View, ports: Mapping[str, int]) -> Iterable[Skipped]:
    """Yield what is configured and the site's engine cannot serve."""
    can = ABILITIES[config.engine]
    for listener in () if can.loopback_listeners else config.listeners:
        address = plain_address(listener.address)
        if address is not None and address.is_loopback:
            yield Skipped("listener", f"{listener.address}:{listener.port}", Reason.ENGINE)
    offered = {key.name for key in listened(config)}
    for connector in config.connectors:
        workload = WorkloadId(config.site, connector.name)
        target = (here.own_site or {}).get(workload)
        nowhere = target is not None and not _delivers(can, target.address, off_host=workload in here.off_host)
        if workload in here.led_on and (nowhere or (workload in here.off_host and not config.lan.devices)):
            yield Skipped("workload", str(workload), Reason.PUBLISHED_BY_DNAT)
        elif nowhere and connector.name in ports:
            yield Skipped("workload", str(workload), Reason.ENGINE)
        elif connector.service in offered and workload in here.unserved:
            yield Skipped("workload", f"{workload} for clients of this site", Reason.ENGINE)


def listeners_again(desired: Desired, tables: Tables) -> Mapping[ListenerKey, ListenerTarget]:
    """Return where the listeners lead where the kernel's tables are these instead of the desired ones."""
    return {
        key: listener_target(desired.choosers[key], tables, desired.avoided)
        if key in desired.choosers
        else desired_listener
        for key, desired_listener in desired.listeners.items()
    }
