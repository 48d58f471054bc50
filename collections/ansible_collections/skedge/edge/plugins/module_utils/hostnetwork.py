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


def revert_script(previous, files, networkd, directory=""):
    """Return the shell script that takes the network step back.

    Args:
        previous: {sysctl: value before}.
        files: {path: content before, or None where there was no file}.
        networkd: whether systemd-networkd must be restarted.
        directory: one that goes when it is empty then.
    """
    lines = ["#!/bin/sh", "# Takes skedge's network step back; made and cancelled by Ansible."]
    for key, value in reversed(list(previous.items())):
        lines.append("printf '%%s\\n' '%s' > '%s'" % (value, path_of(key)))
    for path, content in files.items():
        if content is None:
            lines.append("rm -f '%s'" % path)
        else:
            lines.append("cat > '%s' <<'SKEDGE_END'\n%sSKEDGE_END" % (path, content))
    if directory:
        lines.append("rmdir '%s' 2>/dev/null" % directory)
    if networkd:
        lines.append("systemctl restart systemd-networkd")
    return "\n".join(lines) + "\n"
