"""When handshakes were, on the monotonic clock: WireGuard tells the wall clock's time, which may be set meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from skedge.dataplane.links.wireguard_backend import Peer


@dataclass(frozen=True, slots=True)
class _Seen:
    """A peer's handshake as WireGuard tells it, when that was, and when it was last looked at (monotonic seconds)."""

    told: float
    at: float
    looked: float


@dataclass(slots=True)
class Handshakes:
    """The handshakes of all devices. One that was seen keeps its time, whatever happens to the wall clock."""

    _seen: dict[str, dict[str, _Seen]] = field(default_factory=dict)

    def forget(self, device: str) -> None:
        """Forget a device that goes."""
        self._seen.pop(device, None)

    def monotonic(self, device: str, peers: Mapping[str, Peer], now: float, wall: float) -> dict[str, Peer]:
        """Return the peers with handshakes in monotonic seconds, 0 before the first; ``wall`` is the wall clock now.

        One that is new since the last look was not before it, and none is to come.
        """
        before = self._seen.get(device, {})
        seen = {key: _look(before.get(key), peer, now, wall) for key, peer in peers.items() if peer.handshake}
        self._seen[device] = seen
        return {key: replace(peer, handshake=seen[key].at if key in seen else 0.0) for key, peer in peers.items()}


def _look(before: _Seen | None, peer: Peer, now: float, wall: float) -> _Seen:
    if before is not None and before.told == peer.handshake:
        return replace(before, looked=now)
    at = now - (wall - peer.handshake)
    return _Seen(peer.handshake, min(max(at, before.looked if before else at), now), now)
