"""What the commands share: the context, `--json`, and exit codes in the help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from skedge.core.errors import ExitCode

F = TypeVar("F", bound=Callable[..., Any])

EXIT_CODES = {
    ExitCode.OK: "done, and what was asked for is so",
    ExitCode.FAILED: "failed; the sentence on standard error says why",
    ExitCode.USAGE: "wrong usage",
    ExitCode.DEGRADED: "degraded, or not (yet) what --check asked for",
    ExitCode.BAD_CONFIG: "the configuration has problems",
}


EPILOG = "\b\nExit codes:\n" + "\n".join(f"{int(code):>4}  {meaning}" for code, meaning in EXIT_CODES.items())


@dataclass(frozen=True)
class Context:
    """The options that stand before the command."""

    socket_path: str
    debug: bool


pass_context = click.make_pass_decorator(Context)


def json_option(command: F) -> F:
    """Add --json."""
    return click.option("--json", "as_document", is_flag=True, help="Print JSON with a version field.")(command)
