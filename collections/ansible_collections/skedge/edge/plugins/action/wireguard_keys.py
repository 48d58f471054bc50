# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Remembers the public WireGuard keys of sites on the control node."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.skedge.edge.plugins.plugin_utils.wireguard import read_keys, write_keys


class ActionModule(ActionBase):
    """Runs on the control node only; no host is contacted."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={
                "ca_dir": {"type": "path", "required": True},
                "site": {"type": "str", "required": True},
                "keys": {"type": "list", "elements": "str", "default": []},
                "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            }
        )
        keys = [] if args["state"] == "absent" else args["keys"]
        known = read_keys(args["ca_dir"], args["site"])
        # in check mode a host that has no key yet gives none, which is no reason to forget the one that it had
        changed = known != keys and bool(keys or args["state"] == "absent")
        try:
            if changed and not self._task.check_mode:
                write_keys(args["ca_dir"], args["site"], keys)
        except (ValueError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        result.update(changed=changed)
        return result
