# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Completes links: addresses and ports, and what is written at one end also at the other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from ansible_collections.skedge.edge.plugins.plugin_utils.host import Host

from skedge.core.model import AUTO, LinkId
from skedge.core.transports import Transport, TransportFacts

# What both ends of a link must agree on, and so needs to be written at one of them only.
COMMON = ("transport", "port", "mtu", "probe")
DEFAULT_TRANSPORT = "wireguard"
# A wireguard link has a UDP port of its own at each end, by a hash, so that another link does not change it.
PORT_FIRST, PORTS = 4791, 1000
KEEPALIVE_S = 25  # of a host that its neighbours cannot call: below the time for which address translation remembers


def own_links(host: Host, links: list[Any], sites: Mapping[str, Host]) -> list[Any]:
    """Return the links written at a host, ``local`` and ``remote`` filled in where the transport needs them.

    Anything malformed is left as it is: the parser names it.
    """
    result = []
    for link in links:
        far = sites.get(link["to"]) if isinstance(link, dict) and isinstance(link.get("to"), str) else None
        if isinstance(link, dict) and far is not host:
            link = dict(link)
            _fill_addresses(link, host, far, _written_for(far, host, link.get("name", "main")) if far else {})
        result.append(link)
    return result


def _facts(transport: Any) -> TransportFacts:
    """Return what is so about a transport; of a word that is none, which the parser names, what is so of vxlan."""
    try:
        return Transport(transport).facts
    except ValueError:
        return Transport.VXLAN.facts


def _fill_addresses(link: dict[str, Any], host: Host, far: Host | None, mirror: Mapping[str, Any]) -> None:
    """Give a tunnel its addresses: as written, else as the far end wrote them, else the inventory's.

    A wireguard link takes packets at every address of its host, and needs no ``remote`` where the far end calls.
    """
    facts = _facts(link.get("transport") or mirror.get("transport") or DEFAULT_TRANSPORT)
    if facts.roaming:
        _fill(link, "remote", mirror.get("local") or (far.endpoint if far and far.reachable else ""))
        return
    if facts.device:
        return
    _fill(link, "local", host.local or mirror.get("remote") or host.address)
    _fill(link, "remote", mirror.get("local") or (far.address if far else ""))


def _fill(link: dict[str, Any], key: str, value: Any) -> None:
    if not link.get(key) and value:
        link[key] = value


def _written_for(far: Host, near: Host, name: Any) -> Mapping[str, Any]:
    """Return the link as the far end wrote it, or nothing."""
    links = far.values.get("skedge_links")
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict) and link.get("to") == near.site and link.get("name", "main") == name:
            return link
    return {}


