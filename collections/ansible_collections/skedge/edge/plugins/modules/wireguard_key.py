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

import grp
import json
import os
import stat

from ansible.module_utils.basic import AnsibleModule

# Runs under the Python that has cryptography; parameters come on standard input.
HELPER = r"""
import base64, json, os, sys
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
p = json.load(sys.stdin)
found = []
for path, make in p["paths"]:
    if make:
        secret = base64.b64encode(X25519PrivateKey.generate().private_bytes_raw())
        fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(secret + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".new", path)
    with open(path, "rb") as file:
        secret = base64.b64decode(file.read().strip(), validate=True)
    if len(secret) != 32:
        raise SystemExit(os.path.basename(path) + " is no WireGuard key")
    public = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    found.append(base64.b64encode(public).decode())
json.dump(found, sys.stdout)
"""


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
    current = os.path.join(params["directory"], "wireguard.key")
    following = current + ".next"
    changed = False
    if params["step"] == "swap" and os.path.exists(following):
        changed = True
        if not module.check_mode:
            os.replace(following, current)
    wanted = [current] + ([following] if params["step"] == "next" or os.path.exists(following) else [])
    missing = [path for path in wanted if not os.path.exists(path)]
    changed = changed or bool(missing)
    if module.check_mode and (missing or not os.path.exists(params["python"])):
        module.exit_json(changed=changed, keys=[])
    keys = public_keys(module, wanted, missing)
    for path in wanted:
        changed |= own(module, path)
    module.exit_json(changed=changed, keys=keys)


def public_keys(module, paths, missing):
    """Return the public keys of these files, after making those that are missing."""
    request = {"paths": [[path, path in missing] for path in paths]}
    code, out, err = module.run_command([module.params["python"], "-I", "-c", HELPER], data=json.dumps(request))
    if code != 0:
        last = (err.strip().splitlines() or ["no message"])[-1]
        module.fail_json(
            msg="the host's WireGuard key in %s cannot be made or read (%s); remove that file to get a new one"
            % (module.params["directory"], last)
        )
    return json.loads(out)


def own(module, path):
    """Let the controller's group read the key; return whether that changed anything."""
    before = os.stat(path)
    try:
        wanted = (0, grp.getgrnam(module.params["owner"]).gr_gid, 0o640)
    except KeyError:
        if module.check_mode:
            return False  # the group would have been made before
        module.fail_json(msg="there is no group %s; deploy without --tags once" % module.params["owner"])
    if (before.st_uid, before.st_gid, stat.S_IMODE(before.st_mode)) == wanted:
        return False
    if not module.check_mode:
        os.chown(path, wanted[0], wanted[1])
        os.chmod(path, wanted[2])
    return True


if __name__ == "__main__":
    main()
