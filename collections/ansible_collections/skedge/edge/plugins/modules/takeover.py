# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: takeover
short_description: Move listeners' ports from the units that serve them to skedge, and back
description:
  - A listener needs no socket, so skedge serves its port while the unit still does. O(state=present) waits until the
    controller has every such listener in the kernel, with a workload that may be chosen, and only then stops the unit
    and disables it. It then connects once to each TCP listener; if that fails, the unit is started again.
  - What was stopped is recorded on the host, so that O(state=absent) can enable and start it again. It waits until
    the unit listens, so that the listener can be withdrawn afterwards without a gap.
options:
  listeners:
    description: The site's listeners; those with C(takeover) name the unit.
    type: list
    elements: dict
    default: []
  state:
    description:
      - V(possible) only waits until every listener that is to take over would have a workload, which it must before the
        controller gets it. V(present) takes ports over.
      - V(returned) gives ports back that no listener is on any more, V(absent) gives all back.
    type: str
    choices: [possible, present, returned, absent]
    default: present
  wait_s:
    description: So many seconds the unit's open connections may take to end, before it is stopped and cuts the others.
    type: int
    default: 10
  timeout_s:
    description: Seconds until a listener must serve, or a unit must listen again.
    type: int
    default: 60
  record:
    description: File that holds what was stopped, root's own.
    type: path
    default: /var/lib/skedge-deploy/takeover.json
  socket:
    description: The controller's local API.
    type: path
    default: /run/skedge/api.sock
attributes:
  check_mode:
    description: Tells which units would be stopped or started.
    support: full
  diff_mode:
    description: Units have no useful text form.
    support: none
author:
  - The skedge authors
"""

EXAMPLES = r"""
- name: Stop the units whose ports are the listeners' now
  skedge.edge.takeover:
    listeners:
      - {service: web, port: 8080, takeover: haproxy.service}
"""

RETURN = r"""
units:
  description: Units that were stopped, or started again.
  returned: success
  type: list
  elements: str
cut:
  description: Connections that were still open when their unit was stopped.
  returned: success
  type: int
"""

import socket
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skedge.edge.plugins.module_utils import sockets, statefile, takeover
from ansible_collections.skedge.edge.plugins.module_utils.api import ApiError, ask

POLL_S = 0.2
ENDED_POLL_S = 1.0  # looks through all processes
CONNECT_S = 3.0


def read_file(path):
    """Return a file's text, or nothing."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


class Units:
    """The host's systemd units."""

    def __init__(self, module):
        self.module = module

    def show(self, unit):
        """Return whether a unit is there, is active and is enabled."""
        command = ["systemctl", "show", "--property=LoadState,ActiveState,UnitFileState", unit]
        out = self.module.run_command(command)[1]
        found = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
        return {
            "there": found.get("LoadState") in ("loaded", "bad-setting", "error"),
            "active": found.get("ActiveState") in ("active", "reloading", "activating"),
            "enabled": found.get("UnitFileState") == "enabled",
        }

    def do(self, *words):
        """Run systemctl; return what it complained about."""
        code, out, err = self.module.run_command(["systemctl", *words])
        return "" if code == 0 else ((err or out).strip().splitlines() or ["exit %d" % code])[-1]


