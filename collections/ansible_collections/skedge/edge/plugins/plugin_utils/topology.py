# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""From the inventory's variables to every site's configuration, and every problem of the whole network.

Pure: takes plain values, returns plain values. Single values and single sites are judged by ``skedge.config``, the
parser that the daemon uses; what only the whole network shows is judged here.
"""

from __future__ import annotations

import copy
import difflib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from typing import Any

from ansible_collections.skedge.edge.plugins.plugin_utils.host import Host
from ansible_collections.skedge.edge.plugins.plugin_utils.links import complete, own_links

from skedge.config import from_dict, problems
from skedge.config.checks.links import is_host_name
from skedge.core.errors import ConfigError
from skedge.core.model import LinkId, SiteConfig
from skedge.core.names import device_name, vni
from skedge.core.routing.lan_prefixes import parse_prefix

PREFIX = "skedge_"
DEFAULT_NETWORK = "skedge"

# Variables that become keys of skedge.yaml, in the order in which they are written there.
SITE_KEYS = (
    "network", "site", "engine", "engine_drain_s", "overlay_cidr", "overlay_address", "overlay_address6",
    "nat_address", "endpoint_ports", "lan_devices", "lan_firewall", "nat_ports", "prefixes", "flow_times", "links",
    "listeners", "connectors", "drain", "overload", "hold_time_s", "control_port", "load_port", "metrics",
    "log_placements",
)  # fmt: skip
# Variables of the deployment itself.
DEPLOY_KEYS = (
    "underlay_address", "local_address", "reachable", "ca_dir", "bundle_dir", "source_dir", "certificate_days",
    "new_authority", "lease_s", "seize_lease",
    "flow_limit", "gate_timeout_s", "network_revert_s", "preflight_skip", "reserved_ports",
    "manage_packages", "serial", "drain_wait_s", "takeover_wait_s", "start_timeout_s",
)  # fmt: skip
# Values that must be the same at every site of a network.
SHARED_KEYS = ("network", "overlay_cidr", "control_port", "load_port")


@dataclass(frozen=True)
class Topology:
    """Every site's configuration by inventory host (complete only when there are no errors), and all errors."""

    sites: dict[str, dict[str, Any]]
    errors: list[str]


def build(hosts: list[Host]) -> Topology:
    """Return the configuration of every host and every problem of the whole, each one sentence."""
    errors = [error for host in hosts for error in (*host.unread, *_unknown_variables(host))]
    if any(host.unread for host in hosts):
        return Topology({}, _once(errors))  # what else seems wrong may follow from the values that are missing
    drafts = {host.name: _draft(host, hosts) for host in hosts}
    for host in hosts:
        errors += _site_problems(host, drafts[host.name], {other.site: other for other in hosts})
    errors += _same_site(hosts)
    errors += _shared_values(hosts, drafts)
    errors += _overlay_addresses(hosts, drafts)
    errors += _overlapping_prefixes(hosts, drafts)
    if errors:
        return Topology({}, _once(errors))
    sites, errors = complete({host.site: host for host in hosts}, drafts)
    if not errors:
        errors = list(_whole(hosts, sites))
    return Topology(sites if not errors else {}, _once(errors))


def _once(errors: list[str]) -> list[str]:
    """Return the errors, one that all hosts of a group have from one file once."""
    return list(dict.fromkeys(errors))


def _draft(host: Host, hosts: list[Host]) -> dict[str, Any]:
    """Return the host's own keys of skedge.yaml, the addresses of its links filled in from the inventory."""
    draft: dict[str, Any] = {"network": DEFAULT_NETWORK, "site": host.site}
    for key in SITE_KEYS:
        if PREFIX + key in host.values:
            draft[key] = copy.deepcopy(host.values[PREFIX + key])
    if isinstance(draft.get("links"), list):
        draft["links"] = own_links(host, draft["links"], {other.site: other for other in hosts})
    return draft


# ---- what one host's variables show ----------------------------------------------------------------------------


