# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Filters for playbooks and templates."""

from __future__ import annotations

import json
import os
from base64 import b64decode
from ipaddress import ip_network
from typing import Any

from ansible import constants
from ansible.errors import AnsibleFilterError

try:
    from ansible_collections.skedge.edge.plugins.plugin_utils import membership
    from ansible_collections.skedge.edge.plugins.plugin_utils.wireguard import read_keys

    from skedge.core import names
    from skedge.core.model import LinkId

    MISSING = ""
except ImportError as error:
    MISSING = str(error)


AT_ONCE, ROLLING = "100%", [1, "25%"]
HOSTS_SHOWN = 8  # before a problem that many have


def skedge_overlay_address(site: str, network: str, cidr: str = "", version: int = 4) -> str:
    """Return the overlay address that a site gets from its name, where no other has it."""
    _need_skedge()
    if version == 6:
        return str(names.overlay_address6(network, site))
    try:
        return str(names.overlay_address(ip_network(cidr) if cidr else names.overlay_network(network), network, site))
    except (ValueError, TypeError) as error:
        raise AnsibleFilterError(f"skedge_overlay_address: {cidr}: {error}") from error


def skedge_overlays(config: dict[str, Any]) -> list[str]:
    """Return the overlay's address ranges, IPv4 and IPv6, of a site's configuration."""
    _need_skedge()
    return [config["overlay_cidr"], names.overlay_prefix6(config["network"])]


def skedge_present(hostvars: Any, hosts: list[str], others: dict[str, Any] | None = None) -> dict[str, str]:
    """Return the configuration that each host has now, as text; ``others`` are results of hosts outside the play."""
    found = {host: hostvars[host].get("__skedge_present") or {} for host in hosts}
    found |= {one["item"]: one for one in (others or {}).get("results", []) if "item" in one}
    return {host: b64decode(one["content"]).decode(errors="replace") for host, one in found.items() if "content" in one}


def skedge_unregistered(hosts: list[str], hostvars: Any, ca_dir: str) -> list[str]:
    """Return the hosts whose sites the register of addresses does not have; all of them where it cannot be read."""
    try:
        with open(os.path.join(ca_dir, "addresses.json"), encoding="utf-8") as file:
            known = json.load(file)["sites"]
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    return [host for host in hosts if (hostvars[host].get("skedge_site") or host) not in known]


def skedge_without_listeners(config: dict[str, Any], numbers: list[int]) -> dict[str, Any]:
    """Return a site's configuration without the listeners of these numbers, whose ports are yet to be taken over."""
    kept = [one for number, one in enumerate(config.get("listeners", [])) if number not in numbers]
    return {key: kept if key == "listeners" else value for key, value in config.items()}


def skedge_other_addresses(sites: dict[str, dict[str, Any]], host: str) -> dict[str, str]:
    """Return the IPv4 overlay address of each site but this host's, by its host."""
    return {one: site["overlay_address"] for one, site in sites.items() if one != host}


def skedge_batches(hostvars: Any, hosts: list[str]) -> Any:
    """Return how many hosts are deployed at a time, as Ansible's ``serial``.

    That is ``skedge_serial`` where the inventory gives it. Else all at once where pre-flight found none of the hosts to
    have a controller yet; where one has, one host goes first and then a quarter of them at a time. A check of the
    playbook's syntax knows the hosts by name alone.
    """
    known = [hostvars[host] for host in hosts if host in hostvars]
    for one in known:
        if given := one.get("skedge_serial"):
            return given
    units = [((one.get("__skedge_preflight") or {}).get("host") or {}).get("unit") for one in known]
    return ROLLING if any(units) else AT_ONCE


def skedge_wireguard_devices(config: dict[str, Any]) -> list[str]:
    """Return the devices of a site's wireguard links."""
    _need_skedge()
    return [
        names.device_name(
            config["network"], LinkId.between(config["site"], link["to"], link.get("name", "main")), config["site"]
        )
        for link in config.get("links", [])
        if link.get("transport") == "wireguard"
    ]


def skedge_with_keys(config: dict[str, Any], ca_dir: str) -> dict[str, Any]:
    """Return a site's configuration with the WireGuard keys of the far ends, as far as the control node knows them."""
    _need_skedge()
    links = []
    for link in config.get("links", []):
        wireguard = link.get("transport") == "wireguard"
        links.append({**link, "keys": link.get("keys") or read_keys(ca_dir, link["to"])} if wireguard else dict(link))
    return {**config, "links": links}


