# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: network
short_description: Set the host's network up for links, with a way back
description:
  - Spreads flows over equal paths, reserves the ports of endpoints, and tells systemd-networkd (where it runs) to
    leave foreign routes alone. What was set before is recorded, so that O(state=absent) restores it, and a later
    version that no longer needs a setting.
  - Before it changes anything it arms a timer on the host that takes the step back. The control node cancels it with
    O(state=confirmed) once it has reached the host again.
options:
  state:
    description:
      - V(present) makes the changes and arms the timer, V(confirmed) cancels the timer, V(absent) restores what was.
    type: str
    choices: [present, confirmed, absent]
    default: present
  reserved_ports:
    description: Ports that the kernel must not give to other programs as source ports, such as V(61000-65535).
    type: str
    default: 61000-65535
  revert_s:
    description: After so many seconds without confirmation the host takes the step back. 0 arms no timer.
    type: int
    default: 60
  record:
    description: File that holds what was set before, root's own.
    type: path
    default: /var/lib/skedge-deploy/network.json
attributes:
  check_mode:
    description: The answer comes from the same comparison as the change.
    support: full
  diff_mode:
    description: Shows every setting that changes.
    support: full
author:
  - The skedge authors
"""

EXAMPLES = r"""
- name: Set the host's network up
  skedge.edge.network:
    revert_s: 60
  register: network

- name: Keep it
  skedge.edge.network:
    state: confirmed
"""

RETURN = r"""
armed:
  description: Whether a timer runs that takes the step back.
  returned: success
  type: bool
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skedge.edge.plugins.module_utils import hostnetwork as net

SYSCTL_FILE = "/etc/sysctl.d/60-skedge.conf"
NETWORKD_FILE = "/etc/systemd/networkd.conf.d/60-skedge.conf"
UNIT = "skedge-network-revert"
SCRIPT = "/run/skedge-network-revert.sh"


def read_file(path):
    """Return a file's text, or None."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def write_file(path, text, mode):
    """Write a file, making its directory."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with os.fdopen(os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        file.write(text)
    os.replace(path + ".new", path)


def remove_file(path):
    """Remove a file that may be gone already."""
    if os.path.lexists(path):
        os.unlink(path)


