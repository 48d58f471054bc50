# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action of the same name; it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate
short_description: Sign or revoke the certificate of a site
description:
  - Signs the host's request with the network's own authority, a directory on the control node, made on first use.
  - Signs again when less than a third of the validity is left, or when the host has another key; then the old
    certificate is revoked.
  - Runs on the control node only. The private keys of hosts are never seen by it.
options:
  ca_dir:
    description: The authority's directory on the control node.
    type: path
    required: true
  network:
    description: Name of the network, the certificate's O.
    type: str
    required: true
  site:
    description: Name of the site, the certificate's CN and DNS name.
    type: str
    required: true
  csr:
    description: The host's certificate request in PEM form. Required for O(state=present).
    type: str
    default: ""
  days:
    description: Validity of a new certificate in days.
    type: int
    default: 365
  state:
    description: V(revoked) puts the site's certificate on the revocation list.
    type: str
    choices: [present, revoked]
    default: present
attributes:
  check_mode:
    description: Tells what would be signed, and signs nothing.
    support: full
  diff_mode:
    description: Certificates have no useful text form.
    support: none
author:
  - The skedge authors
"""

EXAMPLES = r"""
- name: Sign for this host
  skedge.edge.certificate:
    ca_dir: "{{ skedge_ca_dir }}"
    network: demo
    site: "{{ inventory_hostname }}"
    csr: "{{ identity.csr }}"
  register: signed
"""

RETURN = r"""
action:
  description: V(keep), V(sign), V(renew) or V(replace).
  returned: when O(state=present)
  type: str
certificate:
  description: The site's certificate in PEM form.
  returned: when O(state=present), except for a first certificate in check mode
  type: str
ca:
  description: The authority's certificate in PEM form.
  returned: as RV(certificate)
  type: str
revoked:
  description: The revocation list in PEM form.
  returned: as RV(certificate)
  type: str
"""
