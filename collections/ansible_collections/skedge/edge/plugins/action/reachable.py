# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Waits until the control node can log in to the host again, by a connection that was not open before."""

from __future__ import annotations

import contextlib
from typing import Any

from ansible.plugins.action.wait_for_connection import ActionModule as WaitForConnection

TRIES = 3  # so many connects that go unanswered fit into the time
CONNECT_MIN_S = 3
NO_SHARING = "-S none"  # wins over each ControlPath, wherever it was given; words of ssh's own command line


class ActionModule(WaitForConnection):
    """As ``wait_for_connection``, which may be answered by the connection that the last task left open."""

    _VALID_ARGS = frozenset(("timeout",))

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        with contextlib.suppress(AttributeError):
            self._connection.reset()  # the one that is open is used by nobody any more: the step may have broken it
        seconds = int(self._task.args.get("timeout", self.DEFAULT_TIMEOUT))
        for option, value in fresh(self._option, seconds).items():
            self._connection.set_option(option, value)
        result = super().run(tmp, task_vars)
        result.setdefault("changed", False)
        return result

    def _option(self, name: str) -> Any:
        """Return an option of the connection plugin, None where it has none of that name."""
        try:
            return self._connection.get_option(name)
        except KeyError:
            return None


def fresh(option: Any, seconds: int) -> dict[str, Any]:
    """Return the connection options by which no earlier connection is used, and several tries fit into the time."""
    changed: dict[str, Any] = {}
    if option("ssh_extra_args") is not None or option("ssh_args") is not None:
        changed["ssh_extra_args"] = f"{option('ssh_extra_args') or ''} {NO_SHARING}".strip()
    if option("timeout") is not None:
        changed["timeout"] = max(CONNECT_MIN_S, min(int(option("timeout")), seconds // TRIES))
    if option("reconnection_retries") is not None:
        changed["reconnection_retries"] = 0
    return changed
