# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: host_identity
short_description: Make the host's own key, and install the certificates that were signed for it
description:
  - Makes an Ed25519 key on the host when there is none, and returns a certificate request for it.
  - The private key is written by a process on the host and never leaves it; it is in no argument and no result.
  - With O(files) it installs certificates beside the key.
options:
  directory:
    description: Where the key and the certificates are; made if it is not there.
    type: path
    default: /etc/skedge/identity
  python:
    description: A Python on the host that has the cryptography package; the controller's own has it.
    type: path
    default: /opt/skedge/venv/bin/python
  network:
    description: Name of the network. Required without O(files).
    type: str
    default: ""
  site:
    description: Name of the site. Required without O(files).
    type: str
    default: ""
  files:
    description: Certificates to install, by file name.
    type: dict
  owner:
    description: User and group that own the key.
    type: str
    default: skedge
attributes:
  check_mode:
    description: Tells whether a key or a file would be made.
    support: full
  diff_mode:
    description: A key is never shown, certificates have no useful text form.
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

- name: Install what was signed
  skedge.edge.host_identity:
    files:
      site.crt: "{{ signed.certificate }}"
      ca.crt: "{{ signed.ca }}"
      revoked.pem: "{{ signed.revoked }}"
"""

RETURN = r"""
csr:
  description: Certificate request in PEM form; empty in check mode when there is no key yet.
  returned: without O(files)
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


def main():
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/etc/skedge/identity"},
            "python": {"type": "path", "default": "/opt/skedge/venv/bin/python"},
            "network": {"type": "str", "default": ""},
            "site": {"type": "str", "default": ""},
            "files": {"type": "dict"},
            "owner": {"type": "str", "default": "skedge"},
        },
        supports_check_mode=True,
    )
    identity = Identity(module)
    if module.params["files"] is None:
        identity.key()
    identity.install()


class Identity:
    """The directory that holds the host's key and certificates."""

    def __init__(self, module):
        self.module = module
        self.params = module.params
        self.directory = self.params["directory"]
        self.changed = False

    def key(self):
        """Make the key where there is none, and answer with a request for it."""
        self.make_directories()
        path = os.path.join(self.directory, "site.key")
        make = not os.path.exists(path)
        self.changed |= make
        if self.module.check_mode and (make or not os.path.exists(self.params["python"])):
            self.module.exit_json(changed=self.changed, csr="")
        request = {"make": make, "path": path, "network": self.params["network"], "site": self.params["site"]}
        code, out, err = self.module.run_command([self.params["python"], "-I", "-c", HELPER], data=json.dumps(request))
        if code != 0:
            last = (err.strip().splitlines() or ["no message"])[-1]
            self.module.fail_json(
                msg="the host's key in %s cannot be made or read (%s); remove that file to get a new one" % (path, last)
            )
        self.own(path, self.params["owner"], 0o600)
        self.module.exit_json(changed=self.changed, csr=out)

    def make_directories(self):
        """Make the directory and the one above it, for the controller's group to read."""
        for directory in (os.path.dirname(self.directory), self.directory):
            if not os.path.isdir(directory):
                self.changed = True
                if self.module.check_mode:
                    continue
                os.mkdir(directory, 0o750)
            self.own(directory, "root", 0o750)

    def install(self):
        """Write the certificates that differ."""
        for name, content in sorted(self.params["files"].items()):
            path = os.path.join(self.directory, os.path.basename(name))
            if read_text(path) != content:
                self.changed = True
                if self.module.check_mode:
                    continue
                with os.fdopen(os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "w") as file:
                    file.write(content)
                os.replace(path + ".new", path)
            self.own(path, "root", 0o640)
        self.module.exit_json(changed=self.changed)

    def own(self, path, user, mode):
        """Give the path to the user and the controller's group."""
        before = os.stat(path)
        try:
            wanted = (pwd.getpwnam(user).pw_uid, grp.getgrnam(self.params["owner"]).gr_gid, mode)
        except KeyError:
            if self.module.check_mode:
                return  # the user would have been made before
            self.module.fail_json(msg="there is no user or group %s; deploy without --tags once" % self.params["owner"])
        if (before.st_uid, before.st_gid, stat.S_IMODE(before.st_mode)) != wanted:
            self.changed = True
            if not self.module.check_mode:
                os.chown(path, wanted[0], wanted[1])
                os.chmod(path, wanted[2])


def read_text(path):
    """Return a file's text, or nothing when it is not there."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
