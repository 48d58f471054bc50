# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""IPv6 that the host switched off: links are unnumbered IPv6, and a site's IPv6 address lies on lo. PRIVATE to the
collection.

The controller switches it on for its own devices; lo is the host's, whose setting is for the operator to change.
"""

from __future__ import annotations

import glob
import os

SWITCH = "/proc/sys/net/ipv6/conf/lo/disable_ipv6"
NAMES = ("net.ipv6.conf.all.disable_ipv6", "net.ipv6.conf.lo.disable_ipv6")
DIRECTORIES = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d")


def sysctl_files(root="/"):
    """Return {path: text} of the files that are read at boot, in their order: by name, the first directory's wins."""
    found = {}
    for directory in DIRECTORIES:
        for path in glob.glob(os.path.join(root, directory.lstrip("/"), "*.conf")):
            found.setdefault(os.path.basename(path), path)
    paths = [found[name] for name in sorted(found)] + [os.path.join(root, "etc/sysctl.conf")]
    texts = {}
    for path in paths:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                texts[path] = file.read()
        except OSError:
            continue
    return texts


def switched_off_by(files):
    """Return the last of these files that switches IPv6 off on lo, and the setting's name there; (None, None)."""
    last = (None, None)
    for path, text in files.items():
        for line in text.splitlines():
            key, equals, value = line.partition("=")
            name = key.strip().lstrip("-").replace("/", ".")
            if equals and name in NAMES and not line.lstrip().startswith(("#", ";")):
                last = (path, name) if value.strip() == "1" else (None, None)
    return last


def problems(switch, files):
    """Return whether IPv6 is off on lo.

    Args:
        switch: lo's disable_ipv6, as the kernel says it.
        files: {path: text} of the sysctl files.
    """
    if switch.strip() != "1":
        return []
    path, name = switched_off_by(files)
    why = "%s = 1 in %s" % (name, path) if path else "net.ipv6.conf.lo.disable_ipv6 = 1"
    return [
        "IPv6 is switched off on lo (%s), where the site's overlay address lies; run sysctl -w "
        "net.ipv6.conf.lo.disable_ipv6=0, and write the same %s; other devices may stay without IPv6"
        % (why, "below that line" if path else "into /etc/sysctl.d/99-lo.conf")
    ]
