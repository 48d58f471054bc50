"""Writes docs/cli.md from the command itself: ``python -m skedge.cli.reference > docs/cli.md``; a test compares."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from skedge.cli.main import ConfigCheck, cli
from skedge.cli.options import EXIT_CODES
from skedge.cli.purge import PurgeReport, Step
from skedge.core.api import documents, shown

DOCUMENTS: list[tuple[str, type]] = [
    ("skedge status", documents.Status),
    ("skedge show …, skedge explain connection …, skedge drain", documents.Rows),
    ("skedge show sync", documents.Sync),
    ("skedge explain SERVICE", documents.Explain),
    ("skedge plan", documents.PlanReport),
    ("skedge config check", ConfigCheck),
    ("skedge purge", PurgeReport),
]
ROWS: list[type] = [
    documents.Problem,
    shown.SiteRow,
    shown.LinkRow,
    shown.RouteRow,
    shown.ServiceRow,
    shown.CandidateRow,
    shown.ListenerRow,
    shown.ListenerServiceRow,
    shown.ConnectionRow,
    shown.FlowRow,
    shown.DropRow,
    shown.DrainRow,
    documents.PlanStep,
    Step,
]
HEAD = """# The `skedge` command

<!-- made by: python -m skedge.cli.reference > docs/cli.md -->

`skedge` asks the controller of the host that it runs on, over the Unix socket `/run/skedge/api.sock` (root and members
of the group `skedge` may). Every site knows the whole network, so it works on any host of it. `config check` and
`purge` work without a controller.

Tables are for reading and may change; for programs there is `--json` on every command. An error is one sentence on
standard error that says what to do; the exit code tells the kind.
"""
COMPLETION = """## Completion

In `~/.bashrc`, `~/.zshrc` or `~/.config/fish/completions/skedge.fish`:

```
eval "$(_SKEDGE_COMPLETE=bash_source skedge)"
eval "$(_SKEDGE_COMPLETE=zsh_source skedge)"
_SKEDGE_COMPLETE=fish_source skedge | source
```
"""
VERSION = documents.VERSION
JSON_HEAD = f"""## JSON documents

Each has `version`, now {VERSION}. It changes when a key changes its meaning or goes; new keys may appear at any
time. Times are seconds, unless the name ends in `_ms`; `null` means: not known.
"""


def text() -> str:
    """Return the whole page."""
    codes = "\n".join(f"| {int(code)} | {meaning} |" for code, meaning in EXIT_CODES.items())
    parts = [HEAD, f"## Exit codes\n\n| code | meaning |\n|---|---|\n{codes}\n", "## Commands\n"]
    parts += [_command(path, command) for path, command in _commands(cli, "skedge")]
    parts.append(JSON_HEAD)
    parts += [_document(f"`{command}`", kind) for command, kind in DOCUMENTS]
    parts.append("### Items of the lists\n")
    parts += [_document(f"`{kind.__name__}`", kind, level=4) for kind in ROWS]
    parts.append(COMPLETION)
    return "\n".join(parts)


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield the group itself (its options go before any command) and every command below it."""
    if path == "skedge" or not isinstance(command, click.Group):
        yield path, command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _commands(command.commands[name], f"{path} {name}")


def _command(path: str, command: click.Command) -> str:
    """Return usage, explanation and options; rendered here, so that a new click release changes nothing."""
    arguments = [param.metavar or param.name or "" for param in command.params if isinstance(param, click.Argument)]
    usage = " ".join([path, "[OPTIONS]", *arguments, *(["COMMAND"] if isinstance(command, click.Group) else [])])
    options = [_option(param) for param in command.params if isinstance(param, click.Option)]
    table = "\n".join(["| option | meaning |", "|---|---|", *options])
    return f"### `{path}`\n\n`{usage}`\n\n{inspect.cleandoc(command.help or '')}\n\n{table}\n"


def _option(option: click.Option) -> str:
    value = "" if option.is_flag else " " + (option.metavar or option.name or "").upper()
    if isinstance(option.type, click.Choice):
        value = " " + "\\|".join(option.type.choices)
    notes = [option.help or ""]
    notes += [f"Environment: `{option.envvar}`."] if option.envvar else []
    notes += [f"Default: {option.default}."] if option.show_default else []
    return f"| `{', '.join(option.opts)}{value}` | {' '.join(notes)} |"


def _document(title: str, kind: type, level: int = 3) -> str:
    hints = typing.get_type_hints(kind)
    rows = "\n".join(f"| `{name}` | {_type(hints[name])} |" for name in _field_names(kind))
    about = " ".join((kind.__doc__ or "").split())
    return f"{'#' * level} {title}\n\n{about}\n\n| key | type |\n|---|---|\n{rows}\n"


def _field_names(kind: Any) -> list[str]:
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    return [field.name for field in msgspec.structs.fields(kind)]


def _type(hint: Any) -> str:
    """Return a type in JSON's words."""
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"object of {_type(arguments[1])} by name"
    if type(None) in arguments:
        return _type(next(part for part in arguments if part is not type(None))) + " or null"
    return {bool: "boolean", int: "integer", float: "number", str: "string"}.get(hint, f"`{hint.__name__}`")


if __name__ == "__main__":
    sys.stdout.write(text())
