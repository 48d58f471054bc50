"""What dialling tells of a link whose far kernel answers probes: whether TCP passes, and whether it is wanted. Pure.

Refused at once, the neighbour's controller is gone and its host forwards: nothing is wrong with the link. Silence says
that TCP is thrown away on it, and so does an ICMP error of a firewall. A neighbour that accepts and hangs up without a
word runs, but does not hear us: for it the link is down. One such dial proves nothing; a row of them over some seconds
does, and a single good one takes it back.
"""

from __future__ import annotations

from dataclasses import dataclass

from skedge.core.reasons import Reason

DIALS = 5  # so many in a row ...
OVER_S = 8.0  # ... over so long: a restart and a busy host take less


@dataclass(slots=True)
class DialVerdict:
    """``reason`` is what is known of the link: NONE, TCP_DROPPED, TCP_PROHIBITED or ONE_WAY."""

    reason: Reason = Reason.NONE
    _row: int = 0
    _since: float = 0.0

    def note(self, now: float, told: Reason) -> bool:
        """Take what one dial (or the neighbour's own) told, NONE being good; return whether the verdict changed."""
        if told is Reason.NONE:
            return self.forget()
        if not self._row:
            self._since = now
        self._row += 1
        before = self.reason
        if self._row >= DIALS and now - self._since >= OVER_S:
            self.reason = told
        return self.reason is not before

    def forget(self) -> bool:
        """Begin anew: TCP passes, or the link is down anyway; return whether the verdict changed."""
        before, self.reason, self._row = self.reason, Reason.NONE, 0
        return before is not Reason.NONE
