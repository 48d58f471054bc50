"""The cost of a link made from its measured delay and loss, with hysteresis: small or short changes move nothing. Pure.

``cost: auto`` is base + round trip in ms + `LOSS_EACH` for each percent lost. A part follows what is measured only once
that has been beyond the part's band for `WORSE_S` or `BETTER_S`: a change of cost moves traffic of the whole network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from skedge.core.model import AUTO, COST_MAX, Link, LinkId

STEP_S = 0.5  # how often to look
WORSE_S = 3.0  # the smoothed round trip has arrived at its new value by then
BETTER_S = 15.0
RTT_BAND_MS = 5.0  # or a quarter of the round trip, where that is more
RTT_BAND = 0.25
LOSS_BAND = 0.03  # of the last hundred seconds' loss, 1 % of which is off by 0.3 % for chance
LOSS_EACH = 10  # cost of one percent


@dataclass(frozen=True, slots=True)
class CostParts:
    """What a cost is made of: as configured, for the round trip, for loss."""

    base: int
    rtt: int = 0
    loss: int = 0

    @property
    def total(self) -> int:
        """Return the cost."""
        return min(self.base + self.rtt + self.loss, COST_MAX)


@dataclass(slots=True)
class Held:
    """A measured value that is held until another one has lasted; None before the first."""

    value: float | None = None
    beyond_since: float = inf

    def step(self, now: float, measured: float, band: float) -> float:
        """Take a measurement; return the value that counts."""
        if self.value is None:
            self.value = measured
        elif abs(measured - self.value) <= band:
            self.beyond_since = inf
        else:
            self.beyond_since = min(self.beyond_since, now)
            if now - self.beyond_since >= (WORSE_S if measured > self.value else BETTER_S):
                self.value, self.beyond_since = measured, inf
        return self.value


@dataclass(slots=True)
class MeasuredCost:
    """The cost of one link."""

    base: int
    _rtt: Held = field(default_factory=Held)
    _loss: Held = field(default_factory=lambda: Held(0.0))
    parts: CostParts = field(init=False)

    def __post_init__(self) -> None:
        self.parts = CostParts(self.base)

    def step(self, now: float, rtt_us: int, loss: float) -> None:
        """Take what the probes of a link that is up measured: the round trip in µs (0: none yet), the loss 0..1."""
        if not rtt_us:
            return
        rtt_ms = self._rtt.step(now, rtt_us / 1000, max(RTT_BAND_MS, RTT_BAND * (self._rtt.value or 0.0)))
        lost = self._loss.step(now, loss, LOSS_BAND)
        lost = lost if lost > LOSS_BAND else 0.0  # what remains of a loss that is over
        self.parts = CostParts(self.base, round(rtt_ms), round(lost * 100) * LOSS_EACH)


class MeasuredCosts:
    """The costs of one site's links with ``cost: auto``."""

    def __init__(self) -> None:
        self._links: dict[LinkId, MeasuredCost] = {}
        self._at = -inf

    def configure(self, links: Mapping[LinkId, Link]) -> None:
        """Take the configured links; what was measured of those that stay is kept."""
        auto = {link: at.base_cost for link, at in links.items() if at.cost == AUTO}
        same = {link: one for link, one in self._links.items() if auto.get(link) == one.base}
        self._links = {link: same.get(link) or MeasuredCost(base) for link, base in auto.items()}

    def deadline(self) -> float:
        """Return when to `step` at the latest."""
        return self._at + STEP_S if self._links else inf

    def step(self, now: float, measured: Mapping[LinkId, tuple[int, float]]) -> None:
        """Take round trip in µs and loss 0..1 of the links that are up."""
        self._at = now
        for link, one in self._links.items():
            if link in measured:
                one.step(now, *measured[link])

    def parts(self) -> dict[LinkId, CostParts]:
        """Return what each cost is made of."""
        return {link: one.parts for link, one in self._links.items()}
