"""Waits for a state of the controller."""

from __future__ import annotations

import time
from collections.abc import Callable

from skedge.cli.client import NotRunning
from skedge.core.api.documents import Status

PAUSE_S = 0.5


def wait_for(look: Callable[[], Status], good: Callable[[Status], bool], wait_s: float) -> Status:
    """Look until the state is good or ``wait_s`` is over, and return the last state.

    Raises:
        NotRunning: no controller answered at the last look.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            state = look()
        except NotRunning:
            if time.monotonic() >= deadline:
                raise
        else:
            if good(state) or time.monotonic() >= deadline:
                return state
        time.sleep(min(PAUSE_S, max(deadline - time.monotonic(), 0.0)))
