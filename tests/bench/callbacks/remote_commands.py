"""An Ansible callback that writes down each command that is run on a host, for `tests.bench.deployments`.

One line of JSON each in the file that ``SKEDGE_REMOTE_COMMANDS`` names: play, task, host, seconds, bytes sent to it.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: remote_commands
type: aggregate
short_description: Writes down each command that is run on a host
description: For measuring what a deployment costs.
"""

_plain = ActionBase._low_level_execute_command


def _noted(self: ActionBase, cmd: str, *args: Any, **kwargs: Any) -> Any:
    """Run the command as Ansible does, and append what it was to the file in one write: many processes do."""
    begin = time.monotonic()
    result = _plain(self, cmd, *args, **kwargs)
    sent = kwargs.get("in_data") or (args[1] if len(args) > 1 else None) or b""
    where = self._play_context.remote_addr or ""
    if where not in ("localhost", "127.0.0.1"):
        line = {
            "task": self._task.get_name(),
            "host": where,
            "seconds": round(time.monotonic() - begin, 3),
            "bytes": len(sent),
            "command": cmd[:200],
        }
        with open(os.environ["SKEDGE_REMOTE_COMMANDS"], "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    return result


class CallbackModule(CallbackBase):
    """Loaded before any task runs; the processes that run tasks are forked from it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "remote_commands"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        ActionBase._low_level_execute_command = _noted  # type: ignore[method-assign]
