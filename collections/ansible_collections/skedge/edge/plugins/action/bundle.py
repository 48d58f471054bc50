# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Builds the bundle of wheels for one kind of host on the control node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.skedge.edge.plugins.plugin_utils import bytecode, release_file
from ansible_collections.skedge.edge.plugins.plugin_utils.bundle import (
    BundleError,
    Target,
    build,
    digest,
    sources_digest,
)


class ActionModule(ActionBase):
    """Runs on the control node only. Its cache is no change of any host; check mode builds nothing."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={
                "source_dir": {"type": "path", "required": True},
                "cache_dir": {"type": "path", "required": True},
                "python": {"type": "str", "required": True},
                "machine": {"type": "str", "required": True},
                "glibc": {"type": "str", "required": True},
                "later_pythons": {"type": "list", "elements": "str", "default": []},
                "release": {"type": "path"},
            }
        )
        target = Target(args["python"], args["machine"], args["glibc"], tuple(args["later_pythons"]))
        source, cache = Path(args["source_dir"]), Path(args["cache_dir"])
        try:
            release = Path(args["release"] or source / release_file.NAME)
            compiler, code, warnings = taken(source, release, target.machine)
            if not code:
                compiler = bytecode.compiler(target.python, target.machine)
            refused = cache / f"no-bytecode-{digest(source, target, compiler)}"
            if compiler and not self._task.check_mode and not refused.exists():
                try:
                    build(source, cache, target, compiler, code)
                except bytecode.BytecodeError as error:
                    refused.write_text(f"{error}\n", encoding="utf-8")  # and is not tried again for these sources
            if refused.exists():
                warnings.append(refused.read_text(encoding="utf-8").strip())
                compiler = ""
            path = "" if self._task.check_mode else str(build(source, cache, target, compiler, code))
            result.update(changed=False, digest=digest(source, target, compiler), path=path, bytecode=compiler)
        except (BundleError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        if warnings:
            result["warnings"] = warnings
        return result


def taken(source: Path, path: Path, machine: str) -> tuple[str, bytes, list[str]]:
    """Return which release is taken, its bytecode, and why one that is there is not. Raises BundleError."""
    if not path.exists():
        return "", b"", []
    found, code = release_file.read(path)
    why = found.why_not(sources_digest(source), machine)
    if why:
        return "", b"", [f"{path} is not taken ({why}); the hosts' programs are compiled as without it"]
    return f"release {found.bytecode[:16]}", code, []
