# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the ``skedge_*`` variables of the inventory's hosts, with the file that each was written in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from ansible.errors import AnsibleError
from ansible.template import Templar
from ansible_collections.skedge.edge.plugins.plugin_utils.host import Host
from ansible_collections.skedge.edge.plugins.plugin_utils.topology import PREFIX

try:  # ansible-core 2.19 and later tag every value with the place that it was read from
    from ansible._internal._datatag._tags import Origin
except ImportError:  # pragma: no cover - earlier ansible-core
    Origin = None


CONNECTION = ("ansible_host", "ansible_port", "ansible_user")  # without these no host is reached


def read_hosts(hostvars: Any, names: list[str], basedirs: list[str], loader: Any = None) -> list[Host]:
    """Return the hosts with their variables; ``basedirs`` are the inventory's and the playbook's directories."""
    return [_host(name, hostvars[name], _Raw(hostvars, name, loader), basedirs) for name in names]


class _Raw:
    """One host's variables as they are written, and what becomes of a piece of one."""

    def __init__(self, hostvars: Any, name: str, loader: Any) -> None:
        self.values = hostvars.raw_get(name)
        self._templar = Templar(loader, variables={**self.values, "hostvars": hostvars})

    def read(self, value: Any, path: str, said: list[tuple[str, str]]) -> Any:
        """Return a value, None where it cannot be made; all that is wrong in it goes to ``said``."""
        if isinstance(value, Mapping):
            return {plain(key): self.read(item, f"{path}.{key}", said) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.read(item, f"{path}[{index}]", said) for index, item in enumerate(value)]
        try:
            return plain(self._templar.template(value))
        except AnsibleError as error:
            said.append((path, _why(str(getattr(error, "message", error)))))
            return None


def _host(name: str, variables: Mapping[str, Any], raw: _Raw, basedirs: list[str]) -> Host:
    values: dict[str, Any] = {}
    files: dict[str, str] = {}
    unread: list[str] = []
    for variable in [key for key in variables if key.startswith(PREFIX) or key in CONNECTION]:
        said: list[tuple[str, str]] = []
        try:
            values[str(variable)] = plain(variables[variable])
        except AnsibleError:  # it names the first mistake only, and not where that is
            values[str(variable)] = raw.read(raw.values[variable], str(variable), said)
        files[str(variable)] = _file(name, raw.values[variable], basedirs)
        unread += [f"{files[str(variable)] or f'inventory host {name}'}: {path}: {text}" for path, text in said]
    connection = {key: values.pop(key, None) for key in CONNECTION}
    files[""] = files["ansible_host"] = _guess(name, basedirs)
    given = values.get("skedge_underlay_address") or connection["ansible_host"] or name
    own = values.get("skedge_local_address", "")
    known = {key: file for key, file in files.items() if file}
    reachable = values.get("skedge_reachable", True) not in (False, "false", "False", "no", "0")
    addresses = _ip_or_nothing(str(given)), _ip_or_nothing(str(own)), str(given)
    return Host(name, values, known, *addresses, reachable, tuple(unread))


def _why(message: str) -> str:
    """Return the sentence about a template that cannot be filled in."""
    text = (message.strip().splitlines() or ["no reason was given"])[0].rstrip(".")
    way_out = "define it, or correct its name" if "is undefined" in text else "correct it"
    if "'ansible_" in text and "is undefined" in text:
        way_out = "facts are gathered of no host before the network is validated: write the value itself"
    return f"{text}; {way_out}"


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
