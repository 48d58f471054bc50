#!/usr/bin/python
# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: deploy_lease
short_description: Mark hosts as being deployed to, and tell which authority they trust
description:
  - Two deployments at once would take each other's configuration and certificates back. Each marks its hosts, and the
    authority's directory on the control node, with who it is; it does not start where another's mark holds.
  - A mark that is over is free, as is one of a run on the same control node that no longer lives.
  - Answers with the authority's certificate that the host trusts, read while the mark holds.
options:
  state:
    description: V(taken) also prolongs an own mark. V(looked) only reads.
    type: str
    choices: [taken, released, looked]
    default: taken
  ca_dir:
    description: The authority's directory on the control node. Required but for O(state=looked).
    type: path
    default: ""
  lasts_s:
    description: Seconds after which the mark is free, unless it is prolonged.
    type: int
    default: 180
  until:
    description: RV(until) of the last time in this run. The host is not asked where that is long enough.
    type: float
    default: 0
  spare_s:
    description: By how many seconds the mark may last shorter than O(lasts_s) for the host not to be asked.
    type: int
    default: 0
  seize:
    description: Whether a mark that another deployment holds is taken from it.
    type: bool
    default: false
  path:
    description: The mark on the host.
    type: path
    default: /run/skedge-deploy.lease
  trusted:
    description: The authority's certificate on the host.
    type: path
    default: /etc/skedge/identity/ca.crt
  owner:
    description: Who deploys; the control node fills it in.
    type: dict
    default: {}
  over:
    description: Whose mark is free; the control node fills it in.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Takes and gives back nothing, and reads.
    support: full
  diff_mode:
    description: A mark is no change of the host.
    support: none
author:
  - The skedge authors
"""

EXAMPLES = r"""
- name: Keep other deployments away
  skedge.edge.deploy_lease:
    ca_dir: "{{ skedge_ca_dir }}"
  register: lease
"""

RETURN = r"""
held:
  description: Sentences about the marks of another deployment; empty when this one has them.
  returned: success
  type: list
  elements: str
authority:
  description: The authority's certificate that the host trusts, in PEM form; empty where it has none.
  returned: success
  type: str
until:
  description: When the mark ends, in seconds since the control node's boot, or earlier than it does.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skedge.edge.plugins.module_utils import lease


def read(path):
    """Return a file's text, or nothing."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return ""


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["taken", "released", "looked"], "default": "taken"},
            "ca_dir": {"type": "path", "default": ""},
            "lasts_s": {"type": "int", "default": 180},
            "until": {"type": "float", "default": 0},
            "spare_s": {"type": "int", "default": 0},
            "seize": {"type": "bool", "default": False},
            "path": {"type": "path", "default": "/run/skedge-deploy.lease"},
            "trusted": {"type": "path", "default": "/etc/skedge/identity/ca.crt"},
            "owner": {"type": "dict", "default": {}},
            "over": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    params, held = module.params, {}
    try:
        if params["state"] == "taken" and not module.check_mode:
            held = lease.take(params["path"], params["owner"], params["lasts_s"], params["over"])
        elif params["state"] == "released" and not module.check_mode:
            lease.release(params["path"], params["owner"])
    except OSError as error:
        module.fail_json(msg="%s: %s" % (params["path"], error.strerror))
    module.exit_json(changed=False, held=held, authority=read(params["trusted"]))


if __name__ == "__main__":
    main()
