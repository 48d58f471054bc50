# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""The host's network settings that skedge needs: what they are now, what they should be. PRIVATE to the collection.

Pure but for `read_sysctl`; the module applies what is computed here. Forwarding is not among them: packets between
links are passed on by what the controller sets on its own devices.
"""

from __future__ import annotations

import os

ROOT = "/proc/sys"
FIXED = (("net.ipv4.fib_multipath_hash_policy", "1"), ("net.ipv6.fib_multipath_hash_policy", "1"))
RESERVED = "net.ipv4.ip_local_reserved_ports"


def path_of(key, root=ROOT):
    """Return the file of a sysctl; an interface's name may hold dots, which are written as slashes."""
    return os.path.join(root, key if "/" in key else key.replace(".", "/"))


def read_sysctl(key, root=ROOT):
    """Return a sysctl's value, or None where the kernel has none of that name."""
    try:
        with open(path_of(key, root)) as file:
            return file.read().strip()
    except OSError:
        return None


def parse_ports(text):
    """Return the set of ports in a list such as ``8080,61000-65535``. Raises ValueError."""
    ports = set()
    for part in text.replace(" ", "").split(","):
        if part:
            first, dash, last = part.partition("-")
            ports.update(range(int(first), int(last if dash else first) + 1))
    if ports and not 1 <= min(ports) <= max(ports) <= 65535:
        raise ValueError(text)
    return ports


def format_ports(ports):
    """Return the list as the kernel writes it."""
    parts, ordered = [], sorted(ports)
    while ordered:
        first = last = ordered.pop(0)
        while ordered and ordered[0] == last + 1:
            last = ordered.pop(0)
        parts.append(str(first) if first == last else "%d-%d" % (first, last))
    return ",".join(parts)


def wanted(reserved, read):
    """Return {sysctl: value}, in the order in which they are to be set.

    Args:
        reserved: ports that nothing else may use as source port, merged with those that are reserved now.
        read: function from a sysctl's name to its value.
    """
    merged = format_ports(parse_ports(read(RESERVED) or "") | parse_ports(reserved))
    return {**dict(FIXED), RESERVED: merged}


def obsolete(written, values, recorded, read):
    """Return {sysctl: value before} of what an earlier deployment set and this one does not, as long as it is so.

    In the reverse order of setting: a switch is thrown back before what it needed. (Earlier versions switched
    forwarding on for the whole host.)

    Args:
        written: {sysctl: value} of our file as it is.
        values: what this deployment wants.
        recorded: {sysctl: value} before the first deployment.
        read: function from a sysctl's name to its value.
    """
    gone = [key for key in written if key not in values and recorded.get(key) is not None]
    return {key: recorded[key] for key in reversed(gone) if read(key) == written[key] != recorded[key]}


def render(values):
    """Return the file for /etc/sysctl.d."""
    lines = ["# Written by skedge's Ansible role; `remove.yml` takes it back.\n"]
    return "".join(lines + ["%s = %s\n" % item for item in values.items()])


def parse_file(text):
    """Return {sysctl: value} of a file for /etc/sysctl.d."""
    pairs = [line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith(("#", ";"))]
    return {key.strip(): value.strip() for key, value in pairs}


NETWORKD = """\
# Written by skedge's Ansible role: without this, systemd-networkd removes the overlay's routes and rules.
[Network]
ManageForeignRoutes=no
ManageForeignRoutingPolicyRules=no
"""


def revert_script(previous, files, networkd, mark):
    """Return the shell script that takes the network step back, and leaves a mark that says how that went.

    The mark holds ``done``, or what could not be restored. Whoever finds none knows that nothing was taken back. The
    script's own file goes with its last command.

    Args:
        previous: {sysctl: value before}.
        files: {path: content before, or None where there was no file}.
        networkd: whether systemd-networkd must be restarted.
        mark: path of the mark.
    """
    lines = ["#!/bin/sh", "# Takes skedge's network step back; made and cancelled by Ansible.", "umask 022", "left="]
    for key, value in reversed(list(previous.items())):
        lines.append("printf '%%s\\n' '%s' > '%s' || left=\"$left %s\"" % (value, path_of(key), key))
    for path, content in files.items():
        if content is None:
            lines.append("rm -f '%s' || left=\"$left %s\"" % (path, path))
        else:
            lines.append("cat > '%s' <<'SKEDGE_END' || left=\"$left %s\"\n%sSKEDGE_END" % (path, path, content))
    if networkd:
        lines.append('systemctl restart systemd-networkd || left="$left systemd-networkd"')
    lines.append("printf '%%s\\n' \"${left:-done}\" > '%s'" % mark)
    lines.append('rm -f "$0"')
    return "\n".join(lines) + "\n"


def taken_back(mark, seconds):
    """Return what happened to a step that was not confirmed, by the text of its mark; nothing without one."""
    if mark is None:
        return ""
    why = "as it was not confirmed within %d s" % seconds
    if mark.strip() == "done":
        return (
            "the host has taken its network step back, %s; look why the control node lost the host, "
            "or give a larger skedge_network_revert_s" % why
        )
    return "the host took its network step back, %s, but for %s; set these by hand, and deploy again" % (
        why,
        mark.strip() or "an unknown part (its mark is empty)",
    )


def rebuilt(written, read, ports):
    """Return {sysctl: value before the first deployment} as far as that shows, when the record of it is lost.

    What has the value that an earlier deployment wrote had the kernel's default before; ports that others reserved
    too cannot be told from ours, which go.

    Args:
        written: {sysctl: value} of our file as it is.
        read: function from a sysctl's name to its value.
        ports: the ports that skedge reserves.
    """
    before = {key: "0" for key, value in FIXED if written.get(key) == value == read(key)}
    if RESERVED in written:
        before[RESERVED] = format_ports(parse_ports(read(RESERVED) or "") - parse_ports(ports))
    return before
