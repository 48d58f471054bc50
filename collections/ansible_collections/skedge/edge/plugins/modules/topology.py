# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action of the same name; it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: topology
short_description: Validate the whole network on the control node
description:
  - Reads the C(skedge_*) variables of every host of a group, also of those that C(--limit) leaves out, and validates
    them as one network with the parser that the controller itself uses. Every problem is named with its file.
  - Completes links that are written at one end only, and returns each site's configuration.
  - Sites keep the overlay addresses that they were given; the inventory's word goes first.
  - Contacts no host. The C(skedge) package must be importable on the control node.
options:
  group:
    description: The inventory group of the edge hosts.
    type: str
    default: skedge_edge
  ca_dir:
    description: Directory on the control node with the register of addresses, C(addresses.json).
    type: path
    default: ""
  present:
    description: The text of C(skedge.yaml) of hosts that have it, by inventory name; it goes before the register.
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
- name: Validate the network before any host is touched
  skedge.edge.topology:
  run_once: true
  delegate_to: localhost
  register: topology
"""

RETURN = r"""
sites:
  description: The content of C(skedge.yaml) of each host, by inventory name.
  returned: success
  type: dict
addresses:
  description: The register with all these sites in it, for M(skedge.edge.addresses).
  returned: success
  type: dict
"""
