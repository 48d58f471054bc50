# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Look for what would break skedge on a host, or be broken by it
description:
  - Looks for root, BTF and cgroup2 (or IPVS), for the other engine serving, for ports that other programs hold (by
    name), for routes that overlap the overlay, for firewalls that drop tunnel or forwarded traffic (the chain is
    named, and what to open), and compares the clock.
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
  control_time:
    description: The control node's clock in seconds since 1970; 0 compares nothing.
    type: int
    default: 0
  skip:
    description: Checks to leave out.
    type: list
    elements: str
    choices: [addresses, clock, firewall, kernel, ports, routes]
    default: []
  packages:
    description: Packages that the installation needs, by family of distributions.
    type: dict
    default: {}
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
  description: What the installation needs to know, C(python), C(machine), C(glibc), C(kernel), C(family), C(headers)
    (whether the kernel's own are there), C(missing) (packages) and C(unit) (whether the controller's unit is there).
  returned: success
  type: dict
"""

import json
import os
import platform
import sys
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skedge.edge.plugins.module_utils import checks, firewall, sockets


def read(path):
    """Return a file's text, or nothing."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def serving_engine():
    """Return the engine that has something of ours in the kernel: pinned maps, or services with a mark of ours."""
    if os.path.exists("/sys/fs/bpf/skedge/config_v1"):
        return "ebpf"
    marks = [line.split()[1] for line in read("/proc/net/ip_vs").splitlines() if line.startswith("FWM ")]
    return "ipvs" if any(mark.startswith("5CED") for mark in marks) else ""


def has_ipvs(module):
    """Return whether the kernel has IPVS, or a module of it."""
    if os.path.exists("/proc/net/ip_vs"):
        return True
    modprobe = module.get_bin_path("modprobe")
    return bool(modprobe) and module.run_command([modprobe, "-n", "-q", "ip_vs"])[0] == 0


def kernel_facts(module):
    """Return what the kernel offers, and which engine is asked for."""
    mounts = [line.split() for line in read("/proc/self/mounts").splitlines()]
    return {
        "uid": os.geteuid(),
        "engine": module.params["site"].get("engine", "auto"),
        "serves": serving_engine(),
        "ipvs": has_ipvs(module),
        "kernel": platform.release(),
        "btf": os.path.exists("/sys/kernel/btf/vmlinux"),
        "cgroup2": any(len(mount) > 2 and mount[2] == "cgroup2" for mount in mounts),
        "ipv6": os.path.isdir("/proc/sys/net/ipv6"),
        "systemd": os.path.isdir("/run/systemd/system"),
        "python": tuple(sys.version_info[:2]),
    }


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


def host_facts(module):
    """Return what the installation depends on."""
    release = dict(line.split("=", 1) for line in read("/etc/os-release").splitlines() if "=" in line)
    words = " ".join(release.get(key, "").strip('"') for key in ("ID", "ID_LIKE")).split()
    family = next((w for w in words if w in ("debian", "rhel", "fedora")), words[0] if words else "")
    headers = os.path.exists("/lib/modules/%s/build" % platform.release())
    wanted = module.params["packages"].get(family, {})
    names = wanted.get("always", []) + ([] if headers else wanted.get("headers", []))
    return {
        "python": "%d.%d" % sys.version_info[:2],
        "machine": platform.machine(),
        "glibc": os.confstr("CS_GNU_LIBC_VERSION").split()[-1],
        "kernel": platform.release(),
        "family": family,
        "headers": headers,
        "missing": missing_packages(module, names),
        "unit": os.path.exists("/etc/systemd/system/skedge.service"),
    }


def run_json(module, command):
    """Return what a command prints as JSON; nothing when it is missing or fails."""
    code, out = module.run_command(command, handle_exceptions=False)[:2] if module.get_bin_path(command[0]) else (1, "")
    try:
        return json.loads(out) if code == 0 and out.strip() else None
    except ValueError:
        return None


def firewall_problems(module, site):
    """Return what nftables (iptables-nft shows there too) and iptables-legacy would drop."""
    ports = sorted(
        {link.get("port", 4790) for link in site.get("links", []) if link.get("transport", "vxlan") != "direct"}
    )
    if not site.get("links"):
        return []
    problems = firewall.nft_problems(run_json(module, ["nft", "-j", "list", "ruleset"]) or {}, ports)
    if "filter" in read("/proc/net/ip_tables_names").split() and module.get_bin_path("iptables-legacy"):
        code, out = module.run_command(["iptables-legacy", "-S"])[:2]
        problems += firewall.iptables_problems(out if code == 0 else "", "iptables-legacy", ports)
    manager = next((name for name in ("firewalld", "ufw") if active(module, name)), "")
    hint = {
        "firewalld": " (firewalld runs: put devices sk-+ into zone trusted, add the UDP port to the uplink's zone)",
        "ufw": " (ufw runs: ufw allow in on the sk- devices, ufw route allow between them, ufw allow the UDP port)",
    }.get(manager, "")
    return [problem + hint for problem in problems]


def active(module, unit):
    """Return whether a unit runs."""
    return module.run_command(["systemctl", "is-active", "--quiet", unit])[0] == 0


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


def main():
    module = AnsibleModule(
        argument_spec={
            "site": {"type": "dict", "required": True},
            "overlays": {"type": "list", "elements": "str", "default": []},
            "control_time": {"type": "int", "default": 0},
            "skip": {"type": "list", "elements": "str", "choices": sorted(checks.SKIPPABLE), "default": []},
            "packages": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    params = module.params
    site = params["site"]
    found = {
        "kernel": lambda: checks.kernel(kernel_facts(module)),
        "clock": lambda: checks.clock(time.time(), params["control_time"]),
        "ports": lambda: checks.ports(site, sockets.bound_sockets(), sockets.programs()),
        "routes": lambda: checks.routes(params["overlays"], all_routes(module)),
        "addresses": lambda: checks.addresses(site, own_addresses(module)),
        "firewall": lambda: firewall_problems(module, site),
    }
    problems = [problem for name, check in found.items() if name not in params["skip"] for problem in check()]
    module.exit_json(changed=False, problems=problems, host=host_facts(module))


if __name__ == "__main__":
    main()
