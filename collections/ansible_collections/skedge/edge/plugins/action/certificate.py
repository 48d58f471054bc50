# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Signs and revokes the certificates of sites on the control node."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.skedge.edge.plugins.plugin_utils.authority import Authority, AuthorityError


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
                "network": {"type": "str", "required": True},
                "site": {"type": "str", "required": True},
                "csr": {"type": "str", "default": ""},
                "days": {"type": "int", "default": 365},
                "state": {"type": "str", "choices": ["present", "revoked"], "default": "present"},
            }
        )
        authority = Authority(args["ca_dir"], args["network"], self._loader.get_text_file_contents)
        check = self._task.check_mode
        try:
            act = self._revoke if args["state"] == "revoked" else self._present
            result.update(act(authority, args, check))
        except (AuthorityError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        return result

    @staticmethod
    def _revoke(authority: Authority, args: dict[str, Any], check: bool) -> dict[str, Any]:
        if not authority.exists:
            return {"changed": False, "msg": "there is no authority"}
        if check:
            return {"changed": authority.issued(args["site"]) is not None}
        with authority.locked():
            return {"changed": authority.revoke(args["site"])}

    @staticmethod
    def _present(authority: Authority, args: dict[str, Any], check: bool) -> dict[str, Any]:
        if check and not (authority.exists and args["csr"]):
            return {"changed": True, "action": "sign", "msg": "the site's first certificate would be signed"}
        if check:
            decision = authority.decide(args["site"], args["csr"], args["days"])
        else:
            with authority.locked():
                decision = authority.decide(args["site"], args["csr"], args["days"])
                if decision.changed:
                    authority.sign(args["site"], args["csr"], args["days"])
        issued = authority.issued(args["site"])
        pem = "" if issued is None else _pem(issued)
        return {
            "changed": decision.changed,
            "action": decision.action,
            "msg": decision.why,
            "certificate": pem,
            "ca": _pem(authority.certificate()),
            "revoked": authority.revoked_text(),
        }


def _pem(certificate: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()
