# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Units that systemd's filters of their cgroups keep from the overlay, and units that stop with others. PRIVATE to the
collection.

Pure. Such a filter sees an address of the overlay, where the program itself said another one: a connection is placed
first. Systemd joins the lists of a unit with those of all slices above it.
"""

from __future__ import annotations

import ipaddress

SHOWN = (
    "Id", "Slice", "PrivateNetwork", "IPAddressDeny", "IPAddressAllow", "RestrictNetworkInterfaces", "SocketBindDeny",
    "SocketBindAllow",
)  # fmt: skip
FOLLOWERS = ("RequiredBy", "BoundBy", "ConsistsOf")
OWN = "skedge.service"
_LINKS = "fe80::/10"  # what neighbours say to each other
_LISTS = ("IPAddressDeny", "IPAddressAllow")


def parse(text, version=""):
    """Return {unit: its settings}; ``text`` is what ``systemctl show`` says, ``version`` what ``--version`` does.

    Without BPF_FRAMEWORK systemd takes note of the settings that need it, and does nothing.
    """
    found = {}
    for block in text.split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "-BPF_FRAMEWORK" in version:
            unit.update(RestrictNetworkInterfaces="", SocketBindDeny="")
        if unit.get("Id"):
            found[unit["Id"]] = unit
    return found


def warnings(all_units, overlays, workloads):
    """Return a sentence for each service that connections over links would hang at.

    ``workloads`` are {unit: the service that it is a workload of}. Systemd's own, and those without a network, connect
    to nobody.
    """
    found = []
    allow = "IPAddressAllow=" + " ".join(overlays)
    for name, unit in sorted(all_units.items()):
        alone = name.startswith("systemd-") or unit.get("PrivateNetwork", "no") != "no"
        if not name.endswith(".service") or (alone and name not in workloads):
            continue
        wanted = [*overlays, _LINKS] if name == OWN else overlays
        why, way = denied(_with_slices(all_units, unit), wanted, allow)
        if why and name == OWN:
            found.append("%s itself may not use links (%s): no neighbour is reached; %s" % (name, why, way))
        elif why and name in workloads:
            found.append(
                "%s, a workload of service %s, gets nothing from other sites (%s): their connections to it will hang, "
                "while its health check is answered; %s" % (name, workloads[name], why, way)
            )
        elif why:
            found.append(
                "%s may not send to the overlay (%s): its connections to workloads of other sites will hang; %s where "
                "it is a client of listeners" % (name, why, way)
            )
        if name == OWN and unit.get("SocketBindDeny") and unit.get("SocketBindAllow") != "any":
            found.append("%s may not listen at its ports (SocketBindDeny=); add SocketBindAllow=any to it" % name)
    return found


def denied(unit, wanted, allow=""):
    """Return by which setting a unit is kept from these ranges or from links, and the way out; nothing if it is not."""
    if _denies(_networks(unit.get("IPAddressDeny", "")), _networks(unit.get("IPAddressAllow", "")), wanted):
        if _LINKS in wanted:
            allow += " " + _LINKS
        return "IPAddressDeny=", "add %s to the unit" % allow
    devices = unit.get("RestrictNetworkInterfaces", "").split()
    if devices and not any(one.startswith(("~", "sk-")) for one in devices):
        way = "name the devices that it may not use instead (RestrictNetworkInterfaces=~)"
        return "RestrictNetworkInterfaces=", way
    return "", ""


def _with_slices(all_units, unit):
    """Return a unit with the addresses that the slices above it deny and allow."""
    joined, name = dict(unit), unit.get("Slice", "")
    while name:
        above = all_units.get(name, {})
        for key in _LISTS:
            joined[key] = "%s %s" % (joined.get(key, ""), above.get(key, ""))
        name = above.get("Slice", "")
    return joined


def _denies(deny, allow, wanted):
    for overlay in (ipaddress.ip_network(one) for one in wanted):
        refused = any(one.version == overlay.version and one.overlaps(overlay) for one in deny)
        if refused and not any(one.version == overlay.version and overlay.subnet_of(one) for one in allow):
            return True
    return False


def _networks(text):
    return [ipaddress.ip_network(one, strict=False) for one in text.split()]


# ---- units that stop with others ------------------------------------------------------------------------------------


def followers(text):
    """Return the units that need this one to run, or are told to stop with it, from what ``systemctl show`` says."""
    names = {name for line in text.splitlines() for name in line.partition("=")[2].split()}
    return sorted(names)


def stopped(unit, others):
    """Return the sentence about what stopping a unit stops besides."""
    if not others:
        return []
    return [
        "stopping %s, whose port a listener takes over, also stops %s (Requires=, BindsTo= or PartOf=); take that out "
        "of the unit, or accept it with skedge_preflight_skip: [takeover]" % (unit, ", ".join(others))
    ]
