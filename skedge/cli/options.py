"""What the commands share: the context, `--json`, and exit codes in the help."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

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


_FILTERS = (
    ("service", "NAME", "Only of this service."),
    ("workload", "SITE/CONNECTOR", "Only at this workload."),
    ("client", "IP[:PORT]", "Only of this client."),
)


def filter_options(command: F) -> F:
    """Add the options that choose among connections and flows; the command gets them as ``filters``."""

    @functools.wraps(command)
    def gather(*arguments: Any, **options: Any) -> Any:
        filters = {name: options.pop(name) for name, _, _ in _FILTERS}
        return command(*arguments, filters=filters, **options)

    wrapped: Any = gather
    for name, metavar, text in reversed(_FILTERS):
        wrapped = click.option(f"--{name}", default="", metavar=metavar, help=text)(wrapped)
    return cast("F", wrapped)
