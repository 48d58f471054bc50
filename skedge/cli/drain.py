"""`skedge drain` and `skedge undrain`: takes a site, a workload or a link out of use, and waits until it is empty."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import click

from skedge.cli.client import ask
from skedge.cli.options import Context, json_option, pass_context
from skedge.cli.tables import as_json, rows_text
from skedge.core.api.documents import Request, Rows
from skedge.core.api.shown import DrainRow
from skedge.core.errors import ApiError, ExitCode

WHAT = ("site", "workload", "link")
PAUSE_S = 0.5
ABORTED_S = 120.0  # for ending connections: they are ended at a rate, so that not all clients come back at once
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(_context: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """Return the seconds of a duration; a wrong one is wrong usage."""
    if value is None:
        return None
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value)
    if matched is None:
        raise click.BadParameter(f"{value!r} is no duration; give one such as 60s or 5m")
    return float(matched[1]) * _UNITS[matched[2]]


_what = click.argument("what", type=click.Choice(WHAT), default="site", metavar="[WHAT]")
_name = click.argument("name", default="", metavar="[NAME]")


def _named(what: str, name: str) -> None:
    if (what == "site") == bool(name):
        raise click.UsageError(
            "a site is drained on its own host, and needs no name" if name else f"which {what}? Give its name"
        )


@click.command()
@_what
@_name
@click.option("--entry", is_flag=True, help="With the site: its own listeners take nothing, either.")
@click.option("--wait", "wait_s", callback=_seconds, metavar="TIME", help="Wait so long until it is empty: 60s, 5m.")
@click.option("--then", type=click.Choice(["abort"]), help="With --wait: end the connections that are left after it.")
@json_option
@pass_context
def drain(
    context: Context, what: str, name: str, entry: bool, wait_s: float | None, then: str | None, as_document: bool
) -> None:
    """Take this site, one of its workloads or of its links out of use.

    WHAT is site (the default), workload or link; NAME is the connector's, or the link's as `skedge show links` has it.
    What is open goes on; nothing is cut, but by --then abort.

    A drained site gets no new connections from anywhere, its own clients included, and is no transit. What it has to
    pass on goes other ways; sites that have no other way to each other cannot reach each other then, and are named.
    With --entry, connects to its own listeners are refused at once, too (entry-drained). A drained workload gets no
    new connections. A drained link has the largest cost, which holds at both ends: it is used only where no other path
    is, and what is open goes on over the others.

    A drain stands until `skedge undrain`, over restarts, reboots and deploys. It needs root or the group skedge-admin.
    --then abort ends what --wait leaves, those that were silent for the longest time first, some 1000 a second: also
    connections of programs of this host that go straight to the workload's server. Both ends get an error.
    With --wait the exit code is 3 when connections, or paths of others, are left at the end.
    """
    _named(what, name)
    if entry and what != "site":
        raise click.UsageError("--entry goes with the site: listeners belong to no workload and no link")
    if then and (wait_s is None or what == "link"):
        raise click.UsageError("--then abort needs --wait, and goes with a site or workload: a link has no connections")
    order = Request("drain", what=what, name=name, entry=entry)
    left = _drains(ask(order, context.socket_path).rows)
    if wait_s is not None:
        left = _wait(context, left, wait_s)
    if then and any(row.connections != 0 for row in left):
        left = _wait(context, _drains(ask(replace(order, abort=True), context.socket_path).rows), ABORTED_S)
    _tell(left, as_document)
    if wait_s is not None and not _empty(left):
        raise SystemExit(ExitCode.DEGRADED)


def _wait(context: Context, rows: tuple[DrainRow, ...], wait_s: float) -> tuple[DrainRow, ...]:
    """Look until nothing is left of what these rows are about, or the time is over; return the last look."""
    wanted = {(row.what, row.name) for row in rows}
    deadline = time.monotonic() + wait_s
    while not _empty(rows) and time.monotonic() < deadline:
        time.sleep(min(PAUSE_S, max(0.0, deadline - time.monotonic())))
        every = _drains(ask(Request("show", what="drains"), context.socket_path).rows)
        rows = tuple(row for row in every if (row.what, row.name) in wanted)
    return rows


@click.command()
@_what
@_name
@json_option
@pass_context
def undrain(context: Context, what: str, name: str, as_document: bool) -> None:
    """Take a drain by command back.

    What the configuration drains (skedge_drain, or drain of a connector) stays drained: the row that is printed then.
    """
    _named(what, name)
    rows = _drains(ask(Request("undrain", what=what, name=name), context.socket_path).rows)
    if rows or as_document:
        _tell(rows, as_document)
    else:
        click.echo(f"{f'{what} {name}'.strip()}: in use again")


@click.command()
@pass_context
def leave(context: Context) -> None:
    """Withdraw this site, because its host goes down.

    No new connections to its workloads, and no transit, until the controller starts again; returns when all sites have
    had the time to use other paths. The unit does it when the whole host stops or reboots, not when the controller is
    stopped, restarted or upgraded. It needs root or the group skedge-admin.
    """
    ask(Request("leave"), context.socket_path)


def _drains(rows: Rows | None) -> tuple[DrainRow, ...]:
    if rows is None or rows.drains is None:
        raise ApiError("the answer lacks its document; install the command and the controller from one release")
    return rows.drains


def _empty(rows: tuple[DrainRow, ...]) -> bool:
    """Tell whether nothing is left; what is not known is not nothing."""
    return all(row.what == "link" or (row.connections == 0 and not row.transit) for row in rows)


def _tell(rows: tuple[DrainRow, ...], as_document: bool) -> None:
    made = Rows(drains=rows)
    click.echo(as_json(made) if as_document else rows_text(made, "drains"))
