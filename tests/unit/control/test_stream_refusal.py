"""What went wrong on a stream is told in words, without a programming language's."""

from __future__ import annotations

import pytest

from skedge.control.streams.stream import refusal
from skedge.core.model import LinkId
from skedge.core.reasons import Reason

LINK = LinkId("a", "b")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TimeoutError(), "a--b: no answer in time"),
        (OSError(111, "Connect call failed ('fe80::1', 7401, 0, 4)"), "a--b: Connection refused"),
        (TimeoutError(110, "Connect call failed ('fe80::1', 7401, 0, 4)"), "a--b: Connection timed out"),
        (ConnectionAbortedError(), "a--b: the neighbour ended the connection in the handshake"),
        (ConnectionResetError("Connection lost"), "a--b: Connection lost"),
    ],
)
def test_what_ends_a_connection_is_said_in_words(error: OSError, text: str) -> None:
    found = refusal(error, LINK)
    assert (found.reason, str(found)) == (Reason.NO_ANSWER, text)
