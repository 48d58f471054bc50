"""How much a link loses, and how long a run of lost probes that explains; and how much of it our own host may cause.

Pure: ``now`` is monotonic seconds, an argument.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

FALSE_DOWN = 1e-6  # accepted probability, per probe, that random loss alone looks like a cut
LOST_FACTOR = 5  # a lossy link needs at most this many times the configured run
UNKNOWN_LOSS = 0.03  # reckoned with on a new link that has lost nothing yet
LONG_WINDOW = 1024  # answered-or-lost outcomes behind the cautious estimate
SHORT_WINDOW = 64  # outcomes behind the quick estimate, which follows a link that turns bad
EXCUSE_S = 1.0  # so many seconds of an overload of our own host are no sign of the link's end ...
EXCUSE_EVERY_S = 60.0  # ... in so many: what an answer now and then renewed would excuse for ever


class LossWindow:
    """Outcomes of the last probes, and how long a run of lost ones random loss could explain."""

    def __init__(self) -> None:
        self._long: deque[bool] = deque(maxlen=LONG_WINDOW)
        self._short: deque[bool] = deque(maxlen=SHORT_WINDOW)
        self._long_lost = self._short_lost = 0

    def add(self, lost: bool) -> None:
        """Note one probe's outcome."""
        if len(self._long) == LONG_WINDOW:
            self._long_lost -= self._long[0]
        self._long.append(lost)
        self._long_lost += lost
        if len(self._short) == SHORT_WINDOW:
            self._short_lost -= self._short[0]
        self._short.append(lost)
        self._short_lost += lost

    @property
    def loss(self) -> float:
        """Return the measured share of lost probes, 0..1."""
        return self._long_lost / len(self._long) if self._long else 0.0

    def cautious(self) -> float:
        """Return the loss that must be reckoned with, 0..1.

        Upper 95 % bound of the long window (the "rule of three" when nothing was lost), or the short window's mean
        where that is more: the first is steady, the second quick.
        """
        if not self._long:
            return 0.0
        bound = (self._long_lost + 3 + 2 * math.sqrt(self._long_lost)) / len(self._long)
        if not self._long_lost:
            bound = min(bound, UNKNOWN_LOSS)
        return min(1.0, max(bound, self._short_lost / len(self._short)))

    def needed(self, configured: int) -> int:
        """Return how many lost in a row mean down: the least k >= configured with loss^k <= FALSE_DOWN, capped."""
        loss, most = self.cautious(), configured * LOST_FACTOR
        if loss <= 0.0:
            return configured
        if loss >= 1.0:
            return most
        return max(configured, min(most, math.ceil(math.log(FALSE_DOWN) / math.log(loss))))


@dataclass(slots=True)
class Excuse:
    """What is left of `EXCUSE_S`; it grows back slowly, whatever is answered in between."""

    at: float
    left: float = EXCUSE_S

    def take(self, now: float, seconds: float) -> bool:
        """Tell whether so many seconds more are excused."""
        self.left = min(EXCUSE_S, self.left + (now - self.at) * EXCUSE_S / EXCUSE_EVERY_S)
        self.at = now
        if self.left < seconds:
            return False
        self.left -= seconds
        return True
