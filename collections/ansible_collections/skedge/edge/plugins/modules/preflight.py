# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Look for what would break skedge on a host, or be broken by it
description:
  - Looks for root, BTF and cgroup2 (or IPVS), for ports that other programs hold (by name), for routes and rules
    that lead sites' addresses elsewhere, for resolvers, gateways and addresses that are a site's, for announced
    prefixes that the host has not, for firewalls that drop what skedge needs (chain and rule are named, and what to
    open), and compares the clock.
  - Changes nothing and never fails because of what it finds; RV(problems) lists everything at once.
options:
  site:
    description: The host's configuration, as M(skedge.edge.topology) returns it.
    type: dict
    required: true
  overlays:
    description: Address ranges of the overlay.
    type: list
    elements: str
    default: []
  others:
    description: IPv4 overlay address of each other site, by its host.
    type: dict
    default: {}
  control_time:
    description: The control node's clock in seconds since 1970; 0 compares nothing.
    type: int
    default: 0
  skip:
    description: Checks to leave out.
    type: list
    elements: str
    choices: [addresses, clock, firewall, kernel, ports, routes, takeover]
    default: []
  packages:
    description: Packages that the installation needs, by family of distributions.
    type: dict
    default: {}
  manage_packages:
    description: Whether missing packages are to be installed.
    type: bool
    default: true
  takeover_record:
    description: File that says which units' ports were taken over.
    type: path
    default: /var/lib/skedge-deploy/takeover.json
  reachable:
    description: Whether neighbours reach the host by its tunnels' ports, so that a firewall must let them.
    type: bool
    default: true
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: Changes nothing in any mode.
    support: none
author:
  - The skedge authors
"""

EXAMPLES = r"""
- name: Look at the host before anything changes
  skedge.edge.preflight:
    site: "{{ topology.sites[inventory_hostname] }}"
    overlays: [100.64.0.0/10]
    control_time: "{{ now().timestamp() | int }}"
  register: preflight
"""

RETURN = r"""
problems:
  description: One sentence a problem; empty when the host is ready.
  returned: success
  type: list
  elements: str