def _unknown_variables(host: Host) -> Iterator[str]:
    known = [PREFIX + key for key in (*SITE_KEYS, *DEPLOY_KEYS)]
    for variable in sorted(host.values):
        if variable not in known:
            near = difflib.get_close_matches(variable, known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else "docs/inventory.md lists all; remove it"
            yield f"{host.where(variable)}: {variable}: unknown variable; {hint}"


def _site_problems(host: Host, draft: dict[str, Any], sites: Mapping[str, Host]) -> Iterator[str]:
    mark = "\0"
    for problem in problems(draft, mark, prefix=PREFIX):
        sentence = problem.removeprefix(f"{mark}: ")
        path = sentence.split(": ")[0]
        variable = path.split("[")[0].split(".")[0]
        if path.endswith("].remote") and _to(draft, path) not in sites.keys() - {host.site}:
            continue  # the neighbour itself is wrong, which is said below
        if variable == "skedge_site" and variable not in host.values:
            sentence = f"{sentence}, or name the site with skedge_site"
        yield f"{host.where(variable)}: {sentence}{_address_hint(host, draft, path, sites)}"
    links = draft.get("links")
    for index, link in enumerate(links if isinstance(links, list) else []):
        to = link.get("to") if isinstance(link, Mapping) else None
        if isinstance(to, str) and to not in sites:
            path = f"{host.where('skedge_links')}: skedge_links[{index}].to"
            yield f"{path}: {to!r} is not a site of this inventory; {_nearest_site(to, sites)}"


def _address_hint(host: Host, draft: dict[str, Any], path: str, sites: Mapping[str, Host]) -> str:
    """Return where an address that is missing in a link is normally written."""
    if not (path.startswith("skedge_links[") and path.endswith("].remote")):
        return ""
    far = sites.get(_to(draft, path))
    return f"; set skedge_underlay_address of {far.name}" if far and far is not host and not far.address else ""


def _to(draft: dict[str, Any], path: str) -> str:
    """Return the neighbour of the link that a path such as ``skedge_links[2].remote`` is in."""
    to = draft["links"][int(path.removeprefix("skedge_links[").split("]")[0])].get("to")
    return to if isinstance(to, str) else ""


def _nearest_site(name: str, known: Mapping[str, Host]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"the sites are {', '.join(sorted(known))}"


# ---- what only the whole network shows -------------------------------------------------------------------------


def _same_site(hosts: list[Host]) -> Iterator[str]:
    by_site: dict[str, list[Host]] = defaultdict(list)
    for host in sorted(hosts, key=lambda host: "skedge_site" in host.values):
        by_site[host.site].append(host)
    for site, (first, *others) in by_site.items():
        for host in others:
            where = f"{host.where('skedge_site')}: skedge_site"
            yield f"{where}: {site} is already the site of {first.name}; give another name"


def _shared_values(hosts: list[Host], drafts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for key in SHARED_KEYS:
        variable = PREFIX + key
        seen: dict[str, Host] = {}
        for host in sorted(hosts, key=lambda host: variable in host.values):  # those that wrote it come last
            seen.setdefault(str(drafts[host.name].get(key, "the default")), host)
        if len(seen) > 1:
            (other_value, other), *_, (value, host) = seen.items()
            yield (
                f"{host.where(variable)}: {variable}: {value} at {host.name} but {other_value} at {other.name}; "
                "all sites of a network need the same, set it once for all"
            )


def _overlay_addresses(hosts: list[Host], drafts: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Two sites with one address, found also while other parts of the inventory are wrong."""
    configs: dict[str, SiteConfig] = {}
    for host in hosts:
        try:
            configs[host.name] = from_dict({**drafts[host.name], "links": [], "listeners": [], "connectors": []}, "")
        except ConfigError:
            continue  # this host's addresses are wrong in themselves, which is said elsewhere
    for key, attribute in (("overlay_address", "overlay4"), ("overlay_address6", "overlay6")):
        seen: dict[str, Host] = {}
        for host in hosts:
            if host.name in configs:
                address = getattr(configs[host.name], attribute)
                other = seen.setdefault(address, host)
                if other is not host and host.site != other.site:
                    yield _same_address(PREFIX + key, address, host, other)
    yield from _nat_addresses(hosts, configs)


def _nat_addresses(hosts: list[Host], configs: Mapping[str, SiteConfig]) -> Iterator[str]:
    """NAT addresses written by hand that are another site's; one made from a name gives way by itself."""
    variable = PREFIX + "nat_address"
    for host in (one for one in hosts if one.name in configs and variable in one.values):
        address = configs[host.name].nat4
        for other in (one for one in hosts if one.name in configs and one.site != host.site):
            theirs = configs[other.name]
            written = variable in other.values and address == theirs.nat4 and other.name < host.name
            if address == theirs.overlay4 or written:
                yield _same_address(variable, address, host, other)


def _same_address(variable: str, address: str, host: Host, other: Host) -> str:
    made = [h.name for h in (host, other) if variable not in h.values]
    how = f" (made from the name of {' and of '.join(made)})" if made else ""
    where = host.where(variable if variable in host.values else "")
    return f"{where}: {variable}: {address} is also the address of {other.name}{how}; give one of them another"


def _overlapping_prefixes(hosts: list[Host], drafts: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """LANs of two sites with an address in common: answers to it could go to one of them only."""
    seen: list[tuple[Any, Host]] = []
    for host in hosts:
        given = drafts[host.name].get("prefixes")
        for index, text in enumerate(given if isinstance(given, list) else []):
            try:
                network = parse_prefix(text)
            except (ValueError, TypeError):
                continue  # said already
            path = f"{host.where('skedge_prefixes')}: skedge_prefixes[{index}]"
            for other, holder in seen:
                if holder.site != host.site and other.version == network.version and other.overlaps(network):
                    way_out = "give one of them prefixes of its own"
                    yield f"{path}: {text} overlaps {other}, which {holder.name} announces; {way_out}"
            seen.append((network, host))


def _whole(hosts: list[Host], sites: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    configs: dict[str, SiteConfig] = {}
    for host in hosts:
        try:
            configs[host.name] = from_dict(sites[host.name], host.where("skedge_links"))
        except ConfigError as error:  # only a link that was completed from its other end can be wrong here
            yield from str(error).splitlines()
    for host in hosts:
        if host.name not in configs:
            continue
        yield from _underlay_in_overlay(host, configs[host.name])
        yield from _name_collisions(host, configs[host.name])
        # written out, so that the file on the host says what the network expects of it
        sites[host.name]["overlay_address"] = configs[host.name].overlay4
        sites[host.name]["overlay_address6"] = configs[host.name].overlay6


def _underlay_in_overlay(host: Host, config: SiteConfig) -> Iterator[str]:
    overlay = IPv4Network(config.overlay_cidr)
    for link in config.links:
        for key, text in (("local", link.local), ("remote", link.remote)):
            address = ip_address(text) if text and not is_host_name(text) else None
            if address is not None and address.version == 4 and address in overlay:
                yield (
                    f"{host.where('skedge_links')}: skedge_links: {key} address {text} of the link to {link.to} is "
                    f"inside skedge_overlay_cidr {overlay}; give skedge_overlay_cidr a range that the hosts do not use"
                )


def _name_collisions(host: Host, config: SiteConfig) -> Iterator[str]:
    """Names made by a hash can meet; then the operator gives one of the links another name."""
    devices: dict[str, str] = {}
    tunnels: dict[tuple[int, int], str] = {}  # by network identifier and port
    for link in config.links:
        link_id = LinkId.between(config.site, link.to, link.name)
        text = f"the link to {link.to} named {link.name}"
        device = device_name(config.network, link_id, config.site)
        tunnel = (vni(config.network, link_id), link.port)
        by_vni = link.transport.facts.vni
        other = devices.setdefault(device, text), tunnels.setdefault(tunnel, text) if by_vni else text
        for earlier in {*other} - {text}:
            where = f"{host.where('skedge_links')}: skedge_links"
            yield f"{where}: {text} would have the same device as {earlier}; give one of them another name"
