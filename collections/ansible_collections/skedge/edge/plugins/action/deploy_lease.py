# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Marks the authority's directory, then the host, with who deploys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.skedge.edge.plugins.module_utils import lease
from ansible_collections.skedge.edge.plugins.plugin_utils import deployment

MODULE = "skedge.edge.deploy_lease"
LASTS_S = 180
BESIDE_S = 900  # beside the authority: whether a run of this control node lives is known, so its mark need not end soon


class ActionModule(ActionBase):
    """Runs the module of the same name on the host, in the name of this run of ansible-playbook."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        state = args.get("state", "taken")
        if state != "looked" and not args.get("ca_dir"):
            raise AnsibleActionFail("ca_dir is missing: the authority's directory on the control node")
        spare_s, until = int(args.pop("spare_s", 0)), float(args.pop("until", 0))
        args["owner"], args["seize"] = deployment.owner(), boolean(args.get("seize", False))
        here = "" if state == "looked" or self._task.check_mode else self._beside_authority(state, args)
        if here:
            return {**result, "changed": False, "held": [here], "authority": ""}
        now, lasts_s = lease.boot_time(), int(args.get("lasts_s", LASTS_S))
        if state == "taken" and until - now >= lasts_s - spare_s:
            return {**result, "changed": False, "held": [], "until": until}
        answer = self._on_host(args, task_vars)
        if answer.get("failed"):
            return {**result, **answer}
        other = answer.get("held") or {}
        if other and (deployment.gone(str(other["id"])) or args["seize"]):
            answer = self._on_host({**args, "over": [other["id"]]}, task_vars)
            other = answer.get("held") or {}
        name = (task_vars or {}).get("inventory_hostname", "host")
        held = [deployment.sentence(str(name), other)] if other else []
        # counted from before the host was asked, so that its mark ends later than this
        return {**result, **answer, "held": held, "until": 0 if held or self._task.check_mode else now + lasts_s}

    def _on_host(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(module_name=MODULE, module_args=args, task_vars=task_vars)
        return answer

    @staticmethod
    def _beside_authority(state: str, args: dict[str, Any]) -> str:
        """Take or give back the mark of the control node; return whose it is, if another's."""
        directory = Path(str(args["ca_dir"])).expanduser()
        path, owner = str(directory / deployment.MARK), args["owner"]
        try:
            if state == "released":
                lease.release(path, owner)
                return ""
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            other = lease.take(path, owner, BESIDE_S)
            if other and (deployment.gone(other["id"]) or args["seize"]):
                other = lease.take(path, owner, BESIDE_S, [other["id"]])
        except OSError as error:
            raise AnsibleActionFail(f"{path}: {error.strerror}; see that its user may write there") from error
        return deployment.sentence(str(directory), other) if other else ""
