"""Every error that skedge raises on purpose, and the exit codes of its commands.

Each class says who must act. ``str(error)`` is one sentence that names the place and the way out.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `skedge` and `skedged`, the same everywhere."""

    OK = 0
    FAILED = 1
    USAGE = 2
    DEGRADED = 3
    BAD_CONFIG = 78  # EX_CONFIG; the unit's RestartPreventExitStatus


class SkedgeError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = ExitCode.FAILED


class ConfigError(SkedgeError):
    """The operator must change the configuration. Names file, path in it and the way out."""

    exit_code = ExitCode.BAD_CONFIG


class DataplaneError(SkedgeError):
    """A kernel object could not be read or written; the next reconcile run retries it."""


class Waiting(DataplaneError):
    """A kernel object waits for something that another host must do first; nothing is wrong with this one."""


class HostError(SkedgeError):
    """The host lacks something (root, BTF, cgroup2, a module); the operator must prepare it."""


class PeerError(SkedgeError):
    """A neighbour sent something that cannot be accepted; its operator must act."""


class ApiError(SkedgeError):
    """The local controller could not be asked or refused the request."""
