# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""What the controller's unit needs, so that what is installed is what runs. PRIVATE to the collection."""

from __future__ import annotations

# Times are in microseconds since 1970; StateChangeTimestamp is also that of a reload.
PROPERTIES = ("ActiveState", "UnitFileState", "InactiveExitTimestamp", "StateChangeTimestamp")
RUNNING = ("active", "reloading")  # one that systemd starts again and again is activating; to start it is to hear why
SAID = {
    "restart": "An earlier run was broken off before it restarted the controller",
    "reload": "An earlier run was broken off before the controller took its configuration over",
}


def parse(text):
    """Return busctl's answer by property: lines such as ``s "active"`` and ``t 1700000000000000``."""
    values = [line.split(" ", 1)[-1].strip('"') for line in text.splitlines()]
    return {name: values[number] for number, name in enumerate(PROPERTIES)}


def actions(state, code_s, configuration_s):
    """Return what systemd is to be asked for, in that order; what was installed when is in seconds since 1970.

    One that starts or stops takes over what there is.
    """
    found = []
    if state["ActiveState"] == "active":
        if code_s * 1e6 > int(state["InactiveExitTimestamp"]):
            found = ["restart"]
        elif configuration_s * 1e6 > int(state["StateChangeTimestamp"]):
            found = ["reload"]
    elif state["ActiveState"] not in RUNNING:
        found = ["start"]
    return found + ([] if state["UnitFileState"] == "enabled" else ["enable"])
