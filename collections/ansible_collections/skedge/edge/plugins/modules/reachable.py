# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: reachable
short_description: Wait until the control node can log in to the host by a new connection
description:
  - As M(ansible.builtin.wait_for_connection), but a connection that is open already is not used, nor one that ssh
    shares by a C(ControlPath) of the operator's own (C(ansible_ssh_common_args), C(ansible.cfg), C(~/.ssh/config)),
    nor one to a jump host, where C(ssh) is what reaches it.
  - Everything else of the connection is as for any other task, such as port, jump host and the password to become root.
  - Runs on the control node.
options:
  timeout:
    description: Seconds after which it gives up.
    type: int
    default: 600
attributes:
  check_mode:
    description: Skipped.
    support: none
  diff_mode:
    description: There is nothing that changes.
    support: none
author:
  - The skedge authors
"""

EXAMPLES = r"""
- name: Reach the host again
  skedge.edge.reachable:
    timeout: 50
"""

RETURN = r"""
elapsed:
  description: Seconds until the host answered.
  returned: always
  type: int
"""
