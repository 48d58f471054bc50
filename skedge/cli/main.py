"""The `skedge` command: asks the local controller, prints a table or JSON, answers by exit code."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import NoReturn, TypeVar

import click
import msgspec

from skedge.cli import purge
from skedge.cli.client import NotRunning, ask
from skedge.cli.drain import drain, leave, undrain
from skedge.cli.follow import placements
from skedge.cli.format import endpoint
from skedge.cli.options import EPILOG, Context, filter_options, json_option, pass_context
from skedge.cli.tables import as_json, explain_text, placement_text, plan_text, rows_text, status_text, sync_text
from skedge.cli.wait import wait_for
from skedge.config import loader
from skedge.core.api.documents import SOCKET_PATH, VERSION, Request, Status
from skedge.core.errors import ApiError, ConfigError, ExitCode, SkedgeError

T = TypeVar("T")

SHOWN = ("site", "sites", "links", "routes", "services", "listeners", "connections", "flows", "drops", "drains", "sync")
LIMIT_MAX = 10_000  # the controller gives no more in one answer
FILTERED = ("connections", "flows")
CHECKS = ("live", "ready", "synced")


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--socket", "socket_path", envvar="SKEDGE_SOCKET", default=SOCKET_PATH, metavar="PATH", show_default=True,
              show_envvar=True, help="The controller's socket.")  # fmt: skip
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.version_option(package_name="skedge", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, socket_path: str, debug: bool) -> None:
    """Show, explain and check the application network as this site knows it."""
    context.obj = Context(socket_path, debug)


@cli.command()
@click.option("--check", type=click.Choice(CHECKS), help="Answer by exit code: 0 when it is so, 3 when not.")
@click.option(
    "--wait", "wait_s", type=click.FloatRange(min=0), metavar="SECONDS", help="With --check: wait until it is so."
)
@json_option
@pass_context
def status(context: Context, check: str | None, wait_s: float | None, as_document: bool) -> None:
    """Say whether this site works.

    Prints one line a problem, the worst first, with its cause and since when it is so.

    live: the controller runs. ready: it forwards and balances. synced: every configured neighbour was heard, with the
    certificates of now, and the kernel has all that is wanted.
    Without --check the exit code is 0 when the site is ready and has no error, else 3.
    """
    if wait_s is not None and check is None:
        raise click.UsageError("--wait needs --check")

    def look() -> Status:
        answer = ask(Request("status", "kernel"), context.socket_path).status
        return _given(answer)

    def good(state: Status) -> bool:
        errors = any(problem.severity == "error" for problem in state.problems)
        return bool(getattr(state, check)) if check else state.ready and not errors

    try:
        state = wait_for(look, good, wait_s or 0.0)
    except NotRunning as error:
        raise NotUp(str(error)) if check else error from error
    _print(as_json(state) if as_document else status_text(state))
    if not good(state):
        raise SystemExit(ExitCode.DEGRADED)


class NotUp(NotRunning):
    """No controller answers, and whether it does was the question."""

    exit_code = ExitCode.DEGRADED


@cli.command()
@click.argument("what", type=click.Choice(SHOWN), metavar="WHAT")
@click.option(
    "--limit",
    type=click.IntRange(1, LIMIT_MAX),
    metavar="N",
    default=1000,
    show_default=True,
    help=f"Rows at most, up to {LIMIT_MAX}; with --follow: at one look.",
)
@filter_options
@click.option("--follow", is_flag=True, help="Print each placement as it happens, until interrupted.")
@json_option
@pass_context
def show(context: Context, what: str, limit: int, filters: Mapping[str, str], follow: bool, as_document: bool) -> None:
    """List what this site knows.

    WHAT is one of: site, sites, links, routes, services, listeners, connections, flows, drops, drains, sync.

    connections are those that were placed at this site and are open; flows are those of the LAN in the flow table
    (of clients or to workloads that are not programs of this host). --service, --workload, --client and --follow go
    with these two. --follow looks three times a second: a connection that ends within that time may not be seen.
    """
    if (follow or any(filters.values())) and what not in FILTERED:
        raise click.UsageError(f"--follow and filters go with {' and '.join(FILTERED)}, not with {what}")
    service, workload, client = (filters[name] for name in ("service", "workload", "client"))
    request = Request("show", what=what, limit=limit, service=service, workload=workload, client=client)
    if follow:
        _follow(context, request, as_document)
    answer = ask(request, context.socket_path)
    if what == "sync":
        sync = _given(answer.sync)
        _print(as_json(sync) if as_document else sync_text(sync))
    else:
        rows = _given(answer.rows)
        _print(as_json(rows) if as_document else rows_text(rows, what))


def _follow(context: Context, request: Request, as_document: bool) -> NoReturn:
    for row in placements(lambda one: ask(one, context.socket_path), request, time.monotonic()):
        when = time.strftime("%H:%M:%S", time.localtime(time.time() - (time.monotonic() - row.placed_s)))
        _print(msgspec.json.encode(row).decode() if as_document else placement_text(row, when))
        sys.stdout.flush()
    raise AssertionError("it never ends by itself")


@cli.command()
@click.argument("name", metavar="SERVICE")
@click.argument("client", required=False, metavar="[IP:PORT]")
@click.option("--from", "site", default="", metavar="SITE", help="Explain as if entering there (default: this site).")
@json_option
@pass_context
def explain(context: Context, name: str, client: str | None, site: str, as_document: bool) -> None:
    """Say where the next connection goes, and why.

    Prints every candidate with each part of its perceived cost, or the reason why it is out; -> marks the winner.

    `skedge explain connection IP:PORT` prints the receipt of one open connection, named by its client's address and
    port. (A service that is itself called connection is explained by leaving IP:PORT out.)
    """
    if client is not None:
        _explain_connection(context, name, client, site, as_document)
        return
    document = _given(ask(Request("explain", name=name, site=site), context.socket_path).explain)
    _print(as_json(document) if as_document else explain_text(document))


def _explain_connection(context: Context, name: str, client: str, site: str, as_document: bool) -> None:
    if name != "connection":
        raise click.UsageError(f"one service at a time; for a connection's receipt: skedge explain connection {client}")
    if site:
        raise click.UsageError("--from goes with a service; a receipt is of a connection that was placed here")
    try:
        wanted = endpoint(client)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    rows = _given(ask(Request("explain-connection", name=wanted), context.socket_path).rows)
    if not rows.connections:
        raise ApiError(f"no open connection from {wanted} was placed here; list them with: skedge show connections")
    _print(as_json(rows) if as_document else rows_text(rows, "connection"))


@cli.command()
@json_option
@pass_context
def plan(context: Context, as_document: bool) -> None:
    """Print what the controller would change now.

    These are exactly the changes to the kernel that the next reconcile run would make, in order. Changes nothing.
    """
    document = _given(ask(Request("plan"), context.socket_path).plan)
    _print(as_json(document) if as_document else plan_text(document))


@cli.group()
def config() -> None:
    """Look at configuration files."""


class ConfigCheck(msgspec.Struct, frozen=True):
    """JSON document of `config check`: ``problems`` is one sentence each, empty when the file is good."""

    file: str
    problems: list[str]
    version: int = VERSION


@config.command("check")
@click.argument("file", default=purge.CONFIG_PATH, metavar="[FILE]")
@json_option
def config_check(file: str, as_document: bool) -> None:
    """Read FILE as the controller would and name every problem in it.

    FILE is /etc/skedge/skedge.yaml if not given. The exit code is 78 when there is a problem.
    """
    try:
        found = loader.problems(loader.parse(loader.read(file), file), file)
    except ConfigError as error:
        found = str(error).splitlines()
    if as_document:
        _print(as_json(ConfigCheck(file, found)))
    for sentence in found:
        click.echo(sentence, err=True)
    if found:
        raise SystemExit(ExitCode.BAD_CONFIG)
    if not as_document:
        _print(f"{file}: good")


@cli.command("purge")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_context
def purge_command(context: Context, yes: bool, as_document: bool) -> None:
    """Take skedge out of this host's kernel.

    Removes its links, routes, addresses, programs and maps; nothing of others.

    Stopping the controller leaves forwarding and balancing as they are; this is the separate act that ends them. It
    needs root and a stopped controller. Connections that go over links are cut.
    """
    purge.refuse_unless_possible(context.socket_path)
    if not yes:
        click.confirm("Take everything of skedge out of this host's kernel, and cut what goes over links?", abort=True)
    report = purge.run()
    if as_document:
        _print(as_json(report))
    else:
        for step in report.steps:
            _print(f"{step.what}: {'done' if step.done else 'failed'}" + (f" ({step.output})" if step.output else ""))
    if not all(step.done for step in report.steps):
        raise SystemExit(ExitCode.FAILED)


cli.add_command(drain)
cli.add_command(undrain)
cli.add_command(leave)

# ---- printing, errors ------------------------------------------------------------------------------------------


def _given(document: T | None) -> T:
    if document is None:
        raise ApiError("the answer lacks its document; install the command and the controller from one release")
    return document


def _print(text: str) -> None:
    click.echo(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: one sentence and its exit code for an error, a traceback only with --debug."""
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.FAILED
    except SkedgeError as error:
        code = error.exit_code
        _complain(str(error), debug)
    except Exception as error:
        code = ExitCode.FAILED
        _complain(f"internal error ({type(error).__name__}: {error}); see where with: skedge --debug", debug)
    sys.exit(int(code))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        result = cli.main(args=arguments, prog_name="skedge", standalone_mode=False)
    except SystemExit as end:  # how a command says its own exit code, so that what it printed is flushed here
        return end.code if isinstance(end.code, int) else ExitCode.FAILED
    except click.UsageError as error:
        error.show()
        return ExitCode.USAGE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("stopped; nothing more was done", err=True)
        return ExitCode.FAILED
    return result if isinstance(result, int) else ExitCode.OK


def _complain(sentence: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    for line in sentence.splitlines():
        click.echo(f"skedge: {line}", err=True)
