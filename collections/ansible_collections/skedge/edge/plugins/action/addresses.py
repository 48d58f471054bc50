# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Remembers on the control node which overlay addresses were given out."""

from __future__ import annotations

import datetime as dt
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

try:
    from ansible_collections.skedge.edge.plugins.plugin_utils.address_register import RegisterError, parse, read, write

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
        if MISSING:
            raise AnsibleActionFail(f"the control node cannot import the skedge package ({MISSING}); run `make setup`")
        _, args = self.validate_argument_spec(
            argument_spec={
                "ca_dir": {"type": "path", "required": True},
                "network": {"type": "str", "required": True},
                "register": {"type": "dict", "default": {}},
                "site": {"type": "str", "default": ""},
                "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            },
            required_if=[("state", "present", ["register"]), ("state", "absent", ["site"])],
        )
        today = dt.datetime.now(dt.timezone.utc).date()
        try:
            before = read(args["ca_dir"], args["network"])
            if args["state"] == "absent":
                after = before.without(args["site"], today)
            else:
                after = parse(args["register"], "register")
            changed = after != before
            if changed and not self._task.check_mode:
                changed = write(args["ca_dir"], after)
        except (RegisterError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        result["changed"] = changed
        return result
