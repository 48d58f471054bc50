# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action of the same name; it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wireguard_keys
short_description: Remember the public WireGuard keys of a site
description:
  - Keeps what M(skedge.edge.wireguard_key) returned beside the network's authority, so that the neighbours of a site
    can be deployed without contacting it.
  - Runs on the control node only.
options:
  ca_dir:
    description: The authority's directory on the control node.
    type: path
    required: true
  site:
    description: Name of the site.
    type: str
    required: true
  keys:
    description: Its key, and its next one while it changes. None is no news.
    type: list
    elements: str
    default: []
  state:
    description: V(absent) forgets the site.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Tells what would be remembered.
    support: full
  diff_mode:
    description: Keys have no useful text form.
    support: none
author:
  - The skedge authors
"""

EXAMPLES = r"""
- name: Remember the host's key
  skedge.edge.wireguard_keys:
    ca_dir: "{{ skedge_ca_dir }}"
    site: "{{ inventory_hostname }}"
    keys: "{{ wireguard.keys }}"
"""

RETURN = r""" # """
