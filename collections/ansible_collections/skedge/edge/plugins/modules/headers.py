# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: headers
short_description: Use the distribution's kernel headers where the running kernel has none of its own
description:
  - The loader compiles against stable types only, so that the headers of another kernel of the distribution serve.
  - Links C(build) and C(source) below C(/lib/modules/) to them and remembers that these links are its own.
options:
  state:
    description: V(absent) removes the links, and the directory where it was made for them.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Tells whether links would be made or removed.
    support: full
  diff_mode:
    description: Shows the links.
    support: full
author:
  - The skedge authors
"""

EXAMPLES = r"""
- name: Use the distribution's headers where the kernel has none
  skedge.edge.headers:
"""

RETURN = r"""
links:
  description: The links that are ours, by path.
  returned: success
  type: dict
"""

import glob
import json
import os
import platform
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skedge.edge.plugins.module_utils import statefile

MODULES = "/lib/modules"
SOURCES = ("/usr/src/linux-headers-*", "/usr/src/kernels/*")
MARK = ".skedge"


WHOLE = {"directory": True, "links": ["build", "source"]}


def choose(trees):
    """Return {link: target} for the newest headers among the directories below /usr/src; empty when there are none.

    Debian splits them: ``build`` is the architecture's tree, ``source`` the common one beside it.
    """
    builds = [tree for tree in trees if not tree.endswith("-common")]
    if not builds:
        return {}
    build = max(builds, key=_version)
    commons = [tree for tree in trees if tree.endswith("-common") and _version(tree) == _version(build)]
    return {"build": build, "source": commons[0] if commons else build}


def _version(tree):
    """Return the release's numbers, [6, 1, 0, 25] of ``6.1.0-25-amd64``, [6, 12, 118] of ``6.12.118+deb13-common``."""
    release = os.path.basename(tree).replace("linux-headers-", "")
    return [int(number) for number in re.findall(r"\d+", re.split("[A-Za-z_]", release)[0])]


def main():
    module = AnsibleModule(
        argument_spec={"state": {"type": "str", "choices": ["present", "absent"], "default": "present"}},
        supports_check_mode=True,
    )
    os.umask(statefile.UMASK)
    if module.params["state"] == "present":
        present(module)
    absent(module)


def present(module):
    """Make the links where the kernel has no headers."""
    directory = os.path.join(MODULES, platform.release())
    wanted = choose(sorted(tree for pattern in SOURCES for tree in glob.glob(pattern)))
    if os.path.exists(os.path.join(directory, "build")) or not wanted:
        module.exit_json(changed=False, links={})
    if not module.check_mode:
        mark = {"directory": not os.path.isdir(directory), "links": sorted(wanted)}
        statefile.write_text(os.path.join(directory, MARK), json.dumps(mark), 0o644)
        for name, target in wanted.items():
            path = os.path.join(directory, name)
            if os.path.islink(path):
                os.unlink(path)  # it leads nowhere
            os.symlink(target, path)
    after = "".join("%s -> %s\n" % (os.path.join(directory, name), target) for name, target in wanted.items())
    module.exit_json(changed=True, links=wanted, diff={"before": "", "after": after})


def absent(module):
    """Remove the links that are ours, of any kernel."""
    marks = sorted(glob.glob(os.path.join(MODULES, "*", MARK)))
    removed = ""
    for path in marks:
        directory = os.path.dirname(path)
        mark = statefile.read_record(path) or WHOLE  # of one that was cut off as much as it can have been
        for name in [*mark["links"], MARK]:
            link = os.path.join(directory, name)
            if name == MARK or os.path.islink(link):
                removed += link + "\n"
                if not module.check_mode:
                    os.unlink(link)
        if mark["directory"] and not module.check_mode and not os.listdir(directory):
            os.rmdir(directory)
    module.exit_json(changed=bool(marks), links={}, diff={"before": removed, "after": ""})


if __name__ == "__main__":
    main()
