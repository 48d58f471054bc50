# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Install one version of the controller beside the running one, and switch to it
description:
  - Each version is a virtual environment of its own below C(versions/), made from the wheels of a bundle without any
    package index; C(venv) is a link to the one in use. The running controller's version is not touched.
  - The bundle is brought to the host only where the version is not there yet.
  - What is installed is readable for everybody, whatever the umask of the login; a version that is not is mended.
options:
  digest:
    description: Name of the version, as M(skedge.edge.bundle) returns it.
    type: str
    required: true
  bundle:
    description: The bundle on the control node. Without it, nothing is installed that is not there.
    type: path
  archive:
    description: The bundle on the host; the control node fills it in.
    type: path
  root:
    description: Where versions are installed.
    type: path
    default: /opt/skedge
  python:
    description: The Python that is to run the controller.
    type: path
    default: /usr/bin/python3
  later_pythons:
    description: >-
      The versions of Python that the host gets when its distribution is upgraded in place. The version gets their
      packages, too, from the same bundle, so that the controller starts after the upgrade.
    type: list
    elements: str
    default: []
  bcc:
    description: Another Python's bcc package to be used, where that of O(python) has none. It is plain Python.
    type: str
    default: ""
  command:
    description: Link to the command in the version in use.
    type: path
    default: /usr/local/bin/skedge
  state:
    description: V(present) installs and switches, V(clean) removes the versions that are not in use.
    type: str
    choices: [present, clean]
    default: present
attributes:
  check_mode:
    description: Tells whether the version in use would change.
    support: full
  diff_mode:
    description: Shows the version in use.
    support: full
author:
  - The skedge authors
"""

EXAMPLES = r"""
- name: Use this version from now on
  skedge.edge.release:
    digest: "{{ bundle.digest }}"
    bundle: "{{ bundle.path }}"
"""

RETURN = r"""
needed:
  description: Whether the version is not there yet and the bundle must be brought.
  returned: success
  type: bool
unused:
  description: Directories of the versions that are neither this one nor in use.
  returned: success
  type: list
  elements: str
