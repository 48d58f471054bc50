"""What is drained at this site, and by whom, for `skedge status` (pure)."""

from __future__ import annotations

import time
from collections.abc import Iterator

from skedge.core.drains import DrainKind
from skedge.daemon.api.problems import Finding
from skedge.daemon.state import State

_DRAINED = {
    DrainKind.SITE: "it is no transit, its workloads get no new connections",
    DrainKind.WORKLOAD: "it gets no new connections",
    DrainKind.LINK: "it is used only where no other path is",
}


def findings(state: State, *, synced: bool) -> Iterator[Finding]:
    """Yield what is drained, and by whom: what the configuration and what a command drains add up."""
    if state.given.drain:
        yield Finding("info", "drain", "this site is drained: its workloads get no new connections")
    if state.unusable and synced:
        cause = "its host was said to go down, so others do not use this site; systemctl restart skedge takes that back"
        yield Finding("warning", "leave", cause)
    for one in state.drains:
        what = f"{one.what} {one.name}".strip()
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(one.since))
        entry = ", and its listeners take none" if one.entry else ""
        back = f"take it back with: skedge undrain {what}"
        cause = f"by command of {one.by} since {since}: {_DRAINED[one.what]}{entry}; {back}"
        yield Finding("info", f"drain {what}", cause)
