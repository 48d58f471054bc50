# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: host_identity
short_description: Make the host's own key and certificate request
description:
  - Makes an Ed25519 key on the host when there is none, and returns a certificate request for it.
  - The private key is written by a process on the host and never leaves it; it is in no argument and no result.
options:
  directory:
    description: Where the key and the certificates are.
    type: path
    default: /etc/skedge/identity
  python:
    description: A Python on the host that has the cryptography package; the controller's own has it.
    type: path
    default: /opt/skedge/venv/bin/python
  network:
    description: Name of the network.
    type: str
    required: true
  site:
    description: Name of the site.
    type: str
    required: true
  owner:
    description: User and group that own the key.
    type: str
    default: skedge
attributes:
  check_mode:
    description: Tells whether a key would be made.
    support: full
  diff_mode:
    description: A key is never shown.
    support: none
author:
  - The skedge authors
"""

EXAMPLES = r"""
- name: Make the host's key
  skedge.edge.host_identity:
    network: demo
    site: "{{ inventory_hostname }}"
  register: identity
"""

RETURN = r"""
csr:
  description: Certificate request in PEM form; empty in check mode when there is no key yet.
  returned: success
  type: str
certificate:
  description: The certificate that the host has now, in PEM form, or nothing.
  returned: success
  type: str
"""

import grp
import json
import os
import pwd
import stat

from ansible.module_utils.basic import AnsibleModule

# Runs under the Python that has cryptography; parameters come on standard input.
HELPER = r"""
import json, os, sys
from cryptography import x509
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID as n
p = json.load(sys.stdin)
if p["make"]:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    fd = os.open(p["path"] + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    os.replace(p["path"] + ".new", p["path"])
with open(p["path"], "rb") as file:
    key = s.load_pem_private_key(file.read(), None)
name = x509.Name([x509.NameAttribute(n.ORGANIZATION_NAME, p["network"]), x509.NameAttribute(n.COMMON_NAME, p["site"])])
csr = x509.CertificateSigningRequestBuilder(name).sign(key, None)
sys.stdout.write(csr.public_bytes(s.Encoding.PEM).decode())
"""


def read_text(path):
    """Return a file's text, or nothing when it is not there."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def main():
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/etc/skedge/identity"},
            "python": {"type": "path", "default": "/opt/skedge/venv/bin/python"},
            "network": {"type": "str", "required": True},
            "site": {"type": "str", "required": True},
            "owner": {"type": "str", "default": "skedge"},
        },
        supports_check_mode=True,
    )
    params = module.params
    path = os.path.join(params["directory"], "site.key")
    certificate = read_text(os.path.join(params["directory"], "site.crt"))
    make = not os.path.exists(path)
    if module.check_mode and (make or not os.path.exists(params["python"])):
        module.exit_json(changed=make, csr="", certificate=certificate)
    request = json.dumps({"make": make, "path": path, "network": params["network"], "site": params["site"]})
    code, out, err = module.run_command([params["python"], "-I", "-c", HELPER], data=request, use_unsafe_shell=False)
    if code != 0:
        last = (err.strip().splitlines() or ["no message"])[-1]
        module.fail_json(
            msg=f"the host's key in {path} cannot be made or read ({last}); remove that file to get a new one"
        )
    changed = set_owner(path, params["owner"], module.check_mode) or make
    module.exit_json(changed=changed, csr=out, certificate=certificate)


def set_owner(path, owner, check):
    """Give the key to the controller's user, readable by nobody else; return whether that is a change."""
    before = os.stat(path)
    wanted = (pwd.getpwnam(owner).pw_uid, grp.getgrnam(owner).gr_gid, 0o600)
    if (before.st_uid, before.st_gid, stat.S_IMODE(before.st_mode)) == wanted:
        return False
    if not check:
        os.chown(path, wanted[0], wanted[1])
        os.chmod(path, wanted[2])
    return True


if __name__ == "__main__":
    main()