"""

import glob
import os
import shutil
import tarfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skedge.edge.plugins.module_utils import statefile


class Release:
    """The versions below one directory."""

    def __init__(self, module):
        self.module = module
        self.root = module.params["root"]
        self.digest = module.params["digest"]
        self.versions = os.path.join(self.root, "versions")
        self.version = os.path.join(self.versions, self.digest)
        self.link = os.path.join(self.root, "venv")

    def complete(self):
        """Return whether the version was installed to its end."""
        return os.path.exists(os.path.join(self.version, ".complete"))

    def in_use(self):
        """Return the digest of the version in use, or nothing."""
        return os.path.basename(os.readlink(self.link)) if os.path.islink(self.link) else ""

    def install(self, archive):
        """Make the virtual environment and put the wheels into it."""
        shutil.rmtree(self.version, ignore_errors=True)
        statefile.make_directory(self.versions)
        wheels = self.version + ".wheels"
        shutil.rmtree(wheels, ignore_errors=True)
        os.mkdir(wheels, 0o700)
        try:
            with tarfile.open(archive) as tar:
                self._unpack(tar, wheels)
            # the distribution's packages stay visible: the loader's compiler comes from there
            interpreter = self.module.params["python"]
            self._run(interpreter, "-m", "venv", "--system-site-packages", "--without-pip", self.version)
            pip = os.path.join(glob.glob(os.path.join(wheels, "pip-*.whl"))[0], "pip")
            python = os.path.join(self.version, "bin", "python")
            quiet = ("--quiet", "--disable-pip-version-check", "--root-user-action=ignore")
            install = (python, pip, "install", *quiet, "--no-index", "--find-links", wheels)
            self._run(*install, "--ignore-installed", "skedge")
            for later in self.module.params["later_pythons"]:
                self._run(*install, "--no-compile", *self._for_later(later), "skedge")  # it would compile for this one
        finally:
            shutil.rmtree(wheels, ignore_errors=True)
        self.borrow(self.module.params["bcc"])
        if self.module.get_bin_path("restorecon"):  # SELinux: systemd may run what has the label of a program only
            self._run("restorecon", "-R", self.root)
        with open(os.path.join(self.version, ".complete"), "w") as file:
            file.write(self.digest + "\n")

    def _for_later(self, python):
        """Return pip's options for the directory where another Python looks, once /usr/bin/python3 leads to it."""
        target = os.path.join(self.version, "lib", "python" + python, "site-packages")
        return ("--target", target, "--python-version", python, "--implementation", "cp", "--only-binary", ":all:")

    def borrow(self, package):
        """Make another Python's package visible in the version."""
        for directory in glob.glob(os.path.join(self.version, "lib", "python3*", "site-packages")) if package else []:
            os.symlink(package, os.path.join(directory, os.path.basename(package)))

    def _unpack(self, tar, directory):
        for member in tar.getmembers():
            if not member.isfile() or os.path.basename(member.name) != member.name:
                self.module.fail_json(msg="the bundle holds %r, which is no plain file; build it again" % member.name)
            tar.extract(member, directory)

    def _run(self, *command):
        code, out, err = self.module.run_command(list(command), umask=0o022)
        if code != 0:
            last = [line for line in (out + err).splitlines() if line.strip()][-3:]
            self.module.fail_json(msg="%s failed: %s" % (" ".join(command[:3]), " ".join(last)))

    def hidden(self):
        """Return what of the version the controller's own user cannot read: made under another umask."""
        paths = [self.root, self.versions]
        for directory, _, names in os.walk(self.version):
            paths += [directory] + [os.path.join(directory, name) for name in names]
        return statefile.hidden([path for path in paths if not os.path.islink(path)])

    def mend(self):
        """Let everybody read the version; return whether that changed anything."""
        hidden = self.hidden()
        if not self.module.check_mode:
            statefile.show(hidden)
        return bool(hidden)

    def switch(self):
        """Use the version from now on; return whether that is a change."""
        wanted = {self.link: self.version, self.module.params["command"]: os.path.join(self.link, "bin", "skedge")}
        changed = False
        for link, target in wanted.items():
            if os.path.islink(link) and os.readlink(link) == target:
                continue
            changed = True
            if not self.module.check_mode:
                self._replace_link(link, target)
        return changed

    def _replace_link(self, link, target):
        if os.path.exists(link) and not os.path.islink(link):
            self.module.fail_json(msg="%s is there and not ours; move it away" % link)
        if os.path.lexists(link + ".new"):
            os.unlink(link + ".new")
        os.symlink(target, link + ".new")
        os.replace(link + ".new", link)

    def unused(self):
        """Return the directories of versions that are not in use."""
        names = os.listdir(self.versions) if os.path.isdir(self.versions) else []
        return [os.path.join(self.versions, name) for name in sorted(names) if name not in (self.in_use(), self.digest)]


def main():
    module = AnsibleModule(
        argument_spec={
            "digest": {"type": "str", "required": True},
            "bundle": {"type": "path"},
            "archive": {"type": "path"},
            "root": {"type": "path", "default": "/opt/skedge"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "later_pythons": {"type": "list", "elements": "str", "default": []},
            "bcc": {"type": "str", "default": ""},
            "command": {"type": "path", "default": "/usr/local/bin/skedge"},
            "state": {"type": "str", "choices": ["present", "clean"], "default": "present"},
        },
        supports_check_mode=True,
    )
    os.umask(statefile.UMASK)
    release = Release(module)
    if module.params["state"] == "clean":
        unused = release.unused()
        for path in unused if not module.check_mode else []:
            shutil.rmtree(path)
        module.exit_json(changed=bool(unused), needed=False, unused=[])
    before = release.in_use()
    diff = {"before": before + "\n", "after": release.digest + "\n"}
    if not release.complete():
        if module.check_mode or not module.params["archive"]:
            module.exit_json(changed=module.check_mode, needed=True, diff=diff, unused=release.unused())
        release.install(module.params["archive"])
    mended = release.mend()
    switched = release.switch()
    module.exit_json(changed=switched or mended, needed=False, diff=diff, unused=release.unused())


if __name__ == "__main__":
    main()
