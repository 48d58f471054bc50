# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: site_info
short_description: Ask the controller of a site what it knows
description:
  - Asks the local API socket, as C(skedge show --json) does. Works on any host of the network; changes nothing.
options:
  gather:
    description: What to ask for, in C(skedge show)'s words, and V(status).
    type: list
    elements: str
    choices: [status, site, sites, links, routes, services, listeners, connections, drops, sync]
    default: [status, site, links, services]
  explain:
    description: Names of services to explain, every candidate with its perceived cost.
    type: list
    elements: str
    default: []
  socket:
    description: The controller's socket.
    type: path
    default: /run/skedge/api.sock
  timeout:
    description: Seconds to wait for each answer.
    type: float
    default: 5.0
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
- name: Ask for the site's links
  skedge.edge.site_info:
    gather: [status, links]
  register: info

- name: Every link is up
  ansible.builtin.assert:
    that: info.links | rejectattr("up") | length == 0

- name: Where would the next connection go?
  skedge.edge.site_info:
    gather: []
    explain: [backend]
  register: info
"""

RETURN = r"""
status:
  description: Whether the site is live, ready and synced, and its problems, worst first.
  returned: when asked for
  type: dict
sync:
  description: State of database and kernel against what is wanted.
  returned: when asked for
  type: dict
site:
  description: This site's row of RV(sites).
  returned: when asked for
  type: dict
sites:
  description: Every site of the network as this site sees it. RV(links), RV(routes), RV(services), RV(listeners),
    RV(connections) and RV(drops) are lists of the same kind.
  returned: when asked for
  type: list
  elements: dict
links:
  description: This site's links.
  returned: when asked for
  type: list
  elements: dict
routes:
  description: The overlay's routes.
  returned: when asked for
  type: list
  elements: dict
services:
  description: Every service with its workloads.
  returned: when asked for
  type: list
  elements: dict
listeners:
  description: This site's listeners.
  returned: when asked for
  type: list
  elements: dict
connections:
  description: Open connections placed here, each with its receipt.
  returned: when asked for
  type: list
  elements: dict
drops:
  description: Counters by reason.
  returned: when asked for
  type: list
  elements: dict
explain:
  description: By service, the answer of C(skedge explain).
  returned: when asked for
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skedge.edge.plugins.module_utils.api import ApiError, ask

LISTS = ("sites", "links", "routes", "services", "listeners", "connections", "drops")


def gather(path, timeout, what):
    """Return the answer to one thing asked for."""
    if what == "status":
        return ask(path, {"op": "status"}, timeout)["status"]
    answer = ask(path, {"op": "show", "what": what, "limit": 100000}, timeout)
    if what == "sync":
        return answer["sync"]
    if what == "site":
        rows = (answer.get("rows") or {}).get("sites") or []
        return next((row for row in rows if row.get("here")), {})
    return list((answer.get("rows") or {}).get(what) or [])


def main():
    module = AnsibleModule(
        argument_spec={
            "gather": {
                "type": "list",
                "elements": "str",
                "choices": ["status", "site", *LISTS, "sync"],
                "default": ["status", "site", "links", "services"],
            },
            "explain": {"type": "list", "elements": "str", "default": []},
            "socket": {"type": "path", "default": "/run/skedge/api.sock"},
            "timeout": {"type": "float", "default": 5.0},
        },
        supports_check_mode=True,
    )
    path, timeout = module.params["socket"], module.params["timeout"]
    try:
        result = {what: gather(path, timeout, what) for what in module.params["gather"]}
        if module.params["explain"]:
            asked = {name: ask(path, {"op": "explain", "name": name}, timeout) for name in module.params["explain"]}
            result["explain"] = {name: answer["explain"] for name, answer in asked.items()}
    except ApiError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
