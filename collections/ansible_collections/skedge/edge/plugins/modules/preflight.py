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
    open), for a keepalived that watches programs whose ports listeners take and for units that are stopped with them,
    and compares the clock. Warns of units that systemd keeps from the overlay.
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
    C(unit) (whether the controller's unit is there), C(account) (whether its user and group are),
    C(wireguard_unit) (whether wireguard-go's unit is there) and C(wireguard_units) (those of links),
    C(held) (numbers of listeners whose ports are yet to be taken over), C(returned) (units that get them back) and
    C(damaged) (whether the record of what was taken over cannot be read).
  returned: success
  type: dict
"""

import sys
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skedge.edge.plugins.module_utils import (
    checks,
    firewall,
    hostfacts,
    ipv6,
    keepalived,
    readings,
    sockets,
    statefile,
    takeover,
    units,
    ways,
)

RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")  # the second names those behind the stub


def takeovers(path, listeners, looked):
    """Return which listeners wait for their port, and which units get theirs back."""
    record = statefile.read_record(path)
    return {
        "held": takeover.held(listeners, *looked, record or {}),
        "returned": takeover.returned(listeners, record or {}),
        "damaged": record is None,
    }


def workload_units(site, own, bound, programs, by_pid):
    """Return {unit: the service that it is a workload of} of the host's own servers."""
    found = {}
    for connector in site.get("connectors", []):
        if connector["host"] in own["addresses"] or connector["host"].startswith("127."):
            for unit in takeover.units_at(connector, bound, programs, by_pid):
                found.setdefault(unit, connector["service"])
    return found


def watched(module, listeners, looked):
    """Return what would go with the programs on listeners' ports: those that watch them, those that are stopped too."""
    found = keepalived.problems(readings.keepalived_watches(module), takeover.holders(listeners, *looked))
    for unit in takeover.yielding(listeners, *looked):
        found += units.stopped(unit, readings.stopped_with(module, unit))
    return found


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
    own = readings.own_addresses(module)
    known = params["packages"]
    name, words = checks.parse_release(hostfacts.read("/etc/os-release"))
    family = next((word for word in words if word in known), "")
    wanted = known.get(family, {})
    python = checks.python_of(wanted, tuple(sys.version_info[:2]))
    programs = sockets.programs()
    looked = (sockets.bound_sockets(), programs, sockets.units(programs, takeover.parse_unit))
    kernel = hostfacts.kernel_facts(module, python)
    resolvers = "\n".join(map(hostfacts.read, RESOLVERS))
    found = {
        "kernel": lambda: (
            checks.kernel(kernel)
            + checks.wireguard(site, {**kernel, "wireguard": hostfacts.has_wireguard(module)})
            + checks.distribution(name, family, known, params["manage_packages"])
            + ipv6.problems(hostfacts.read(ipv6.SWITCH), ipv6.sysctl_files())
        ),
        "clock": lambda: checks.clock(time.time(), params["control_time"]),
        "ports": lambda: checks.ports(site, *looked),
        "takeover": lambda: takeover.problems(listeners, *looked) + watched(module, listeners, looked),
        "routes": lambda: (
            ways.routes(
                params["overlays"],
                readings.all_routes(module),
                [*params["others"].values(), *[site[key] for key in ("overlay_address",) if key in site]],
                readings.run_json(module, ["ip", "-j", "rule"]) or [],
            )
            + checks.prefixes(site, readings.all_routes(module))
        ),
        "addresses": lambda: (
            checks.addresses(site, own) + checks.sites(params["others"], own, readings.all_routes(module), resolvers)
        ),
        "firewall": lambda: (
            firewall.problems(
                readings.filters(module),
                firewall.needs(site, own["addresses"], params["reachable"], sorted(params["others"].values())),
            )
            + firewall.trial_problems(site, readings.trial(module))
        ),
    }
    for warning in units.warnings(readings.all_units(module), params["overlays"], workload_units(site, own, *looked)):
        module.warn(warning)
    problems = [problem for name, check in found.items() if name not in params["skip"] for problem in check()]
    host = hostfacts.host_facts(module, family, wanted, python)
    host.update(takeovers(params["takeover_record"], listeners, looked))
    module.exit_json(changed=False, problems=problems, host=host)


if __name__ == "__main__":
    main()
