# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Brings a bundle to the host where its version is not there yet, and installs it."""

from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

MODULE = "skedge.edge.release"


class ActionModule(ActionBase):
    """Asks the module of the same name whether the bundle is needed, and runs it a second time only with the bundle."""

    TRANSFERS_FILES = False  # mostly nothing
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        bundle = str(args.pop("bundle", "") or "")
        answer = self._on_host(args, task_vars)
        if bundle and answer.get("needed") and not self._task.check_mode:
            answer = self._on_host({**args, "archive": self._bring(bundle)}, task_vars)
        return {**result, **answer}

    def _on_host(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(module_name=MODULE, module_args=args, task_vars=task_vars)
        return answer

    def _bring(self, bundle: str) -> str:
        """Copy the bundle to the host; return its path there, in a directory that goes when the task ends."""
        if not os.path.isfile(bundle):
            raise AnsibleActionFail(f"{bundle} is not on the control node; remove its directory, and deploy again")
        directory = self._make_tmp_path()
        path = self._connection._shell.join_path(directory, "bundle.tar")
        self._transfer_file(bundle, path)
        self._fixup_perms2((directory, path), execute=False)
        return str(path)
