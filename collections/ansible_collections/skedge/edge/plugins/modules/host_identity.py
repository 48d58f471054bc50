# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: host_identity
short_description: Make the host's own keys, and install the certificates that were signed for it
description:
  - Makes an Ed25519 key on the host when there is none, and returns a certificate request for it; the same for the
    host's WireGuard key (which M(skedge.edge.wireguard_key) changes), and returns its public half.
  - Private keys are written by a process on the host and never leave it; they are in no argument and no result.
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
    description: User and group that own the keys.
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
keys:
  description: >-
    The public WireGuard key, and the next one where there is one; nothing in check mode before there is a key.
  returned: without O(files)
  type: list
  elements: str
installed:
  description: Texts of the certificates that are on the host with their right owner and mode, by file name.
  returned: without O(files)
  type: dict
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skedge.edge.plugins.module_utils import hostkeys, statefile

FILES = ("site.crt", "ca.crt", "revoked.pem")


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
        identity.keys()
    identity.install()


class Identity:
    """The directory that holds the host's keys and certificates."""

    def __init__(self, module):
        self.module = module
        self.params = module.params
        self.directory = self.params["directory"]
        self.changed = False

    def keys(self):
        """Make the keys where there are none; answer with what may be told of them, and which certificates are there.

        A check that finds no key answers with nothing of it.
        """
        self.make_directories()
        path = os.path.join(self.directory, "site.key")
        make = not os.path.exists(path)
        wireguard = hostkeys.WireGuard(self.directory)
        self.changed |= make or wireguard.changed
        check = self.module.check_mode
        if check and (make or not os.path.exists(self.params["python"])):
            self.module.exit_json(changed=self.changed, csr="", keys=[], installed={})
        public = [] if check and wireguard.changed else wireguard.requests()
        request = ("csr", path, make, self.params["network"], self.params["site"])
        csr, *public = hostkeys.ask(self.module, request, *public)
        self.own(path, self.params["owner"], 0o600)
        for one in filter(os.path.exists, wireguard.wanted):
            self.own(one, "root", 0o640)
        self.module.exit_json(changed=self.changed, csr=csr, keys=public, installed=self.installed())

    def installed(self):
        """Return the texts of the certificates that are there as they should be, by file name."""
        found = {}
        for name in FILES:
            path = os.path.join(self.directory, name)
            text = statefile.read_text(path)
            if text is not None and not hostkeys.wanted(self.module, path, "root", 0o640):
                found[name] = text
        return found

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
            if (statefile.read_text(path) or "") != content:
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
        self.changed |= hostkeys.own(self.module, path, user, mode)


if __name__ == "__main__":
    main()
