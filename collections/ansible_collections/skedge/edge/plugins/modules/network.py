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
  - Before it changes anything it arms a timer on the host that takes the step back, by a script beside the record that
    runs whatever the mount options are. The control node cancels it with O(state=confirmed) once it has reached the
    host again. What is said afterwards is what the script's own mark says.
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
  description: Whether a timer runs that takes the step back, be it of an earlier run.
  returned: success
  type: bool
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skedge.edge.plugins.module_utils import hostnetwork as net
from ansible_collections.skedge.edge.plugins.module_utils import statefile

SYSCTL_FILE = "/etc/sysctl.d/60-skedge.conf"
NETWORKD_FILE = "/etc/systemd/networkd.conf.d/60-skedge.conf"
UNIT = "skedge-network-revert"
SCRIPT_S = 60  # how long a script that is on its way is waited for


class Network:
    """The step on one host."""

    def __init__(self, module):
        self.module = module
        self.params = module.params
        self.record = self.params["record"]
        self.directory = os.path.dirname(self.record)
        self.script = os.path.join(self.directory, UNIT + ".sh")
        self.mark = os.path.join(self.directory, UNIT + ".mark")
        self.uses_networkd = self._run("systemctl", "is-active", "--quiet", "systemd-networkd") == 0

    def _run(self, *command):
        return self.module.run_command(list(command))[0]

    def present(self):
        """Make what differs as it should be."""
        values = self._values()
        written = net.parse_file(statefile.read_text(SYSCTL_FILE) or "")
        recorded, healed = self._recorded(written)
        obsolete = net.obsolete(written, values, recorded, net.read_sysctl)
        before = {key: net.read_sysctl(key) for key in (*values, *obsolete)}
        files = {SYSCTL_FILE: net.render(values)}
        if self.uses_networkd:
            files[NETWORKD_FILE] = net.NETWORKD
        files_before = {path: statefile.read_text(path) for path in files}
        changes = {key: value for key, value in values.items() if not self._same(key, before[key], value)}
        changes.update(obsolete)
        new_files = {path: text for path, text in files.items() if files_before[path] != text}
        hidden = statefile.hidden([os.path.dirname(path) for path in files] + list(files))
        armed = self._runs(".timer")  # of a run that was broken off before it confirmed
        if (changes or new_files) and not self.module.check_mode:
            armed = self._arm(self._script({key: before[key] for key in changes}, new_files))
        if changes or new_files or healed:
            self._record({**before, **recorded}, without=set(written) - set(values))
        if not self.module.check_mode:
            for path, text in new_files.items():
                statefile.write_text(path, text, 0o644)
            statefile.show(hidden)
            for key, value in changes.items():
                self._set(key, value)
            if NETWORKD_FILE in {*new_files, *hidden} or os.path.dirname(NETWORKD_FILE) in hidden:
                self._run("systemctl", "restart", "systemd-networkd")
        changed = bool(changes or new_files or hidden or healed)
        self._exit(changed, before, {**before, **changes}, new_files, armed=armed)

    def _recorded(self, written):
        """Return what was set before the first deployment, and whether it had to be found out anew."""
        recorded = statefile.read_record(self.record)
        if recorded is not None:
            return recorded, False
        recorded = net.rebuilt(written, net.read_sysctl, self.params["reserved_ports"])
        what = "what was set before skedge is taken to be %s" % (
            ", ".join("%s = %s" % item for item in sorted(recorded.items())) or "what is set now"
        )
        self.module.warn(statefile.said(self.record, what))
        return recorded, True

    def _script(self, previous, new_files):
        """Return the script that takes the step back."""
        files = {path: statefile.read_text(path) for path in [*new_files, self.record]}
        return net.revert_script(previous, files, NETWORKD_FILE in new_files, self.mark)

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
        if not self.module.check_mode:
            statefile.write_record(self.record, kept)

    def _arm(self, script):
        seconds = self.params["revert_s"]
        if not seconds:
            return False
        happened = self._disarm()
        if happened:
            self.module.warn("at the last deployment, " + happened)
        statefile.write_text(self.script, script, 0o600, directory_mode=0o700)
        # By the shell, not by itself: the file system may be mounted noexec, as /run is on Debian and Ubuntu.
        command = [
            "systemd-run",
            "--quiet",
            "--collect",
            "--unit=" + UNIT,
            "--on-active=%d" % seconds,
            "--timer-property=AccuracySec=1s",
            "/bin/sh",
            self.script,
        ]
        code, _, err = self.module.run_command(command)
        if code != 0:
            self._forget()
            self.module.fail_json(
                msg="the timer that takes the network step back cannot be set (%s); nothing was changed" % err.strip()
            )
        return True

    def _disarm(self):
        """Stop the timer, let a script that runs come to its end, and forget both; return what it says it did."""
        self._run("systemctl", "stop", UNIT + ".timer")
        end = time.monotonic() + SCRIPT_S
        while self._runs(".service") and time.monotonic() < end:
            time.sleep(0.2)
        happened = net.taken_back(statefile.read_text(self.mark), self.params["revert_s"])
        self._forget()
        return happened

    def _runs(self, kind):
        return self._run("systemctl", "is-active", "--quiet", UNIT + kind) == 0

    def _forget(self):
        for path in (self.script, self.mark):
            statefile.remove(path)
        statefile.remove_if_empty(self.directory)

    def confirmed(self):
        """Cancel the timer; fail when the host has taken the step back, which only the script's mark can tell."""
        armed = self._runs(".timer")
        there = os.path.exists(self.script)
        if self.module.check_mode:
            self.module.exit_json(changed=armed or there, armed=False)
        happened = self._disarm()
        if happened:
            self.module.fail_json(msg=happened)
        if there and not armed:
            self.module.warn(
                "the timer that would have taken the network step back is gone (was the host booted again?); "
                "nothing was taken back, and the step is kept"
            )
        self.module.exit_json(changed=armed or there, armed=False)

    def absent(self):
        """Restore what was recorded."""
        before = self._recorded(net.parse_file(statefile.read_text(SYSCTL_FILE) or ""))[0]
        values = {key: value for key, value in before.items() if value is not None and net.read_sysctl(key) is not None}
        now = {key: net.read_sysctl(key) for key in values}
        changes = {key: value for key, value in values.items() if now[key] != value}
        ours = (SYSCTL_FILE, NETWORKD_FILE, self.record, self.script, self.mark)
        gone = [path for path in ours if os.path.exists(path)]
        if not self.module.check_mode:
            self._disarm()
            for path in gone:
                statefile.remove(path)
            for key, value in reversed(list(changes.items())):
                self._set(key, value)
            if NETWORKD_FILE in gone:
                self._run("systemctl", "restart", "systemd-networkd")
            statefile.remove_if_empty(os.path.dirname(NETWORKD_FILE), self.directory)
        self._exit(bool(gone or changes), now, {**now, **changes}, dict.fromkeys(gone, ""))

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
            diff.append(
                {"before_header": path, "after_header": path, "before": statefile.read_text(path) or "", "after": text}
            )
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
    os.umask(statefile.UMASK)
    getattr(Network(module), module.params["state"])()


if __name__ == "__main__":
    main()
