# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""What pre-flight reads of a host's network and services. PRIVATE to the collection.

Judging is elsewhere (`checks`, `firewall`, `units`, `keepalived`).
"""

from __future__ import annotations

import glob
import json
import os

from ansible_collections.skedge.edge.plugins.module_utils import firewall, keepalived, packetfilter, units
from ansible_collections.skedge.edge.plugins.module_utils.hostfacts import read

DEPTH = 4  # of files that include files


def run_json(module, command):
    """Return what a command prints as JSON; nothing when it is missing or fails."""
    code, out = module.run_command(command, handle_exceptions=False)[:2] if module.get_bin_path(command[0]) else (1, "")
    try:
        return json.loads(out) if code == 0 and out.strip() else None
    except ValueError:
        return None


def filters(module):
    """Return the base chains of the host's packet filter, of nftables and of both kinds of iptables."""
    ruleset = run_json(module, ["nft", "-j", "list", "ruleset"]) or {}
    iptables = packetfilter.tables_of_iptables(ruleset)
    commands = {("ip", "filter"): ("iptables-nft", 4), ("ip6", "filter"): ("ip6tables-nft", 6)}
    there = {table: how for table, how in commands.items() if table in iptables and module.get_bin_path(how[0])}
    found = packetfilter.from_nft(ruleset, skip={*there, *firewall.OWN_TABLES})
    legacy = [
        (command, version)
        for command, version, names in (("iptables-legacy", 4, "ip_tables"), ("ip6tables-legacy", 6, "ip6_tables"))
        if "filter" in read("/proc/net/%s_names" % names).split() and module.get_bin_path(command)
    ]
    for command, version in [*there.values(), *legacy]:
        code, out = module.run_command([command, "-S"])[:2]
        called = command.replace("-nft", "")  # as people know it
        found += packetfilter.from_iptables(out if code == 0 else "", called, version)
    return found


def trial(module):
    """Return how nft ends when it tries what asking takes, which changes nothing; None without nft."""
    nft = module.get_bin_path("nft")
    return module.run_command([nft, "-c", "-f", "-"], data=firewall.TRIAL)[0] if nft else None


def own_addresses(module):
    """Return the host's devices and addresses."""
    links = run_json(module, ["ip", "-j", "address"]) or []
    return {
        "devices": [link.get("ifname", "") for link in links],
        "addresses": [item["local"] for link in links for item in link.get("addr_info", []) if "local" in item],
    }


def all_routes(module):
    """Return the routes of all tables and both families."""
    found = []
    for family in ("-4", "-6"):
        found += run_json(module, ["ip", "-j", family, "route", "show", "table", "all"]) or []
    return found


def all_units(module):
    """Return the services and slices that systemd has, as `units.parse` does; nothing without systemd."""
    if not module.get_bin_path("systemctl"):
        return {}
    types = ["--type=service,slice", "--state=loaded"]
    code, out = module.run_command(["systemctl", "show", "--property=" + ",".join(units.SHOWN), *types, "*"])[:2]
    version = module.run_command(["systemctl", "--version"])[1]
    return units.parse(out, version) if code == 0 else {}


def stopped_with(module, unit):
    """Return the active units that systemd stops when it stops this one."""
    shown = ["--property=" + ",".join(units.FOLLOWERS)]
    names = units.followers(module.run_command(["systemctl", "show", *shown, unit])[1])
    return [name for name in names if module.run_command(["systemctl", "--quiet", "is-active", name])[0] == 0]


def keepalived_watches(module, path=keepalived.PATH):
    """Return what a keepalived of this host watches, with the texts of its scripts; nothing where there is none."""
    if not module.get_bin_path("keepalived", opt_dirs=["/usr/sbin", "/sbin", "/usr/local/sbin"]):
        return []
    return [
        (name, told + "\n" + "\n".join(map(read_script, told.split())))
        for name, told in keepalived.watches(whole(path))
    ]


def whole(path, depth=DEPTH):
    """Return a configuration of keepalived with all that it includes."""
    lines = []
    for line in read(path).splitlines():
        pattern = keepalived.included(line)
        found = sorted(glob.glob(os.path.join(os.path.dirname(path), pattern))) if pattern and depth else []
        lines += [whole(one, depth - 1) for one in found] or [line]
    return "\n".join(lines)


def read_script(word):
    """Return the text of a script by its path, nothing for a program or any other word."""
    path = word.strip("\"'")
    text = read(path) if path.startswith("/") and os.path.isfile(path) else ""
    return keepalived.bare(text, "#") if text.startswith("#!") else ""
