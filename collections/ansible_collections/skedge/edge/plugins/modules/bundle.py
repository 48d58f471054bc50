# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action of the same name; it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle
short_description: Build the wheels that an edge host installs
description:
  - Builds the project's wheel and gets a wheel of each dependency for the host's Python and architecture, so that the
    host needs no package index. Cached by a hash of the sources and the dependencies.
  - Runs on the control node only.
options:
  source_dir:
    description: Directory with C(pyproject.toml) and C(skedge/).
    type: path
    required: true
  cache_dir:
    description: Where wheels and bundles are kept.
    type: path
    required: true
  python:
    description: The host's Python, such as V(3.11).
    type: str
    required: true
  machine:
    description: The host's architecture, such as V(x86_64).
    type: str
    required: true
  glibc:
    description: The host's C library, such as V(2.36).
    type: str
    required: true
  later_pythons:
    description: The versions of Python that the host gets when its distribution is upgraded in place.
    type: list
    elements: str
    default: []
  release:
    description:
      - File of C(make release), whose bytecode is taken instead of compiling if it was made from the same sources.
      - Without it, C(skedge-release.tar) in O(source_dir), if there is one.
    type: path
attributes:
  check_mode:
    description: Returns the digest and builds nothing.
    support: full
  diff_mode:
    description: Nothing of a host changes.
    support: none
author:
  - The skedge authors
"""

EXAMPLES = r"""
- name: Build the bundle for this kind of host
  skedge.edge.bundle:
    source_dir: "{{ playbook_dir }}"
    cache_dir: "{{ playbook_dir }}/.cache/bundles"
    python: "3.11"
    machine: x86_64
    glibc: "2.36"
  register: bundle
"""

RETURN = r"""
digest:
  description: Name of the bundle, a hash of all that it is made of.
  returned: success
  type: str
path:
  description: The bundle's tar file on the control node; empty in check mode.
  returned: success
  type: str
"""