host:
  description: What the installation needs to know, C(python) (version), C(interpreter) (its path), C(bcc) (which
    other Python's bcc it needs), C(machine), C(glibc), C(kernel), C(family) (of distributions), C(headers)
    (whether the kernel's own are there), C(missing) (packages), C(wireguard_go) (whether links need it),
    C(unit) (whether the controller's unit is there),
    C(held) (numbers of listeners whose ports are yet to be taken over), C(returned) (units that get them back) and
    C(damaged) (whether the record of what was taken over cannot be read).
  returned: success
  type: dict
"""

import json
import os
import platform
import sys
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skedge.edge.plugins.module_utils import (
    checks,
    firewall,
    ipv6,
    packetfilter,
    sockets,
    statefile,
    takeover,
    ways,
)

RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")  # the second names those behind the stub


def read(path):
    """Return a file's text, or nothing."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def has_ipvs(module):
    """Return whether the kernel has IPVS, or a module of it."""
    if os.path.exists("/proc/net/ip_vs"):
        return True
    modprobe = module.get_bin_path("modprobe")
    return bool(modprobe) and module.run_command([modprobe, "-n", "-q", "ip_vs"])[0] == 0


def kernel_facts(module, python):
    """Return what the kernel offers, and which engine is asked for.

    ``python`` are path and version of the one that is to run the controller.
    """
    mounts = [line.split() for line in read("/proc/self/mounts").splitlines()]
    return {
        "uid": os.geteuid(),
        "engine": module.params["site"].get("engine", "auto"),
        "ipvs": has_ipvs(module),
        "kernel": platform.release(),
        "btf": os.path.exists("/sys/kernel/btf/vmlinux"),
        "cgroup2": any(len(mount) > 2 and mount[2] == "cgroup2" for mount in mounts),
        "ipv6": os.path.isdir("/proc/sys/net/ipv6"),
        "systemd": os.path.isdir("/run/systemd/system"),
        "interpreter": python[0],
        "python": python[1],
        "tun": os.path.exists("/dev/net/tun"),
    }


def has_wireguard(module):
    """Return whether the kernel has WireGuard, loaded or to be loaded."""
    modprobe = module.get_bin_path("modprobe", opt_dirs=["/usr/sbin", "/sbin"])
    if os.path.isdir("/sys/module/wireguard"):
        return True
    return bool(modprobe) and module.run_command([modprobe, "--dry-run", "--quiet", "wireguard"])[0] == 0


def missing_packages(module, names):
    """Return which of the distribution's packages are not installed."""
    if not names:
        return []
    if module.get_bin_path("dpkg-query"):
        query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\\n"]
    else:
        query = ["rpm", "-q", "--qf", "installed %{NAME}\\n"]
    out = module.run_command(query + names)[1]  # both fail when one is missing, and still list the others
    there = {line.split()[1] for line in out.splitlines() if line.startswith("installed ")}
    return [name for name in names if name not in there]


def host_facts(module, family, wanted, python):
    """Return what the installation depends on."""
    headers = os.path.exists("/lib/modules/%s/build" % platform.release())
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    names = wanted.get("always", []) + ([] if headers else wanted.get("headers", []))
    userspace = checks.has_wireguard(module.params["site"]) and not has_wireguard(module)
    names = names + (wanted.get("wireguard_go", []) if userspace else [])
    names = [name.replace("ARCH", arch) for name in names]
    return {
        "python": "%d.%d" % python[1],
        "interpreter": python[0],
        "bcc": wanted.get("bcc", ""),
        "machine": platform.machine(),
        "glibc": os.confstr("CS_GNU_LIBC_VERSION").split()[-1],
        "kernel": platform.release(),
        "family": family,
        "headers": headers,
        "missing": missing_packages(module, names),
        "wireguard_go": userspace,
        "unit": os.path.exists("/etc/systemd/system/skedge.service"),
    }


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


def units_that_are_denied(module, overlays):
    """Return the services whose units forbid them to send to the overlay."""
    if not module.get_bin_path("systemctl"):
        return []
    shown = ["--property=Id,PrivateNetwork,IPAddressDeny,IPAddressAllow", "--type=service", "--state=loaded"]
    code, out = module.run_command(["systemctl", "show", *shown, "*"])[:2]
    return checks.denied_units(out, overlays) if code == 0 else []


def takeovers(path, listeners, looked):
    """Return which listeners wait for their port, and which units get theirs back."""
    record = statefile.read_record(path)
    return {
        "held": takeover.held(listeners, *looked, record or {}),
        "returned": takeover.returned(listeners, record or {}),
        "damaged": record is None,
    }


def main():
    module = AnsibleModule(
        argument_spec={
            "site": {"type": "dict", "required": True},
            "overlays": {"type": "list", "elements": "str", "default": []},
            "others": {"type": "dict", "default": {}},
            "control_time": {"type": "int", "default": 0},
            "skip": {"type": "list", "elements": "str", "choices": sorted(checks.SKIPPABLE), "default": []},
            "packages": {"type": "dict", "default": {}},
            "manage_packages": {"type": "bool", "default": True},
            "takeover_record": {"type": "path", "default": "/var/lib/skedge-deploy/takeover.json"},
            "reachable": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    site = params["site"]
    listeners = site.get("listeners", [])
    own = own_addresses(module)
    known = params["packages"]
    name, words = checks.parse_release(read("/etc/os-release"))
    family = next((word for word in words if word in known), "")
    wanted = known.get(family, {})
    python = checks.python_of(wanted, tuple(sys.version_info[:2]))
    programs = sockets.programs()
    looked = (sockets.bound_sockets(), programs, sockets.units(programs, takeover.parse_unit))
    found = {
        "kernel": lambda: (
            checks.kernel(kernel_facts(module, python))
            + checks.wireguard(site, {**kernel_facts(module, python), "wireguard": has_wireguard(module)})
            + checks.distribution(name, family, known, params["manage_packages"])
            + ipv6.problems(read(ipv6.SWITCH), ipv6.sysctl_files())
        ),
        "clock": lambda: checks.clock(time.time(), params["control_time"]),
        "ports": lambda: checks.ports(site, *looked),
        "takeover": lambda: takeover.problems(listeners, *looked),
        "routes": lambda: (
            ways.routes(
                params["overlays"],
                all_routes(module),
                [*params["others"].values(), *[site[key] for key in ("overlay_address",) if key in site]],
                run_json(module, ["ip", "-j", "rule"]) or [],
            )
            + checks.prefixes(site, all_routes(module))
        ),
        "addresses": lambda: (
            checks.addresses(site, own)
            + checks.sites(params["others"], own, all_routes(module), "\n".join(map(read, RESOLVERS)))
        ),
        "firewall": lambda: (
            firewall.problems(
                filters(module),
                firewall.needs(site, own["addresses"], params["reachable"], sorted(params["others"].values())),
            )
            + firewall.trial_problems(site, trial(module))
        ),
    }
    for unit in units_that_are_denied(module, params["overlays"]):
        module.warn(
            "%s may not send to the overlay (IPAddressDeny=): its connections to workloads of other sites will hang; "
            "add IPAddressAllow=%s to the unit where it is a client of listeners" % (unit, " ".join(params["overlays"]))
        )
    problems = [problem for name, check in found.items() if name not in params["skip"] for problem in check()]
    host = {**host_facts(module, family, wanted, python), **takeovers(params["takeover_record"], listeners, looked)}
    module.exit_json(changed=False, problems=problems, host=host)


if __name__ == "__main__":
    main()
