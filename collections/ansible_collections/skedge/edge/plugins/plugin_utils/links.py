# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Completes links: addresses from the inventory, and what is written at one end also at the other."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from skedge.core.model import LinkId

if TYPE_CHECKING:
    from ansible_collections.skedge.edge.plugins.plugin_utils.topology import Host

# What both ends of a link must agree on, and so needs to be written at one of them only.
COMMON = ("transport", "port", "mtu", "probe")
DEFAULT_TRANSPORT = "vxlan"


def own_links(host: Host, links: list[Any], sites: Mapping[str, Host]) -> list[Any]:
    """Return the links written at a host, ``local`` and ``remote`` filled in where a tunnel needs them.

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


def _fill_addresses(link: dict[str, Any], host: Host, far: Host | None, mirror: Mapping[str, Any]) -> None:
    """Give a tunnel its two addresses: as written, else as the far end wrote them, else the inventory's."""
    if link.get("transport", DEFAULT_TRANSPORT) == "direct":
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
    for config in sites.values():
        config["links"].sort(key=lambda link: (link["to"], link["name"]))
    return sites, errors


def _contradictions(link_id: LinkId, ends: Mapping[str, dict[str, Any]], by_site: Mapping[str, Host]) -> list[str]:
    errors = []
    first = next(iter(ends))
    file = by_site[first].where("skedge_links")
    where = f"{file}: skedge_links: the link to {link_id.far_end(first)} named {link_id.name}"
    if len(ends) == 2:
        one, two = ends.values()
        for key in ("transport", "port", "mtu"):
            if key in one and key in two and one[key] != two[key]:
                far = link_id.far_end(first)
                errors.append(f"{where} has {key} {one[key]} here and {two[key]} at {far}; write the same at both ends")
    elif ends[first].get("transport") == "direct":
        errors.append(
            f"{where} is direct and its device at {link_id.far_end(first)} is not known; write the link there too, "
            "with device"
        )
    elif not _address(ends[first].get("local")):
        host = by_site[first]
        errors.append(
            f"{host.where('ansible_host')}: {host.name} has no address for the link to {link_id.far_end(first)}; "
            f"set skedge_underlay_address to the address that the neighbours see"
        )
    return errors


def _address(text: Any) -> bool:
    try:
        return bool(ip_address(str(text or "")))
    except ValueError:
        return False


def _end(link_id: LinkId, host: Host, far_host: Host, ends: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the link as it stands at one end: the larger cost holds; what is written at one end only holds at both."""
    own, far = ends.get(host.site, {}), ends.get(far_host.site, {})
    cost = max(end.get("cost", 1) for end in ends.values())
    link: dict[str, Any] = {"to": far_host.site, "name": link_id.name, "cost": cost}
    for key in COMMON:
        if key in own or key in far:
            link[key] = own.get(key, far.get(key))
    costs: dict[str, int] = {}
    for end in ends.values():
        for service, cost in (end.get("service_costs") or {}).items():
            costs[service] = max(cost, costs.get(service, 0))
    if costs:
        link["service_costs"] = dict(sorted(costs.items()))
    link.update({key: own[key] for key in ("device", "local", "remote") if own.get(key)})
    _fill_addresses(link, host, far_host, far)
    return link
