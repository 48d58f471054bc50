"""What the control plane refused: counted all, remembered and logged only as often as somebody can read."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable

from skedge.core.reasons import Reason

log = logging.getLogger("skedge.control")

LATEST_MAX = 50
SAME_LOG_S = 10.0
LOGS_A_SECOND = 5


class Refusals:
    """Refused messages and records. Hostile neighbours can cause hundreds a second."""

    def __init__(self) -> None:
        self.counts: Counter[Reason] = Counter()
        self._recent: dict[tuple[Reason, str], float] = {}
        self._logged: deque[float] = deque(maxlen=LOGS_A_SECOND)

    def add(self, now: float, reason: Reason, text: str) -> None:
        """Note one."""
        self.counts[reason] += 1
        last = self._recent.pop((reason, text), None)
        self._recent[reason, text] = now if last is None or now - last >= SAME_LOG_S else last
        while len(self._recent) > LATEST_MAX:
            self._recent.pop(next(iter(self._recent)))
        if last is not None and now - last < SAME_LOG_S:
            return
        if len(self._logged) == LOGS_A_SECOND and now - self._logged[0] < 1.0:
            return
        self._logged.append(now)
        log.warning("reason=%s %s", reason.word, text)

    def recent(self) -> Iterable[tuple[float, Reason, str]]:
        """Return what was refused lately and when (to within ten seconds), newest last."""
        return [(at, reason, text) for (reason, text), at in self._recent.items()]
