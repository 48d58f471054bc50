# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: survey
short_description: List what is on a host, and what of it is skedge's
description:
  - Lists files, units, users, devices, addresses, routes, rules, nftables, pinned eBPF objects and
    sysctls of a host, as lines that can be compared before an installation and after a removal.
  - RV(ours) holds the lines that are recognisably skedge's, which C(remove.yml) leaves none of.
options:
  snapshot:
    description: Whether to return RV(snapshot), everything that is there. Takes a few seconds.
    type: bool
    default: false
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: Changes nothing in any mode.
    support: none
author:
  - The skedge authors
"""

EXAMPLES = r"""
- name: Nothing of skedge is left
  skedge.edge.survey:
  register: survey
  failed_when: survey.ours | length > 0
"""

RETURN = r"""
ours:
  description: What of skedge is on the host, one line each.
  returned: success
  type: list
  elements: str
snapshot:
  description: By kind, everything that is there, one line each.
  returned: when O(snapshot=true)
  type: dict
"""

import glob
import grp
import hashlib
import json
import os
import pwd

from ansible.module_utils.basic import AnsibleModule

OUR_PATHS = (
    "/etc/skedge", "/etc/systemd/system/skedge*", "/etc/systemd/system/*/skedge*", "/etc/sysctl.d/*skedge*",
    "/etc/systemd/networkd.conf.d/*skedge*", "/etc/modules-load.d/*skedge*", "/opt/skedge", "/usr/local/bin/skedge*",
    "/var/lib/skedge*", "/var/cache/skedge", "/run/skedge*", "/sys/fs/bpf/skedge*", "/etc/bash_completion.d/*skedge*",
    "/usr/local/share/man/man*/skedge*",
)  # fmt: skip
TREES = ("/etc", "/opt", "/usr/local", "/var/lib", "/lib/modules")
# What the system itself rewrites at any time.
NOISE = (
    "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-", "/etc/.pwd.lock",
    "/etc/ld.so.cache", "/etc/mtab", "/etc/resolv.conf", "/etc/machine-id", "/var/lib/systemd", "/var/lib/dbus",
    "/var/lib/apt", "/var/lib/dpkg", "/var/lib/private",
    "/var/lib/dhcp", "/var/lib/chrony", "/var/lib/logrotate", "/var/lib/misc",
)  # fmt: skip
OUR_TABLE = 7400
OUR_PROTOCOL = "74"


def files(trees):
    """Return a line for each file below the trees: path, mode, owner, and a hash of its content."""
    lines = []
    for tree in trees:
        for directory, names, leaves in os.walk(tree):
            names[:] = sorted(n for n in names if os.path.join(directory, n) not in NOISE and n != "__pycache__")
            for name in leaves + [n for n in names if os.path.islink(os.path.join(directory, n))]:
                path = os.path.join(directory, name)
                if path not in NOISE:
                    lines.append(describe(path))
            lines.append(describe(directory) + "/")
    return sorted(lines)


def describe(path):
    """Return a file as one line."""
    try:
        info = os.lstat(path)
        content = ""
        if os.path.islink(path):
            content = "-> " + os.readlink(path)
        elif os.path.isfile(path):
            with open(path, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()[:16]
        return "%s %o %d:%d %s" % (path, info.st_mode, info.st_uid, info.st_gid, content)
    except OSError as error:
        return "%s %s" % (path, error.strerror)


def sysctls():
    """Return the network settings that are not of a single device that comes and goes, nor counters."""
    lines = []
    for directory, _, names in os.walk("/proc/sys/net"):
        for name in names:
            path = os.path.join(directory, name)
            if (
                "/conf/sk-" in path
                or "/neigh/" in path
                or name in ("flush", "route/flush")
                or "nf_conntrack_count" in path
            ):
                continue
            try:
                with open(path) as file:
                    lines.append("%s = %s" % (path, file.read().strip()))
            except OSError:
                continue
    return sorted(lines)


class Survey:
    """What is on the host."""

    def __init__(self, module):
        self.module = module

    def _lines(self, *command):
        """Return what a command prints, line by line; nothing where the command is missing."""
        if not self.module.get_bin_path(command[0]):
            return []
        code, out = self.module.run_command(list(command))[:2]
        return [" ".join(line.split()) for line in out.splitlines() if line.strip()] if code == 0 else []

    def _json(self, *command):
        if not self.module.get_bin_path(command[0]):
            return []
        code, out = self.module.run_command(list(command))[:2]
        return json.loads(out) if code == 0 and out.strip() else []

    def addresses(self):
        """Return every device with its addresses."""
        return [
            "%s %s/%s" % (link["ifname"], item["local"], item["prefixlen"])
            for link in self._json("ip", "-j", "address")
            for item in link.get("addr_info", [])
        ]

    def devices(self):
        """Return every device's name."""
        return [link["ifname"] for link in self._json("ip", "-j", "link")]

    def routes(self):
        """Return every route of every table, without what changes by itself."""
        lines = []
        for family in ("-4", "-6"):
            for route in self._json("ip", "-j", "-d", family, "route", "show", "table", "all"):
                keys = ("type", "dst", "gateway", "via", "dev", "table", "protocol", "prefsrc", "metric")
                lines.append(" ".join("%s=%s" % (key, route[key]) for key in keys if key in route))
        return sorted(lines)

    def snapshot(self):
        """Return everything that is there, by kind."""
        return {
            "files": files(TREES),
            "units": [
                line
                for line in self._lines("systemctl", "list-unit-files", "--no-legend", "--plain")
                if "transient" not in line
            ],
            "users": sorted(user.pw_name for user in pwd.getpwall())
            + sorted(group.gr_name for group in grp.getgrall()),
            "devices": self.devices(),
            "addresses": self.addresses(),
            "routes": self.routes(),
            "rules": self._lines("ip", "rule") + self._lines("ip", "-6", "rule"),
            "nftables": self._lines("nft", "list", "ruleset"),
            "bpffs": sorted(os.path.join(d, n) for d, _, names in os.walk("/sys/fs/bpf") for n in names),
            "sysctls": sysctls(),
        }

    def ours(self):
        """Return what is recognisably skedge's."""
        found = ["file " + path for pattern in OUR_PATHS for path in sorted(glob.glob(pattern))]
        found += [
            "unit " + line.split()[0]
            for line in self._lines("systemctl", "list-units", "--all", "--no-legend", "--plain", "skedge*")
        ]
        found += ["user " + user.pw_name for user in pwd.getpwall() if user.pw_name == "skedge"]
        found += ["group " + group.gr_name for group in grp.getgrall() if group.gr_name == "skedge"]
        found += ["device " + name for name in self.devices() if name.startswith("sk-")]
        found += [
            "rule " + line
            for line in self._lines("ip", "rule") + self._lines("ip", "-6", "rule")
            if "lookup %d" % OUR_TABLE in line
        ]
        words = ("table=%d" % OUR_TABLE, "protocol=" + OUR_PROTOCOL)
        found += ["route " + line for line in self.routes() if set(words) & set(line.split())]
        found += ["nftables " + line for line in self._lines("nft", "list", "tables") if "skedge" in line]
        return found


def main():
    module = AnsibleModule(argument_spec={"snapshot": {"type": "bool", "default": False}}, supports_check_mode=True)
    survey = Survey(module)
    result = {"ours": survey.ours()}
    if module.params["snapshot"]:
        result["snapshot"] = survey.snapshot()
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
