# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Builds the bundle of wheels for one kind of host on the control node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.skedge.edge.plugins.plugin_utils.bundle import BundleError, Target, build, digest


class ActionModule(ActionBase):
    """Runs on the control node only. Its cache is no change of any host; check mode builds nothing."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={
                "source_dir": {"type": "path", "required": True},
                "cache_dir": {"type": "path", "required": True},
                "python": {"type": "str", "required": True},
                "machine": {"type": "str", "required": True},
                "glibc": {"type": "str", "required": True},
                "later_pythons": {"type": "list", "elements": "str", "default": []},
            }
        )
        target = Target(args["python"], args["machine"], args["glibc"], tuple(args["later_pythons"]))
        source = Path(args["source_dir"])
        try:
            name = digest(source, target)
            if self._task.check_mode:
                result.update(changed=False, digest=name, path="")
            else:
                result.update(changed=False, digest=name, path=str(build(source, Path(args["cache_dir"]), target)))
        except (BundleError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        return result