class Network:
    """The step on one host."""

    def __init__(self, module):
        self.module = module
        self.params = module.params
        self.uses_networkd = self._run("systemctl", "is-active", "--quiet", "systemd-networkd") == 0

    def _run(self, *command):
        return self.module.run_command(list(command))[0]

    def present(self):
        """Make what differs as it should be."""
        values = self._values()
        recorded = json.loads(read_file(self.params["record"]) or "{}")
        written = net.parse_file(read_file(SYSCTL_FILE) or "")
        obsolete = net.obsolete(written, values, recorded, net.read_sysctl)
        before = {key: net.read_sysctl(key) for key in (*values, *obsolete)}
        files = {SYSCTL_FILE: net.render(values)}
        if self.uses_networkd:
            files[NETWORKD_FILE] = net.NETWORKD
        files_before = {path: read_file(path) for path in files}
        changes = {key: value for key, value in values.items() if not self._same(key, before[key], value)}
        changes.update(obsolete)
        new_files = {path: text for path, text in files.items() if files_before[path] != text}
        if not changes and not new_files:
            self._exit(False, before, before)
        if self.module.check_mode:
            self._exit(True, before, {**before, **changes}, new_files)
        networkd = NETWORKD_FILE in new_files
        taken_back = [*new_files, self.params["record"]]
        script = net.revert_script(
            {key: before[key] for key in changes},
            {path: read_file(path) for path in taken_back},
            networkd,
            os.path.dirname(self.params["record"]),
        )
        armed = self._arm(script)
        self._record({**before, **recorded}, without=set(written) - set(values))
        for path, text in new_files.items():
            write_file(path, text, 0o644)
        for key, value in changes.items():
            self._set(key, value)
        if networkd:
            self._run("systemctl", "restart", "systemd-networkd")
        self._exit(True, before, {**before, **changes}, new_files, armed=armed)

    def _values(self):
        try:
            return net.wanted(self.params["reserved_ports"], net.read_sysctl)
        except ValueError:
            text = self.params["reserved_ports"]
            self.module.fail_json(
                msg="skedge_reserved_ports: %r is not a list of ports; give one such as 61000-65535" % text
            )

    def _same(self, key, now, wanted):
        if now is None:
            self.module.fail_json(msg="the kernel has no %s; boot the distribution's own kernel" % key)
        return net.parse_ports(now) == net.parse_ports(wanted) if key == net.RESERVED else now == wanted

    def _set(self, key, value):
        try:
            with open(net.path_of(key), "w") as file:
                file.write(value + "\n")
        except OSError as error:
            self.module.fail_json(
                msg="%s cannot be set to %s (%s); in a container, make /proc/sys/net writable"
                % (key, value, error.strerror)
            )

    def _record(self, before, without):
        """Keep what was set before the first change, but for what is no longer ours."""
        kept = {key: value for key, value in before.items() if key not in without}
        os.makedirs(os.path.dirname(self.params["record"]), mode=0o700, exist_ok=True)
        write_file(self.params["record"], json.dumps(kept, indent=1) + "\n", 0o600)

    def _arm(self, script):
        seconds = self.params["revert_s"]
        if not seconds:
            return False
        self._disarm()
        write_file(SCRIPT, script, 0o700)
        command = [
            "systemd-run",
            "--quiet",
            "--collect",
            "--unit=" + UNIT,
            "--on-active=%d" % seconds,
            "--timer-property=AccuracySec=1s",
            SCRIPT,
        ]
        code, _, err = self.module.run_command(command)
        if code != 0:
            remove_file(SCRIPT)
            self.module.fail_json(
                msg="the timer that takes the network step back cannot be set (%s); nothing was changed" % err.strip()
            )
        return True

    def _disarm(self):
        return self._run("systemctl", "stop", UNIT + ".timer")

    def confirmed(self):
        """Cancel the timer; fail when it has run already."""
        armed = self._run("systemctl", "is-active", "--quiet", UNIT + ".timer") == 0
        if not armed and os.path.exists(SCRIPT) and not self.module.check_mode:
            remove_file(SCRIPT)
            seconds = self.params["revert_s"]
            self.module.fail_json(
                msg="the host has taken its network step back, as it was not confirmed within %d s; look why the "
                "control node lost the host, or give a larger skedge_network_revert_s" % seconds
            )
        if armed and not self.module.check_mode:
            self._disarm()
            remove_file(SCRIPT)
        self.module.exit_json(changed=armed, armed=False)

    def absent(self):
        """Restore what was recorded."""
        before = json.loads(read_file(self.params["record"]) or "{}")
        values = {key: value for key, value in before.items() if value is not None and net.read_sysctl(key) is not None}
        now = {key: net.read_sysctl(key) for key in values}
        changes = {key: value for key, value in values.items() if now[key] != value}
        gone = [path for path in (SYSCTL_FILE, NETWORKD_FILE, self.params["record"]) if os.path.exists(path)]
        if not self.module.check_mode:
            for path in gone:
                remove_file(path)
            for key, value in reversed(list(changes.items())):
                self._set(key, value)
            if NETWORKD_FILE in gone:
                self._run("systemctl", "restart", "systemd-networkd")
            self._remove_if_empty(os.path.dirname(NETWORKD_FILE), os.path.dirname(self.params["record"]))
        self._exit(bool(gone or changes), now, {**now, **changes}, dict.fromkeys(gone, ""))

    def _remove_if_empty(self, *directories):
        for directory in directories:
            if os.path.isdir(directory) and not os.listdir(directory):
                os.rmdir(directory)

    def _exit(self, changed, before, after, files=None, armed=False):
        diff = [
            {
                "before_header": "sysctl",
                "after_header": "sysctl",
                "before": net.render(before),
                "after": net.render(after),
            }
        ]
        for path, text in (files or {}).items():
            diff.append({"before_header": path, "after_header": path, "before": read_file(path) or "", "after": text})
        if not self.module.check_mode and changed:
            diff = diff[:1]
        self.module.exit_json(changed=changed, armed=armed, diff=diff)


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "confirmed", "absent"], "default": "present"},
            "reserved_ports": {"type": "str", "default": "61000-65535"},
            "revert_s": {"type": "int", "default": 60},
            "record": {"type": "path", "default": "/var/lib/skedge-deploy/network.json"},
        },
        supports_check_mode=True,
    )
    getattr(Network(module), module.params["state"])()


if __name__ == "__main__":
    main()