def complete(
    by_site: Mapping[str, Host], drafts: Mapping[str, dict[str, Any]]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return every host's configuration with each link at both its ends, and the ends that contradict each other."""
    written: dict[LinkId, dict[str, dict[str, Any]]] = {}
    for site, host in by_site.items():
        for link in drafts[host.name].get("links", []):
            link_id = LinkId.between(site, link["to"], link.get("name", "main"))
            written.setdefault(link_id, {})[site] = link
    errors: list[str] = []
    sites = {name: {"version": 1, **draft, "links": []} for name, draft in drafts.items()}
    for link_id, ends in written.items():
        errors += _contradictions(link_id, ends, by_site)
        for site in (link_id.a, link_id.b):
            sites[by_site[site].name]["links"].append(
                _end(link_id, by_site[site], by_site[link_id.far_end(site)], ends)
            )
    _give_ports({host.site: sites[host.name] for host in by_site.values()})
    for config in sites.values():
        config["links"].sort(key=lambda link: (link["to"], link["name"]))
    return sites, errors


def _contradictions(link_id: LinkId, ends: Mapping[str, dict[str, Any]], by_site: Mapping[str, Host]) -> list[str]:
    first = next(iter(ends))
    far = link_id.far_end(first)
    where = f"{by_site[first].where('skedge_links')}: skedge_links: the link to {far} named {link_id.name}"
    transport = min((end["transport"] for end in ends.values() if "transport" in end), default=DEFAULT_TRANSPORT)
    facts = _facts(transport)
    errors = []
    if len(ends) == 2:
        one, two = ends.values()
        for key in ("transport", "mtu") if facts.own_port else ("transport", "port", "mtu"):
            if key in one and key in two and one[key] != two[key]:
                errors.append(f"{where} has {key} {one[key]} here and {two[key]} at {far}; write the same at both ends")
    elif facts.device:
        way_out = "write the link there too, with device"
        errors.append(f"{where} is {transport} and its device at {far} is not known; {way_out}")
    elif facts.local and not _address(ends[first].get("local")):
        host = by_site[first]
        errors.append(
            f"{host.where('ansible_host')}: {host.name} has no address for the link to {far}; "
            f"set skedge_underlay_address to the address that the neighbours see"
        )
    if not facts.device and not errors:
        errors += [f"{where} {sentence}" for sentence in _unreachable(link_id, ends, by_site, transport)]
    return errors


def _unreachable(
    link_id: LinkId, ends: Mapping[str, dict[str, Any]], by_site: Mapping[str, Host], transport: str
) -> list[str]:
    """Return what is wrong with a link to a host that its neighbours cannot call."""
    hosts = [by_site[link_id.a], by_site[link_id.b]]
    behind = [host.name for host in hosts if not host.reachable]
    if behind and not _facts(transport).roaming:
        return [f"is {transport}, but {behind[0]} has skedge_reachable false; give transport: wireguard"]
    given = any(end.get("remote") for end in ends.values())
    if len(behind) == 2 and not given:
        return ["joins two hosts with skedge_reachable false; neither could call the other, link them by a third"]
    return []


def _give_ports(sites: Mapping[str, dict[str, Any]]) -> None:
    """Give each wireguard link its UDP port at both ends."""
    ports: dict[tuple[str, str, str], int] = {}
    for site, config in sites.items():
        facts = [(link, _facts(link["transport"])) for link in config["links"]]
        links = [link for link, one in facts if one.own_port]
        for link in links:
            mirror = _end_at(sites, link["to"], site, link["name"])
            if port := link.get("port") or mirror.get("remote_port"):
                ports[site, link["to"], link["name"]] = port
        taken = {ports[key] for key in ports if key[0] == site}
        taken |= {link.get("port", one.port) for link, one in facts if one.port and not one.own_port}
        for link in sorted(links, key=lambda link: (link["to"], link["name"])):
            key = (site, link["to"], link["name"])
            if key not in ports:
                ports[key] = _free_port(site, link, taken)
                taken.add(ports[key])
    for site, config in sites.items():
        for link in config["links"]:
            if _facts(link["transport"]).own_port:
                link["port"] = ports[site, link["to"], link["name"]]
                link["remote_port"] = ports[link["to"], site, link["name"]]


def _end_at(sites: Mapping[str, dict[str, Any]], site: str, to: str, name: str) -> dict[str, Any]:
    return next(link for link in sites[site]["links"] if (link["to"], link["name"]) == (to, name))


def _free_port(site: str, link: Mapping[str, Any], taken: set[int]) -> int:
    first = int.from_bytes(hashlib.sha256("\0".join((site, link["to"], link["name"])).encode()).digest()[:4])
    every = (PORT_FIRST + (first + step) % PORTS for step in range(PORTS))
    return next(port for port in every if port not in taken)


def _address(text: Any) -> bool:
    try:
        return bool(ip_address(str(text or "")))
    except ValueError:
        return False


def _end(link_id: LinkId, host: Host, far_host: Host, ends: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the link as it stands at one end: the larger cost holds; what is written at one end only holds at both.

    Where one end measures its cost and the other has a number, each keeps its own: the larger holds at any moment.
    """
    own, far = ends.get(host.site, {}), ends.get(far_host.site, {})
    numbers = [cost for end in ends.values() if (cost := end.get("cost", 1)) != AUTO]
    cost = AUTO if (own or far).get("cost") == AUTO else max(numbers)
    costs: dict[str, int] = {}
    for end in ends.values():
        for service, service_cost in (end.get("service_costs") or {}).items():
            costs[service] = max(service_cost, costs.get(service, 0))
    link: dict[str, Any] = {"to": far_host.site, "name": link_id.name, "cost": cost, "transport": DEFAULT_TRANSPORT}
    if cost == AUTO:
        link["base_cost"] = max(end.get("base_cost", 1) for end in ends.values())
    for key in COMMON:
        if key in own or key in far:
            link[key] = own.get(key, far.get(key))
    if costs:
        link["service_costs"] = dict(sorted(costs.items()))
    if _facts(link["transport"]).own_port:
        return _wireguard_end(link, host, far_host, own, far)
    link.update({key: own[key] for key in ("device", "local", "remote") if own.get(key)})
    _fill_addresses(link, host, far_host, far)
    return link


def _wireguard_end(
    link: dict[str, Any], host: Host, far_host: Host, own: Mapping[str, Any], far: Mapping[str, Any]
) -> dict[str, Any]:
    """Return one end of a wireguard link. Ports are each end's own; the keys come from the hosts, later."""
    link.pop("port", None)
    link.update({key: own[key] for key in ("port", "remote", "remote_port", "keys") if own.get(key)})
    _fill_addresses(link, host, far_host, far)
    keepalive = own.get("keepalive_s", 0 if host.reachable else KEEPALIVE_S)
    if keepalive:
        link["keepalive_s"] = keepalive
    return link
