# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Waits until the control node can log in to the host again, by a connection that was not open before."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.plugins.action.wait_for_connection import ActionModule as WaitForConnection

TRIES = 3  # so many connects that go unanswered fit into the time
CONNECT_MIN_S = 3
NO_SHARING = "-S none"  # wins over each ControlPath, wherever it was given; words of ssh's own command line
# Those words are not passed on to the ssh that ProxyJump or a ProxyCommand starts, by its name, to reach a jump host:
# so this one is found by that name.
WRAPPER = """#!/bin/sh
PATH={directory}:$PATH exec {python} -Ic 'import os, sys; os.execv(sys.argv[1], ["ssh", *sys.argv[2:]])' {ssh} \\
    {words} "$@"
"""


class ActionModule(WaitForConnection):
    """As ``wait_for_connection``, which may be answered by the connection that the last task left open."""

    _VALID_ARGS = frozenset(("timeout",))

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        with contextlib.suppress(AttributeError):
            self._connection.reset()  # the one that is open is used by nobody any more: the step may have broken it
        seconds = int(self._task.args.get("timeout", self.DEFAULT_TIMEOUT))
        with ssh_alone(self._option("ssh_executable")) as executable:
            for option, value in {**fresh(self._option, seconds), **executable}.items():
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


@contextlib.contextmanager
def ssh_alone(executable: str | None) -> Iterator[dict[str, str]]:
    """Yield the connection option of an ssh that reaches jump hosts anew, too; none where nothing can be executed."""
    found = shutil.which(executable or "")
    if found is None:
        yield {}
        return
    with tempfile.TemporaryDirectory(dir=C.DEFAULT_LOCAL_TMP) as name:
        file = Path(name, "ssh")
        words = {"directory": name, "python": sys.executable, "ssh": os.path.abspath(found)}
        quoted = {key: shlex.quote(word) for key, word in words.items()}
        file.write_text(WRAPPER.format(**quoted, words=NO_SHARING))
        file.chmod(0o700)
        yield {"ssh_executable": str(file)} if os.access(file, os.X_OK) else {}


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
