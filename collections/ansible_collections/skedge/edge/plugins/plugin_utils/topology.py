# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""From the inventory's variables to every site's configuration, and every problem of the whole network.

Pure: takes plain values, returns plain values. Single values and single sites are judged by ``skedge.config``, the
parser that the daemon uses; what only the whole network shows is judged here.
"""

from __future__ import annotations

import copy
import datetime as dt
import difflib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, ip_address
from typing import Any

from ansible_collections.skedge.edge.plugins.plugin_utils import overlay
from ansible_collections.skedge.edge.plugins.plugin_utils.address_register import Register
from ansible_collections.skedge.edge.plugins.plugin_utils.host import Host
from ansible_collections.skedge.edge.plugins.plugin_utils.links import complete, own_links

from skedge.config import from_dict, problems
from skedge.config.addresses import parse_cidr
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
    "release_file", "new_authority", "lease_s", "seize_lease",
    "flow_limit", "gate_timeout_s", "network_revert_s", "preflight_skip", "reserved_ports",
    "manage_packages", "serial", "drain_wait_s", "takeover_wait_s", "start_timeout_s",
)  # fmt: skip
# Values that must be the same at every site of a network.
SHARED_KEYS = ("network", "overlay_cidr", "control_port", "load_port")


@dataclass(frozen=True)
class Topology:
    """Every site's configuration by inventory host (complete only when there are no errors), and all errors.

    ``register`` is the one that was given, with these sites in it.
    """

    sites: dict[str, dict[str, Any]]
    errors: list[str]
    register: Register = field(default_factory=Register)


def build(hosts: list[Host], register: Register | None = None, today: dt.date = dt.date.min) -> Topology:
    """Return the configuration of every host and every problem of the whole, each one sentence.

    Args:
        hosts: all hosts of the network.
        register: the addresses that its sites were given; none yet when there is none.
        today: the day on which sites that the register has and ``hosts`` have not are seen to be gone.
    """
    errors = [error for host in hosts for error in (*host.unread, *_unknown_variables(host))]
    if any(host.unread for host in hosts):
        return Topology({}, _once(errors))  # what else seems wrong may follow from the values that are missing
    register = register or Register(network_of(hosts))
    cidr = overlay.overlay_range(hosts, register, network_of(hosts))
    drafts = {host.name: _draft(host, hosts, cidr) for host in hosts}
    for host in hosts:
        errors += _site_problems(host, drafts[host.name], {other.site: other for other in hosts})
    errors += _same_site(hosts)
    errors += _shared_values(hosts, drafts)
    addresses, clashes = _addresses(hosts, drafts, register, today)
    errors += clashes
    errors += _overlapping_prefixes(hosts, drafts)
    if errors:
        return Topology({}, _once(errors))
    sites, errors = complete({host.site: host for host in hosts}, drafts)
    if not errors:
        removed = [site for site, one in sorted(addresses.sites.items()) if one.gone and one.held(today)]
        sites = {name: config | ({"removed_sites": removed} if removed else {}) for name, config in sites.items()}
        errors = list(_whole(hosts, sites, addresses))
    return Topology(sites if not errors else {}, _once(errors), addresses)


def _once(errors: list[str]) -> list[str]:
    """Return the errors, one that all hosts of a group have from one file once."""
    return list(dict.fromkeys(errors))


def network_of(hosts: list[Host]) -> str:
    """Return the network's name, where it is one."""
    found = (host.values.get(PREFIX + "network") for host in hosts)
    return next((one for one in found if isinstance(one, str) and one), DEFAULT_NETWORK)


def _draft(host: Host, hosts: list[Host], cidr: str) -> dict[str, Any]:
    """Return the host's own keys of skedge.yaml, the addresses of its links filled in from the inventory."""
    draft: dict[str, Any] = {"network": DEFAULT_NETWORK, "site": host.site}
    for key in SITE_KEYS:
        if PREFIX + key in host.values:
            draft[key] = copy.deepcopy(host.values[PREFIX + key])
    draft["overlay_cidr"] = draft.get("overlay_cidr") or cidr
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


def _addresses(
    hosts: list[Host], drafts: Mapping[str, dict[str, Any]], register: Register, today: dt.date
) -> tuple[Register, list[str]]:
    """Return every site's addresses, and what is wrong with those that are written; also while other parts are."""
    every = [overlay.said(host) for host in hosts]
    errors = list(overlay.clashes(every, register, network_of(hosts)))
    cidrs = {str(parse_cidr(draft["overlay_cidr"])) for draft in drafts.values() if _is_cidr(draft["overlay_cidr"])}
    if errors or len(cidrs) != 1 or any(not _is_cidr(draft["overlay_cidr"]) for draft in drafts.values()):
        return register, errors  # which of the ranges is meant is not known
    [cidr] = cidrs
    errors += overlay.range_problems(hosts, register, cidr)
    given, full = overlay.assign(every, register, cidr, today)
    return given, [*errors, *full]


def _is_cidr(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(parse_cidr(value), str)


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


def _whole(hosts: list[Host], sites: Mapping[str, dict[str, Any]], addresses: Register) -> Iterator[str]:
    for host in hosts:  # written out, so that the file on the host says what the network expects of it
        given = addresses.sites[host.site]
        sites[host.name] |= {key: getattr(given, key) for key in overlay.KEYS if getattr(given, key)}
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


def _underlay_in_overlay(host: Host, config: SiteConfig) -> Iterator[str]:
    network = IPv4Network(config.overlay_cidr)
    for link in config.links:
        for key, text in (("local", link.local), ("remote", link.remote)):
            address = ip_address(text) if text and not is_host_name(text) else None
            if address is not None and address.version == 4 and address in network:
                yield (
                    f"{host.where('skedge_links')}: skedge_links: {key} address {text} of the link to {link.to} is "
                    f"inside skedge_overlay_cidr {network}; give skedge_overlay_cidr a range that the hosts do not use"
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
