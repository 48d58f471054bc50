# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action of the same name; it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: addresses
short_description: Remember which overlay addresses were given out
description:
  - Writes the register of addresses, C(addresses.json) beside the network's authority, in one step.
  - What another deployment gave out meanwhile stays in it; an address that would be two sites' is refused.
options:
  ca_dir:
    description: The authority's directory on the control node.
    type: path
    required: true
  network:
    description: Name of the network.
    type: str
    required: true
  register:
    description: The register, as M(skedge.edge.topology) returns it. Required for O(state=present).
    type: dict
    default: {}
  site:
    description: Name of the site that leaves. Required for O(state=absent).
    type: str
    default: ""
  state:
    description: V(absent) says that a site left; its addresses are kept for it for 30 days.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Tells whether the register would change.
    support: full
  diff_mode:
    description: Shows no difference.
    support: none
author:
  - The skedge authors
"""

EXAMPLES = r"""
- name: Remember the addresses
  skedge.edge.addresses:
    ca_dir: "{{ skedge_ca_dir }}"
    network: demo
    register: "{{ topology.addresses }}"
  run_once: true
  delegate_to: localhost
"""

RETURN = r"""
"""