def skedge_preflight_problems(hostvars: Any, hosts: list[str], variable: str) -> list[str]:
    """Return every problem that pre-flight found, one sentence each with the hosts that have it.

    Hosts that do not answer are among them.
    """
    problems: list[tuple[str, str]] = []
    for host in hosts:
        result = hostvars[host].get(variable) or {}
        problems += [(host, problem) for problem in result.get("problems") or []]
        if result.get("unreachable"):
            said = _last_line(result.get("msg"))
            address = hostvars[host].get("ansible_host") or host
            what = f"the control node cannot log in to {address} ({said}); start the host, "
            problems.append((host, f"{what}or correct ansible_host, ansible_user or its key"))
        elif result.get("failed") or "problems" not in result:
            said = _last_line(result.get("msg") or result.get("module_stderr"))
            what = f"nothing can be run as root ({said}); see that the user may become root and has python3"
            problems.append((host, what))
    return _by_problem(problems)


def _by_problem(found: list[tuple[str, str]]) -> list[str]:
    """Return each problem once, after the hosts that have it."""
    hosts: dict[str, list[str]] = {}
    for host, problem in found:
        hosts.setdefault(problem, []).append(host)
    return [f"{_some(names)}: {problem}" for problem, names in hosts.items()]


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:HOSTS_SHOWN])
    return shown if len(names) <= HOSTS_SHOWN else f"{shown} and {len(names) - HOSTS_SHOWN} more hosts"


def skedge_ssh_option(name: str, value: int) -> int:
    """Return an option of ssh connections as configured for all hosts, or the value where nobody configured it."""
    found, origin = constants.config.get_config_value_and_origin(name, plugin_type="connection", plugin_name="ssh")
    return value if origin == "default" else int(found)


def skedge_asked(hostvars: Any, hosts: list[str], variable: str, beyond: Any = None) -> dict[str, str]:
    """Return the authority's certificate that each host trusts, also of those beyond the play that answered."""
    found = {host: (hostvars[host].get(variable) or {}).get("authority") or "" for host in hosts}
    for result in (beyond or {}).get("results") or []:
        found[result["item"]] = result.get("authority") or ""
    return found


def skedge_claims(asked: dict[str, str], ca_dir: str, network: str, new: bool = False) -> list[str]:
    """Return why this control node must not sign for these hosts, one sentence each."""
    _need_skedge()
    return membership.problems(asked, ca_dir, network, new=new)


def skedge_held(hostvars: Any, hosts: list[str], variable: str, silent: bool = True) -> list[str]:
    """Return which hosts, or control node, another deployment has marked; one sentence each.

    ``silent`` tells whether hosts that do not answer are among them.
    """
    problems: list[str] = []
    for host in hosts:
        result = hostvars[host].get(variable) or {}
        problems += [text for text in result.get("held") or [] if text not in problems]
        if "held" not in result and (silent or not result.get("unreachable")):
            problems.append(f"{host}: it cannot be marked as being deployed to ({_last_line(result.get('msg'))})")
    return problems


def _last_line(text: Any) -> str:
    """Return the last line that says something: ssh puts warnings before the reason."""
    lines = [line.strip() for line in str(text or "").splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "no reason was given"


def _need_skedge() -> None:
    if MISSING:
        raise AnsibleFilterError(f"the control node cannot import the skedge package ({MISSING}); run `make setup`")


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, Any]:
        return {
            "skedge_asked": skedge_asked,
            "skedge_batches": skedge_batches,
            "skedge_claims": skedge_claims,
            "skedge_held": skedge_held,
            "skedge_overlay_address": skedge_overlay_address,
            "skedge_other_addresses": skedge_other_addresses,
            "skedge_overlays": skedge_overlays,
            "skedge_present": skedge_present,
            "skedge_unregistered": skedge_unregistered,
            "skedge_without_listeners": skedge_without_listeners,
            "skedge_ssh_option": skedge_ssh_option,
            "skedge_preflight_problems": skedge_preflight_problems,
            "skedge_wireguard_devices": skedge_wireguard_devices,
            "skedge_with_keys": skedge_with_keys,
        }
