# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: wireguard_key
short_description: Make the host's WireGuard key, or change it
description:
  - Makes an X25519 key on the host when there is none, and returns its public half.
  - The private key is written by a process on the host and never leaves it; it is in no argument and no result.
options:
  directory:
    description: Where the key is; it must be there.
    type: path
    default: /etc/skedge/identity
  python:
    description: A Python on the host that has the cryptography package; the controller's own has it.
    type: path
    default: /opt/skedge/venv/bin/python
  owner:
    description: Group that may read the key.
    type: str
    default: skedge
  step:
    description:
      - V(current) only makes a key where there is none.
      - V(next) also makes the key that comes next, unless it is there.
      - V(swap) puts the next key in the place of the present one, if there is a next one.
    type: str
    choices: [current, next, swap]
    default: current
attributes:
  check_mode:
    description: Tells whether a key would be made or changed.
    support: full
  diff_mode:
    description: A key is never shown.
    support: none
author:
  - The skedge authors
"""

EXAMPLES = r"""
- name: Make the host's key
  skedge.edge.wireguard_key:
  register: wireguard
"""

RETURN = r"""
keys:
  description: The public key, and the next one where there is one; nothing in check mode before there is a key.
  returned: success
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skedge.edge.plugins.module_utils import hostkeys


def main():
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/etc/skedge/identity"},
            "python": {"type": "path", "default": "/opt/skedge/venv/bin/python"},
            "owner": {"type": "str", "default": "skedge"},
            "step": {"type": "str", "choices": ["current", "next", "swap"], "default": "current"},
        },
        supports_check_mode=True,
    )
    params = module.params
    keys = hostkeys.WireGuard(params["directory"], params["step"])
    changed = keys.changed
    if module.check_mode and (changed or not os.path.exists(params["python"])):
        module.exit_json(changed=changed, keys=[])
    keys.swap()
    public = hostkeys.ask(module, *keys.requests())
    for path in keys.wanted:
        changed |= hostkeys.own(module, path, "root", 0o640)
    module.exit_json(changed=changed, keys=public)


if __name__ == "__main__":
    main()
