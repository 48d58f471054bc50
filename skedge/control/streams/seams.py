"""What one link's end is given by the bus, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skedge.control.identity.identity import Identity
from skedge.core.linkstate.messages import Message
from skedge.core.model import LinkId
from skedge.core.reasons import Reason


@dataclass(frozen=True, slots=True)
class StreamStats:
    """One link's stream: up since when (monotonic seconds), or why not.

    ``tcp`` is what dialling told of the link, see `DialVerdict`. ``shown`` is the serial number of
    this site's certificate that the neighbour took when the stream was made;
    ``refused`` is why one end did not take the other's certificate of now, since the last stream that came to be.
    """

    up: bool
    since: float
    reason: Reason = Reason.NONE
    text: str = ""
    dialler: str = ""
    frames_in: int = 0
    frames_out: int = 0
    tcp: Reason = Reason.NONE
    shown: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Seams:
    """What every link's end shares: who we are, and the callables behind which the flooder sits (see `Bus`)."""

    site: str
    identity: Identity
    port: int
    on_up: Callable[[LinkId], None]
    on_down: Callable[[LinkId, Reason], None]
    on_message: Callable[[LinkId, Message], None]
    take: Callable[[LinkId], Message | None]
    rtt: Callable[[LinkId], float]
    on_verdict: Callable[[LinkId], None]
