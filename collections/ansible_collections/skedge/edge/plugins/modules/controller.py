# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: controller
short_description: See that the controller runs with what is installed, also after a boot
description:
  - A run that ended between a change and its handler (the host lost, the play broken off) would else leave the old
    version or configuration in use for ever, as the next run changes nothing and notifies nobody. A controller that
    is older than its code is started again, one that took its configuration over before it was installed is reloaded.
  - One that does not run is started, and enabled.
options:
  code:
    description: Files and links that it is started anew for.
    type: list
    elements: path
    default: []
  configuration:
    description: Files that it takes over by a reload.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    description: Tells what would be done.
    support: full
  diff_mode:
    description: A unit's state has no useful text form.
    support: none
author:
  - The skedge authors
"""

EXAMPLES = r"""
- name: Run the controller
  skedge.edge.controller:
    code: [/opt/skedge/venv, /etc/systemd/system/skedge.service]
    configuration: [/etc/skedge/skedge.yaml]
"""

RETURN = r"""
done:
  description: What systemd was asked for, among V(restart), V(reload), V(start) and V(enable), in that order.
  returned: success
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skedge.edge.plugins.module_utils import pending

UNIT = "skedge.service"
OBJECT = "/org/freedesktop/systemd1/unit/skedge_2eservice"


def main():
    module = AnsibleModule(
        argument_spec={
            "code": {"type": "list", "elements": "path", "default": []},
            "configuration": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    code, configuration = (installed(module.params[name]) for name in ("code", "configuration"))
    actions = pending.actions(state(module), code, configuration)
    for action in actions if not module.check_mode else []:
        if action == "restart":
            systemctl(module, "daemon-reload")
        systemctl(module, *([action] if action != "enable" else ["enable", "--quiet"]), UNIT)
    said = [pending.SAID[action] for action in actions if action in pending.SAID]
    module.exit_json(changed=bool(actions), done=actions, msg="; ".join(said))


def state(module):
    """Return what systemd says of the unit, by property."""
    interface = "org.freedesktop.systemd1"
    command = ["busctl", "get-property", interface, OBJECT, interface + ".Unit", *pending.PROPERTIES]
    code, out, err = module.run_command(command)
    if code != 0:
        module.fail_json(msg="systemd does not tell the state of %s (%s)" % (UNIT, (err or out).strip()))
    return pending.parse(out)


def installed(paths):
    """Return when the newest of these was installed, in seconds since 1970; of a link, when the link was made."""
    return max((os.lstat(path).st_mtime for path in paths if os.path.lexists(path)), default=0)


def systemctl(module, *words):
    code, out, err = module.run_command(["systemctl", *words])
    if code != 0:
        said = (err or out).strip() or "exit %d" % code
        module.fail_json(msg="systemctl %s: %s" % (" ".join(words), said))


if __name__ == "__main__":
    main()
