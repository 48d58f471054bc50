"""When is a link down? The decision alone: no sockets, no clock (``now`` is monotonic seconds, an argument).

A run of unanswered probes means "down" only while the loss measured on the link makes such a run improbable
(``loss.FALSE_DOWN`` a probe). On a clean link that is the configured number, on a lossy one more. What was sent too
recently to be answered never counts as lost. What our own host would not send does: only answers keep a link up. An
overload of the host is excused for a second in a minute (`loss.Excuse`), so no error here puts off the end for longer.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice

from skedge.control.liveness.loss import LOST_FACTOR, Excuse, LossWindow
from skedge.core.model import Probe
from skedge.core.reasons import Reason

GRACE_FLOOR_S = 0.05  # least time that a reply is waited for
GRACE_INITIAL_S = 0.5  # the same while no round trip was measured yet
RISE = 3  # answers in a row that bring a link back that was down
FLAP_FACTOR = 2  # runs up to this many times the most that is needed were loss, longer ones a cut
OUTSTANDING_MAX = 256
CLOCK_STEP_S = 1e-6  # rounding of sums of times


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """What changed: is the link up, and if not, why (PROBE_LOST, NOT_SENT or NO_CARRIER)."""

    up: bool
    reason: Reason = Reason.NONE


@dataclass(frozen=True, slots=True)
class LinkStats:
    """One link as measured. RTTs in µs (0: none yet), ``loss`` 0..1, ``since`` monotonic seconds of the last change.

    ``needed`` is how many probes lost in a row mean down at the present loss. ``sent`` are those that the kernel took,
    ``unsent`` those that it refused; ``unsent_errno`` is why it refused the last one, 0 where it took that. ``tcp`` is
    not measured here, but told by dialling (`DialVerdict`): what TCP meets on a link that answers probes.
    ``outage_s`` is how long a link that is up was down before; 0 where it never was.
    """

    up: bool
    reason: Reason
    since: float
    rtt_us: int = 0
    rtt_last_us: int = 0
    loss: float = 0.0
    sent: int = 0
    received: int = 0
    needed: int = 0
    unsent: int = 0
    unsent_errno: int = 0
    tcp: Reason = Reason.NONE
    outage_s: float = 0.0


class Liveness:
    """Up or down of one link, from what was sent and what came back. Begins down, up at the first answer."""

    def __init__(self, probe: Probe, now: float) -> None:
        self.probe = probe
        self._window, self._excuse = LossWindow(), Excuse(now)
        self._outstanding: OrderedDict[int, tuple[float, float]] = OrderedDict()  # sequence -> (before, after) sending
        self._given_up: OrderedDict[int, tuple[float, float]] = OrderedDict()  # the same, counted as lost
        self._sequence = self._sent = self._received = 0
        self._unsent = self._errno = 0
        self._run = self._rise = 0
        self._rtt = self._rtt_var = self._rtt_last = 0.0
        self._carrier = True
        self._ever_up = False
        self._up = False
        self._reason = Reason.PROBE_LOST
        self._since = now
        self._outage = 0.0

    @property
    def up(self) -> bool:
        """Return whether the link is up."""
        return self._up

    def next_sequence(self) -> int:
        """Return the number for the next probe; it counts only once `sent` is told."""
        self._sequence += 1
        return self._sequence

    def sent(self, sequence: int, before: float, after: float) -> None:
        """Note that the kernel took the probe, between ``before`` (where its round trip starts) and ``after``.

        Losses are judged from ``after``: a sender held up inside the call must not look like a cut.
        """
        self._sent += 1
        self._errno = 0
        self._await(sequence, before, after)

    def unsent(self, sequence: int, now: float, error: int, *, overload: bool) -> None:
        """Note that the kernel refused the probe with errno ``error``: lost, unless it was a short ``overload``."""
        self._unsent += 1
        self._errno = error
        if not (overload and self._excuse.take(now, self.probe.interval_ms / 1000)):
            self._await(sequence, now, now)

    def _await(self, sequence: int, before: float, after: float) -> None:
        self._outstanding[sequence] = (before, after)
        if len(self._outstanding) > OUTSTANDING_MAX:  # only when tick() is not called
            self._outstanding.popitem(last=False)

    def reply(self, sequence: int, arrived: float, now: float) -> LinkStatus | None:
        """Note an answer, however late, that arrived at ``arrived``; return the change it makes.

        Duplicates and answers to what was never asked are ignored.
        """
        late = sequence in self._given_up
        times = (self._given_up if late else self._outstanding).pop(sequence, None)
        if times is None:
            return None
        self._received += 1
        self._measure(max(arrived - times[0], 1e-6))
        lost = self._run - 1 if late and self._run else self._run
        if lost <= self.probe.lost * LOST_FACTOR * FLAP_FACTOR:
            for _ in range(lost):
                self._window.add(True)
        self._window.add(False)
        self._run = 0
        self._rise += 1
        if self._up or not self._carrier or (self._ever_up and self._rise < RISE):
            return None
        self._outage = now - self._since if self._ever_up else 0.0
        self._ever_up = True
        return self._change(True, Reason.NONE, now)

    def tick(self, now: float) -> LinkStatus | None:
        """Count what stayed unanswered for too long at ``now``; return the change it makes.

        The caller has handed over every reply that had arrived by ``now``, or a busy host would look like a cut.
        """
        deadline = now - self.grace()
        while self._outstanding:
            sequence, times = next(iter(self._outstanding.items()))
            if times[1] > deadline + CLOCK_STEP_S:
                break
            self._given_up[sequence] = self._outstanding.pop(sequence)
            if len(self._given_up) > OUTSTANDING_MAX:
                self._given_up.popitem(last=False)
            self._run += 1
            self._rise = 0
        if self._up and self._run >= self.probe.lost and self._run >= self.needed():
            return LinkStatus(False, self._silence) if self._change(False, Reason.PROBE_LOST, now) else None
        return None

    @property
    def _silence(self) -> Reason:
        """Why there is no answer: what was refused here asked nobody."""
        return Reason.NOT_SENT if self._errno else Reason.PROBE_LOST

    @property
    def waits(self) -> bool:
        """Tell whether any answer is still waited for."""
        return bool(self._outstanding)

    def judge_at(self) -> float:
        """Return when `tick` could find the link down if nothing comes back (inf: not before more is sent)."""
        if not self._up or self._run + len(self._outstanding) < self.probe.lost:
            return math.inf  # at least so many are needed, and this is asked twice a probe
        missing = self.needed() - self._run
        if not 0 < missing <= len(self._outstanding):
            return math.inf
        _before, after = next(islice(self._outstanding.values(), missing - 1, None))
        return after + self.grace()

    def carrier(self, up: bool, now: float) -> LinkStatus | None:
        """Note the device's carrier; without it the link is down at once, with it the probes decide."""
        self._carrier = up
        if not up:
            self._outstanding.clear()
            self._rise = 0
        if not up and (self._up or self._reason is not Reason.NO_CARRIER):
            return self._change(False, Reason.NO_CARRIER, now)
        if up and self._reason is Reason.NO_CARRIER:
            self._reason = Reason.PROBE_LOST
        return None

    def grace(self) -> float:
        """Return the seconds that a reply is waited for: as TCP's retransmission timer (RFC 6298), lower floor."""
        if not self._rtt:
            return GRACE_INITIAL_S
        return self._rtt + max(4 * self._rtt_var, GRACE_FLOOR_S)

    def needed(self) -> int:
        """Return how many probes lost in a row mean down now."""
        return self._window.needed(self.probe.lost)

    def stats(self) -> LinkStats:
        """Return the numbers to show."""
        return LinkStats(
            up=self._up,
            reason=self._silence if self._reason is Reason.PROBE_LOST else self._reason,
            since=self._since,
            rtt_us=round(self._rtt * 1e6),
            rtt_last_us=round(self._rtt_last * 1e6),
            loss=1.0 if self._run and not self._up else self._window.loss,
            sent=self._sent,
            received=self._received,
            needed=self.needed(),
            unsent=self._unsent,
            unsent_errno=self._errno,
            outage_s=self._outage,
        )

    def _measure(self, rtt_s: float) -> None:
        self._rtt_last = rtt_s
        if not self._rtt:
            self._rtt, self._rtt_var = rtt_s, rtt_s / 2
            return
        self._rtt_var += (abs(rtt_s - self._rtt) - self._rtt_var) / 4
        self._rtt += (rtt_s - self._rtt) / 8

    def _change(self, up: bool, reason: Reason, now: float) -> LinkStatus | None:
        changed = up != self._up
        self._up, self._reason = up, reason
        if not changed:
            return None
        self._since, self._rise = now, 0
        return LinkStatus(up, reason)
