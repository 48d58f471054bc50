# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Validates the whole network on the control node and returns every site's configuration."""

from __future__ import annotations

import datetime as dt
import os
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

try:
    from ansible_collections.skedge.edge.plugins.plugin_utils.address_register import Register, RegisterError, read
    from ansible_collections.skedge.edge.plugins.plugin_utils.inventory import read_hosts
    from ansible_collections.skedge.edge.plugins.plugin_utils.topology import build, network_of

    from skedge.config import loads
    from skedge.core.errors import ConfigError

    MISSING = ""
except ImportError as error:
    MISSING = str(error)


class ActionModule(ActionBase):
    """Runs on the control node only; no host is contacted."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        if MISSING:
            raise AnsibleActionFail(
                f"the control node cannot import the skedge package ({MISSING}); "
                "run ansible-playbook from the virtual environment that `make setup` or `pip install .` made"
            )
        group = self._task.args.get("group", "skedge_edge")
        names = list(task_vars.get("groups", {}).get(group, []))
        if not names:
            raise AnsibleActionFail(f"the inventory has no host in group {group}; put the edge hosts into it")
        basedirs = [d for d in (task_vars.get("inventory_dir"), task_vars.get("playbook_dir"), os.getcwd()) if d]
        hosts = read_hosts(task_vars["hostvars"], names, basedirs, self._loader)
        network = network_of(hosts)
        try:
            ca_dir = self._task.args.get("ca_dir", "")
            register = read(ca_dir, network) if ca_dir else Register(network)
        except (RegisterError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        register = register.learn(_configurations(self._task.args.get("present") or {}))
        topology = build(hosts, register, dt.datetime.now(dt.timezone.utc).date())
        if topology.errors:
            count = len(topology.errors)
            what = "1 problem" if count == 1 else f"{count} problems"
            result["failed"] = True
            result["msg"] = f"{what} in the inventory; nothing was changed on any host:\n" + "\n".join(topology.errors)
            return result
        result.update(changed=False, sites=topology.sites, addresses=topology.register.document())
        return result


def _configurations(present: dict[str, str]) -> dict[str, Any]:
    """Return the configurations that hosts have now, by site; one that cannot be read says nothing."""
    found = {}
    for text in present.values():
        try:
            config = loads(str(text), "")
        except ConfigError:
            continue
        found[config.site] = config
    return found
