# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Taking listeners' ports over from units that serve them: what is whose, and what was done. PRIVATE to the collection.

Pure. A listener needs no socket, so skedge and the unit can serve one port at the same time; where both do, new
connections go to skedge. That is why a port changes hands without a gap: the new side first, then the old one goes.

The record says what was stopped: ``{unit: {"enabled": bool, "active": bool, "listeners": ["tcp * 8080", …],
"served": […]}}``: the listeners that took over from it, and those of them whose ports it served.
"""

from __future__ import annotations

FIRST_SOURCE_PORT = 32768  # UDP sockets from here on are clients


def key(listener):
    """Return a listener's protocol, address and port as one word of the record."""
    return "%s %s %d" % (listener.get("protocol", "tcp"), listener.get("address", "*"), listener["port"])


def serves(listener, bound):
    """Return whether a socket would get a listener's clients."""
    own = (listener.get("protocol", "tcp"), listener["port"])
    return (bound.protocol, bound.port) == own and bound.overlaps(listener.get("address", "*"))


def by_unit(listeners):
    """Return {unit: its listeners} of those that are to be taken over."""
    found = {}
    for listener in listeners:
        if listener.get("takeover"):
            found.setdefault(listener["takeover"], []).append(listener)
    return found


def of_unit(unit, bound, programs, units):
    """Return the sockets of a unit; ``units`` are {pid: unit}."""
    return [one for one in bound if units.get(programs.get(one.inode, ("", 0))[1]) == unit]


def yielding(listeners, bound, programs, units):
    """Return the units whose ports are yet to be taken over."""
    return [
        unit
        for unit, own in by_unit(listeners).items()
        if any(serves(listener, one) for listener in own for one in of_unit(unit, bound, programs, units))
    ]


def units_at(server, bound, programs, units):
    """Return the services that listen at a connector's address and port, or a listener's."""
    found = [units.get(programs.get(one.inode, ("", 0))[1], "") for one in bound if serves(_at(server), one)]
    return [unit for unit in dict.fromkeys(found) if unit.endswith(".service")]


def _at(server):
    return {**server, "address": server.get("address", server.get("host", "*"))}


def holders(listeners, bound, programs, units):
    """Return {name of a program, and of its unit: port} of those that have a listener's port."""
    found = {}
    for listener in listeners:
        for one in bound:
            if serves(listener, one) and one.inode in programs:
                name, pid = programs[one.inode]
                for word in (name, units.get(pid, "").partition(".service")[0]):
                    found.setdefault(word, listener["port"])
    return {word: port for word, port in found.items() if word and not word.endswith(".scope")}


def held(listeners, bound, programs, units, record):
    """Return the numbers of the listeners that the controller must not have yet.

    Their unit serves the port, and skedge never did: until the site is in sync it may know no workload for them.
    """
    found = []
    for number, listener in enumerate(listeners):
        unit = listener.get("takeover")
        taken = key(listener) in record.get(unit, {}).get("listeners", [])
        if unit and not taken and any(serves(listener, one) for one in of_unit(unit, bound, programs, units)):
            found.append(number)
    return found


def returned(listeners, record):
    """Return the units that get their ports back, because no listener is on any of them any more."""
    ports = {(listener.get("protocol", "tcp"), listener["port"]) for listener in listeners}
    return sorted(unit for unit, was in record.items() if not ports & {port_of(word) for word in was["listeners"]})


def rebuilt(listeners, states):
    """Return a record in the place of one that is lost: a unit that neither runs nor would start was stopped by us.

    Args:
        states: {unit: {"there": bool, "active": bool, "enabled": bool}}.
    """
    was = {"enabled": True, "active": True}
    return {
        unit: {**was, "listeners": sorted(map(key, own)), "served": sorted(map(key, own))}
        for unit, own in by_unit(listeners).items()
        if states[unit]["there"] and not states[unit]["active"] and not states[unit]["enabled"]
    }


def port_of(word):
    """Return protocol and port of a word of the record."""
    protocol, _, port = word.split()
    return protocol, int(port)


def problems(listeners, bound, programs, units):
    """Return what stopping a unit would take away without giving it to a listener."""
    found = []
    for unit, own in by_unit(listeners).items():
        sockets = of_unit(unit, bound, programs, units)
        if not any(serves(listener, one) for listener in own for one in sockets):
            continue  # nothing is taken over
        lost = sorted({shown(one) for one in sockets if _is_lost(one, own)})
        if lost:
            found.append(
                "%s, whose port a listener takes over, also serves %s, which would end with it; give listeners with "
                "takeover for these too, move them to another unit, or accept it with skedge_preflight_skip: [takeover]"
                % (unit, ", ".join(lost))
            )
    return found


def _is_lost(bound, listeners):
    client = bound.protocol == "udp" and bound.port >= FIRST_SOURCE_PORT
    return not client and not any(serves(listener, bound) for listener in listeners)


def shown(bound):
    """Return a socket as people write it."""
    address = "[%s]" % bound.address if ":" in bound.address else bound.address
    return "%s:%d/%s" % (address, bound.port, bound.protocol)


def is_ready(row, steps):
    """Return why a listener does not serve yet, or nothing.

    Args:
        row: the controller's own row of the listener, or None.
        steps: what the controller would still change in the kernel.
    """
    if row is None or not row.get("addresses"):
        return "the controller does not have it yet"
    if not row.get("healthy_workloads"):
        return "it has no workload that may be chosen (%s)" % row.get("reason", "no-workload")
    if any(step.get("kind") in ("service", "listener") and step.get("action") == "put" for step in steps):
        return "the kernel does not have it yet"
    return ""


def without_workload(listeners, request):
    """Return which listener would have no workload that may be chosen, or nothing; ``request`` asks the controller."""
    for listener in listeners:
        names = [share["service"] for share in listener.get("services", [])] or [listener["service"]]
        if not any(request({"op": "explain", "name": name})["explain"]["winner"] for name in names):
            return "the listener on port %d cannot take over: no workload of service %s may be chosen here" % (
                listener["port"],
                ", ".join(names),
            )
    return ""


def find_row(listener, rows):
    """Return the controller's row of a listener."""
    own = tuple(key(listener).split())
    return next((row for row in rows if (row["protocol"], row["address"], str(row["port"])) == own), None)


def parse_connections(text, ports):
    """Return the inodes of the open connections to these local TCP ports, from one /proc/net table."""
    found = []
    for line in text.splitlines()[1:]:
        part = line.split()
        if len(part) > 9 and part[3] == "01" and int(part[1].split(":")[1], 16) in ports:
            found.append(int(part[9]))
    return found


def parse_unit(text):
    """Return the unit of a process, from its /proc/PID/cgroup: the outermost, or nothing."""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "name=systemd"):
            continue
        for part in path.split("/"):
            if part.endswith((".service", ".scope")):
                return part
    return ""
