"""Small networks as configurations and as the map that all their sites hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Network

from skedge.core.desired import compute
from skedge.core.linkstate import own_records
from skedge.core.model import Connector, Link, LinkId, Listener, SiteConfig
from skedge.core.names import overlay_address, overlay_address6
from skedge.core.objects import Candidate, ServiceKey
from skedge.core.placement import rule
from skedge.core.records import NetworkMap
from skedge.core.routing import rib

NETWORK = "lab"
CIDR = "100.64.0.0/10"
SERVICE = ServiceKey("web")


def site_config(site: str, **changes: object) -> SiteConfig:
    plain = SiteConfig(
        network=NETWORK,
        site=site,
        overlay_cidr=CIDR,
        overlay4=str(overlay_address(IPv4Network(CIDR), NETWORK, site)),
        overlay6=str(overlay_address6(NETWORK, site)),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def connector(name: str = "web", **changes: object) -> Connector:
    return replace(Connector("web", name, "127.0.0.1", 9090), **changes)  # type: ignore[arg-type]


def configs(
    links: Iterable[tuple[str, str, int] | tuple[str, str, int, str]],
    servers: Mapping[str, int] | Iterable[str] = (),
    *,
    sites: Iterable[str] = (),
    overload: Iterable[str] = (),
    drain: Iterable[str] = (),
    service_costs: Mapping[tuple[str, str], Mapping[str, int]] | None = None,
) -> dict[str, SiteConfig]:
    """Links are (site, site, cost[, name]); servers are sites, or site -> capacity. Every site listens on *:8080."""
    per_site: defaultdict[str, list[Link]] = defaultdict(list)
    for a, b, cost, *name in links:
        for here, there in ((a, b), (b, a)):
            costs = (service_costs or {}).get((here, there), {})
            per_site[here].append(Link(there, *name, cost=cost, service_costs=costs))
    capacities = dict(servers) if isinstance(servers, Mapping) else dict.fromkeys(servers, 1)
    return {
        site: site_config(
            site,
            links=tuple(per_site[site]),
            listeners=(Listener("web", 8080),),
            connectors=(connector(capacity=capacities[site]),) if site in capacities else (),
            overload=site in overload,
            drain=site in drain,
        )
        for site in sorted({*per_site, *capacities, *sites})
    }


def map_of(all_configs: Mapping[str, SiteConfig], *, down: Iterable[LinkId] = ()) -> NetworkMap:
    """The map when every probe succeeds (except over the links that are down) and every workload is healthy."""
    dead = set(down)
    links, services = {}, {}
    for site, config in all_configs.items():
        states = {
            (link := LinkId.between(site, one.to, one.name)): own_records.Liveness(link not in dead, 100)
            for one in config.links
        }
        links[site] = own_records.links_record(config, states)
        services[site] = own_records.services_record(config, healthy(config), own_records.endpoint_ports(config, {}))
    return NetworkMap(links, services)


def healthy(config: SiteConfig) -> dict[str, bool]:
    return {one.name: True for one in config.connectors}


def desired_at(
    config: SiteConfig, network_map: NetworkMap, host_addresses: Iterable[str] = (), **changes: object
) -> compute.Desired:
    arguments: dict[str, object] = {
        "host_addresses": host_addresses,
        "endpoint_ports": own_records.endpoint_ports(config, {}),
        "health": healthy(config),
        "others": {},
    }
    return compute.compute(config, rib.compute(network_map, config.site), network_map, **(arguments | changes))  # type: ignore[arg-type]


def candidates_at(all_configs: Mapping[str, SiteConfig], site: str) -> tuple[Candidate, ...]:
    return desired_at(all_configs[site], map_of(all_configs)).services[SERVICE].candidates


def split_at(all_configs: Mapping[str, SiteConfig], site: str, n: int) -> dict[str, int]:
    """How many of n held connections from a site go to each serving site."""
    candidates = candidates_at(all_configs, site)
    return {one.workload.site: count for one, count in zip(candidates, rule.fill(candidates, n), strict=True)}