class Takeover:
    """What is to be done on one host."""

    def __init__(self, module):
        self.module = module
        self.params = module.params
        self.units = Units(module)
        self.healed = False
        self.record = self._read()

    # ---- to skedge ----

    def possible(self):
        """Wait until each listener that is to take over would have a workload."""
        wanted, todo = self._todo()[:2]
        if todo and not self.module.check_mode:
            listeners = [listener for unit in todo for listener in wanted[unit]]
            self._wait(lambda: takeover.without_workload(listeners, self._ask), todo)
        self.module.exit_json(changed=False, units=todo, cut=0)

    def _todo(self):
        """Return the listeners by unit, the units that are to be stopped, and the state of all."""
        wanted = takeover.by_unit(self.params["listeners"])
        states = {unit: self.units.show(unit) for unit in wanted}
        todo = [unit for unit, now in states.items() if now["there"] and (now["active"] or now["enabled"])]
        return wanted, todo, states

    def present(self):
        """Stop every unit that a listener takes its port over from."""
        wanted, todo, states = self._todo()
        if not todo or self.module.check_mode:
            self._exit(todo, "would stop and disable")
        listeners = [listener for unit in todo for listener in wanted[unit]]
        self._wait(lambda: self._not_served(listeners), todo)
        addresses = self._addresses(listeners)
        for unit in todo:
            self._remember(unit, states[unit], wanted[unit])
        cut = self._wait_ended(listeners, todo)
        failed = [text for unit in todo for text in self._stop(unit)] or unanswered(addresses)
        if failed:
            self._undo(todo, "; ".join(failed))
        self._exit(todo, "stopped and disabled", cut)

    def _wait(self, why_not, units):
        """Wait until nothing speaks against it; until then nothing is stopped."""
        end = time.monotonic() + self.params["timeout_s"]
        while True:
            try:
                why = why_not()
            except ApiError as error:
                why = str(error)
            if not why:
                return
            if time.monotonic() > end:
                self.module.fail_json(msg="%s; %s goes on serving, nothing was stopped" % (why, ", ".join(units)))
            time.sleep(POLL_S)

    def _rows(self):
        return self._ask({"op": "show", "what": "listeners"})["rows"]["listeners"]

    def _not_served(self, listeners):
        rows, steps = self._rows(), self._ask({"op": "plan"})["plan"]["steps"]
        reasons = ((one["port"], takeover.is_ready(takeover.find_row(one, rows), steps)) for one in listeners)
        return next(("the listener on port %d cannot take over: %s" % (port, why) for port, why in reasons if why), "")

    def _addresses(self, listeners):
        """Return an address and the port of each TCP listener."""
        found = [(one, takeover.find_row(one, self._rows())) for one in listeners]
        return [(any_of(row["addresses"]), one["port"]) for one, row in found if row["protocol"] == "tcp"]

    def _ask(self, request):
        return ask(self.params["socket"], request, 10.0)

    def _wait_ended(self, listeners, units):
        """Wait until connections that the units have open are closed; return how many are not.

        Sockets of a workload may have the same local port: those of clients of the LAN that skedge sent to it.
        """
        ports = {listener["port"] for listener in listeners if listener.get("protocol", "tcp") == "tcp"}
        end = time.monotonic() + self.params["wait_s"]
        while True:
            tables = [read_file("/proc/net/" + name) for name in ("tcp", "tcp6")]
            inodes = [inode for table in tables for inode in takeover.parse_connections(table, ports)]
            programs = sockets.programs() if inodes else {}
            of = sockets.units(programs, takeover.parse_unit)
            count = sum(of.get(programs.get(inode, ("", 0))[1]) in units for inode in inodes)
            if not count or time.monotonic() > end:
                return count
            time.sleep(ENDED_POLL_S)

    def _stop(self, unit):
        said = self.units.do("stop", unit)
        if not said and self.units.show(unit)["enabled"]:
            said = self.units.do("disable", "--quiet", unit)
        return ["%s cannot be stopped (%s)" % (unit, said)] if said else []

    def _undo(self, units, why):
        """Start again what was stopped, and fail. What does not start stays in the record, for the next try."""
        for unit in units:
            said = self._start(unit, self.record[unit])
            if said:
                why += "; %s" % said[0]
            else:
                self._forget([unit])
                why += "; %s serves again" % unit
        self.module.fail_json(msg=why)

    # ---- and back ----

    def returned(self):
        """Give back the ports that no listener is on any more."""
        self._give_back(takeover.returned(self.params["listeners"], self.record))

    def absent(self):
        """Give all ports back."""
        self._give_back(sorted(self.record))

    def _give_back(self, units):
        if not units or self.module.check_mode:
            self._exit(units, "would enable and start")
        for unit in units:
            said = self._start(unit, self.record[unit])
            if said:
                self.module.fail_json(
                    msg="%s; repair it (skedge serves its port meanwhile), or remove %s to do without it"
                    % (said[0], self.params["record"])
                )
        self._forget(units)
        self._exit(units, "enabled and started")

    def _start(self, unit, was):
        """Make a unit what it was, and wait until it listens where it did; return what went wrong."""
        if not self.units.show(unit)["there"]:
            return []  # it was removed from the host since
        said = self.units.do("enable", "--quiet", unit) if was["enabled"] else ""
        if was["active"]:
            said = self.units.do("start", unit) or said or self._wait_listening(unit)
        return ["%s does not start again (%s)" % (unit, said)] if said else []

    def _wait_listening(self, unit):
        ports = {takeover.port_of(word) for word in self.record.get(unit, {}).get("served", [])}
        end = time.monotonic() + self.params["timeout_s"]
        while True:
            missing = ports - {(one.protocol, one.port) for one in sockets.bound_sockets()}
            if not missing:
                return ""
            if time.monotonic() > end:
                return "it does not listen on port %s" % ", ".join("%d/%s" % (p, kind) for kind, p in sorted(missing))
            time.sleep(POLL_S)

    # ---- the record ----

    def _read(self):
        """Return the record; one that was cut off is written anew from what the listeners and the units show."""
        record = statefile.read_record(self.params["record"])
        if record is not None:
            return record
        states = {unit: self.units.show(unit) for unit in takeover.by_unit(self.params["listeners"])}
        record = takeover.rebuilt(self.params["listeners"], states)
        what = "%s; a unit whose listeners are gone from the inventory is to be started by hand" % (
            "units that skedge took over from: %s" % ", ".join(sorted(record)) if record else "no unit is taken over"
        )
        self.module.warn(statefile.said(self.params["record"], what))
        self.healed = True
        if not self.module.check_mode:
            self.record = record
            self._write()
        return record

    def _remember(self, unit, now, listeners):
        """Write down what a unit was before it is touched; what was so before the first time holds."""
        programs = sockets.programs()
        bound = sockets.bound_sockets()
        own = takeover.of_unit(unit, bound, programs, sockets.units(programs, takeover.parse_unit))
        words = {takeover.key(listener) for listener in listeners}
        served = {takeover.key(one) for one in listeners if any(takeover.serves(one, it) for it in own)}
        was = self.record.get(unit, {"enabled": False, "active": False, "listeners": [], "served": []})
        self.record[unit] = {
            "enabled": was["enabled"] or now["enabled"],
            "active": was["active"] or now["active"],
            "listeners": sorted({*was["listeners"], *words}),
            "served": sorted({*was["served"], *served}),
        }
        self._write()

    def _forget(self, units):
        self.record = {unit: was for unit, was in self.record.items() if unit not in units}
        self._write()

    def _write(self):
        path = self.params["record"]
        if self.record:
            statefile.write_record(path, self.record)
        else:
            statefile.remove(path)

    def _exit(self, units, what, cut=0):
        result = {"units": units, "cut": cut}
        if units:
            result["msg"] = "%s: %s" % (what, ", ".join(units))
        if cut:
            self.module.warn("%d connections of %s were open after %d s and were cut; a larger skedge_takeover_wait_s "
                             "gives them more time" % (cut, ", ".join(units), self.params["wait_s"]))  # fmt: skip
        self.module.exit_json(changed=bool(units) or self.healed, **result)


def any_of(addresses):
    """Return one of a listener's addresses, best one that clients of the LAN use."""
    return min(addresses, key=lambda text: (":" in text, text.startswith("127.")))


def unanswered(addresses):
    """Connect once to each address and port, as a client of the host does; return what failed."""
    found = []
    for address, port in addresses:
        try:
            socket.create_connection((address, port), timeout=CONNECT_S).close()
        except OSError as error:
            found.append("nothing answers at %s port %d (%s)" % (address, port, error.strerror or error))
    return found


def main():
    module = AnsibleModule(
        argument_spec={
            "listeners": {"type": "list", "elements": "dict", "default": []},
            "state": {"type": "str", "choices": ["possible", "present", "returned", "absent"], "default": "present"},
            "wait_s": {"type": "int", "default": 10},
            "timeout_s": {"type": "int", "default": 60},
            "record": {"type": "path", "default": "/var/lib/skedge-deploy/takeover.json"},
            "socket": {"type": "path", "default": "/run/skedge/api.sock"},
        },
        supports_check_mode=True,
    )
    getattr(Takeover(module), module.params["state"])()


if __name__ == "__main__":
    main()
