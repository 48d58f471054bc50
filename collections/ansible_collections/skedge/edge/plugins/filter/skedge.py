# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Filters for playbooks and templates."""

from __future__ import annotations

import json
import os
from base64 import b64decode
from ipaddress import ip_network
from typing import Any

from ansible.errors import AnsibleFilterError

try:
    from ansible_collections.skedge.edge.plugins.plugin_utils.wireguard import read_keys

    from skedge.core import names
    from skedge.core.model import LinkId

    MISSING = ""
except ImportError as error:
    MISSING = str(error)


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
    """Return every problem that pre-flight found, one sentence each; also of hosts that do not answer."""
    problems = []
    for host in hosts:
        result = hostvars[host].get(variable) or {}
        problems += [f"{host}: {problem}" for problem in result.get("problems") or []]
        if result.get("unreachable"):
            said = _last_line(result.get("msg"))
            address = hostvars[host].get("ansible_host") or host
            problems.append(
                f"{host}: the control node cannot log in to {address} ({said}); start the host, "
                "or correct ansible_host, ansible_user or its key"
            )
        elif result.get("failed") or "problems" not in result:
            said = _last_line(result.get("msg") or result.get("module_stderr"))
            problems.append(
                f"{host}: nothing can be run as root ({said}); see that the user may become root and has python3"
            )
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
            "skedge_overlay_address": skedge_overlay_address,
            "skedge_other_addresses": skedge_other_addresses,
            "skedge_overlays": skedge_overlays,
            "skedge_present": skedge_present,
            "skedge_unregistered": skedge_unregistered,
            "skedge_without_listeners": skedge_without_listeners,
            "skedge_preflight_problems": skedge_preflight_problems,
            "skedge_wireguard_devices": skedge_wireguard_devices,
            "skedge_with_keys": skedge_with_keys,
        }
