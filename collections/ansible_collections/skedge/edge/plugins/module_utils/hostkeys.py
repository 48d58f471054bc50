# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""The host's keys: made, and told the public half of, by one process on the host. PRIVATE to the collection."""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat

# Runs under the Python that has cryptography, whose start and imports are most of what it costs; parameters come on
# standard input. Private keys are in no argument and no answer.
HELPER = r"""
import base64, json, os, sys
from cryptography import x509
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import NameOID as n
def write(path, data):
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)
def csr(path, make, network, site):
    if make:
        key = Ed25519PrivateKey.generate()
        write(path, key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
    with open(path, "rb") as file:
        key = s.load_pem_private_key(file.read(), None)
    names = ((n.ORGANIZATION_NAME, network), (n.COMMON_NAME, site))
    name = x509.Name([x509.NameAttribute(*one) for one in names])
    return x509.CertificateSigningRequestBuilder(name).sign(key, None).public_bytes(s.Encoding.PEM).decode()
def public(path, make):
    if make:
        write(path, base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()) + b"\n")
    with open(path, "rb") as file:
        secret = base64.b64decode(file.read().strip(), validate=True)
    if len(secret) != 32:
        raise ValueError("it is no WireGuard key")
    return base64.b64encode(X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()).decode()
found = []
for kind, path, *rest in json.load(sys.stdin):
    try:
        found.append({"csr": csr, "public": public}[kind](path, *rest))
    except Exception as error:
        raise SystemExit("%s: %s" % (os.path.basename(path), error)) from None
json.dump(found, sys.stdout)
"""


def ask(module, *wanted):
    """Have these made, and return what may be told of each.

    C(csr) with path, whether the key is to be made, network and site gives a certificate request in PEM form; C(public)
    with path and whether it is to be made gives a WireGuard key's public half.
    """
    code, out, err = module.run_command([module.params["python"], "-I", "-c", HELPER], data=json.dumps(wanted))
    if code != 0:
        last = (err.strip().splitlines() or ["no message"])[-1]
        module.fail_json(
            msg="a key of the host in %s cannot be made or read (%s); remove that file to get a new one"
            % (module.params["directory"], last)
        )
    return json.loads(out)


def wanted(module, path, user, mode):
    """Return (owner, group, mode) that the path is to have, if it has others. Its group is the controller's."""
    before = os.stat(path)
    group = module.params["owner"]
    try:
        found = (pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid, mode)
    except KeyError:
        if module.check_mode:
            return None  # they would have been made before
        module.fail_json(msg="there is no user or group %s; deploy without --tags once" % group)
    return None if (before.st_uid, before.st_gid, stat.S_IMODE(before.st_mode)) == found else found


def own(module, path, user, mode):
    """Give the path to the user and the controller's group; return whether that is a change."""
    found = wanted(module, path, user, mode)
    if found and not module.check_mode:
        os.chown(path, found[0], found[1])
        os.chmod(path, found[2])
    return bool(found)


class WireGuard:
    """The host's WireGuard key, and the one that comes next where there is one."""

    def __init__(self, directory, step="current"):
        self.current = os.path.join(directory, "wireguard.key")
        self.following = self.current + ".next"
        self.swapped = step == "swap" and os.path.exists(self.following)
        wanted = [self.current]
        if step == "next" or (os.path.exists(self.following) and not self.swapped):
            wanted.append(self.following)
        self.wanted = wanted
        there = {self.current} if self.swapped else set(filter(os.path.exists, wanted))
        self.missing = [path for path in wanted if path not in there]

    @property
    def changed(self):
        return self.swapped or bool(self.missing)

    def swap(self):
        """Put the next key in the place of the present one, where that was asked for."""
        if self.swapped:
            os.replace(self.following, self.current)

    def requests(self):
        """Return what `ask` is to be asked for."""
        return [("public", path, path in self.missing) for path in self.wanted]
