# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the ``skedge_*`` variables of the inventory's hosts, with the file that each was written in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from ansible_collections.skedge.edge.plugins.plugin_utils.host import Host
from ansible_collections.skedge.edge.plugins.plugin_utils.topology import PREFIX

try:  # ansible-core 2.19 and later tag every value with the place that it was read from
    from ansible._internal._datatag._tags import Origin
except ImportError:  # pragma: no cover - earlier ansible-core
    Origin = None


def read_hosts(hostvars: Mapping[str, Any], names: list[str], basedirs: list[str]) -> list[Host]:
    """Return the hosts with their variables; ``basedirs`` are the inventory's and the playbook's directories."""
    return [_host(name, hostvars[name], basedirs) for name in names]


def _host(name: str, variables: Mapping[str, Any], basedirs: list[str]) -> Host:
    values, files = {}, {}
    for variable in [key for key in variables if key.startswith(PREFIX)]:
        value = variables[variable]
        values[str(variable)] = plain(value)
        files[str(variable)] = _file(name, value, basedirs)
    files[""] = files["ansible_host"] = _guess(name, basedirs)
    given = variables.get("skedge_underlay_address") or variables.get("ansible_host") or name
    own = values.get("skedge_local_address", "")
    known = {key: file for key, file in files.items() if file}
    reachable = plain(variables.get("skedge_reachable", True)) not in (False, "false", "False", "no", "0")
    return Host(name, values, known, _ip_or_nothing(str(given)), _ip_or_nothing(str(own)), str(given), reachable)


def _ip_or_nothing(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return ""


def plain(value: Any) -> Any:
    """Return the value as plain Python types, without the tags and lazy containers that Ansible puts around it."""
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind.__call__(value) if type(value) is not kind else value
    return str(value)


def _file(host: str, value: Any, basedirs: list[str]) -> str:
    """Return the file of a value, relative to the inventory; "" when it is not known."""
    path = _origin(value)
    if not path:
        return _guess(host, basedirs)
    for base in basedirs:
        relative = os.path.relpath(path, base)
        if not relative.startswith(".."):
            return relative
    return path


def _origin(value: Any) -> str:
    origin = Origin.get_tag(value) if Origin is not None else None
    if origin is None and isinstance(value, (list, tuple)) and value:
        return _origin(value[0])
    return str(origin.path) if origin is not None and origin.path else ""


def _guess(host: str, basedirs: list[str]) -> str:
    for base in basedirs:
        for name in (f"{host}.yml", f"{host}.yaml", host):
            if os.path.isfile(os.path.join(base, "host_vars", name)):
                return f"host_vars/{name}"
    return ""
