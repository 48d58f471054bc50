# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: text_file
short_description: Write a text file on a host, by one program there
description:
  - Does with the text of a template lookup what M(ansible.builtin.template) does, which takes five commands on the host
    where nothing changes and six where something does, two of them modules. This is one.
  - A new text is checked before it takes the place of the old one, and takes it in one step.
options:
  path:
    description: The file; its directory must be there.
    type: path
    required: true
  content:
    description: Its whole text.
    type: str
    required: true
  validate:
    description: Command that must end with 0 for the new text to be taken; C(%s) stands for a file that holds it.
    type: str
    default: ""
extends_documentation_fragment:
  - ansible.builtin.files
attributes:
  check_mode:
    description: Tells whether text, owner or mode would change. The text is not checked then.
    support: full
  diff_mode:
    description: Shows both texts.
    support: full
author:
  - The skedge authors
"""

EXAMPLES = r"""
- name: Install the configuration
  skedge.edge.text_file:
    path: /etc/skedge/skedge.yaml
    content: "{{ lookup('ansible.builtin.template', 'skedge.yaml.j2') }}"
    group: skedge
    mode: "0640"
    validate: /opt/skedge/venv/bin/skedge config check %s
"""

RETURN = r"""
sha256:
  description: Digest of the text that was asked for.
  returned: success
  type: str
"""

import hashlib
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "content": {"type": "str", "required": True},
            "validate": {"type": "str", "default": ""},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    path, content = module.params["path"], module.params["content"]
    result = {"changed": False, "sha256": hashlib.sha256(content.encode()).hexdigest(), "path": path}
    before = read(path)
    if before != content:
        header = {"before_header": path, "after_header": path}
        result.update(changed=True, diff={"before": before or "", "after": content, **header})
        if not module.check_mode:
            replace(module, path, content)
    if os.path.exists(path):
        attributes = module.load_file_common_arguments(module.params)
        result["changed"] = module.set_fs_attributes_if_different(attributes, result["changed"])
    module.exit_json(**result)


def read(path):
    """Return the file's text as it is, None where there is none; what is no text is shown as far as it is."""
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        return file.read()


def replace(module, path, content):
    """Write the text beside the file, have it checked, and let it take the file's place."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        module.fail_json(msg="the directory %s is not there; deploy without --tags once" % directory)
    descriptor, new = tempfile.mkstemp(prefix=".skedge-", dir=directory)  # only root reads it
    module.add_cleanup_file(new)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if module.params["validate"]:
        code, out, err = module.run_command(module.params["validate"] % new)
        if code != 0:
            module.fail_json(msg="%s was left as it is: the new text is refused: %s" % (path, (err + out).strip()))
    module.atomic_move(new, path)


if __name__ == "__main__":
    main()
