"""WireGuard as two implementations have it: the kernel's, and wireguard-go where the kernel has none.

Keys are 32 bytes in base64, as WireGuard's own tools write them. The private key is in no value that is compared,
described or logged: it is read from its file when a device gets it.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from skedge.core.errors import DataplaneError

EVERYTHING = ("0.0.0.0/0", "::/0")  # what may come in is the packet check's business
FRESH_S = 180  # a session that is used is renewed every two minutes, and ends after three

Endpoint = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer as a device has it; ``handshake`` is a time, 0 before the first.

    Backends tell the wall clock's time, `handshakes.Handshakes` makes monotonic seconds of it.
    """

    endpoint: Endpoint | None = None
    keepalive_s: int = 0
    handshake: float = 0.0
    allowed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Tunnel:
    """One device; an empty ``public_key``: it has no key yet. ``mark`` is that of its own packets, 0: none."""

    public_key: str
    port: int
    peers: Mapping[str, Peer] = field(default_factory=dict)
    mark: int = 0


@dataclass(frozen=True, slots=True)
class PeerChange:
    """What to change of a peer; None leaves it as it is. ``all_traffic`` takes the traffic from the other peer."""

    key: str
    remove: bool = False
    endpoint: Endpoint | None = None
    keepalive_s: int | None = None
    all_traffic: bool = False


@dataclass(frozen=True, slots=True)
class Own:
    """What to change of the device's own socket; None leaves it as it is."""

    port: int | None = None
    mark: int | None = None


NOTHING = Own()


class Backend(Protocol):
    """One implementation of WireGuard. Raises DataplaneError, and OSError with the kernel's own number."""

    def get(self, device: str) -> Tunnel:
        """Return what a device is set to."""
        ...

    def set(self, device: str, *, peers: Sequence[PeerChange], secret: bytes | None = None, own: Own = NOTHING) -> None:
        """Change a device; None leaves things as they are."""
        ...


@dataclass(frozen=True)
class OwnKey:
    """The host's key in its file, which a deployment makes and `rotate_keys.yml` replaces."""

    path: Path

    def read(self) -> bytes:
        """Return the private key. Raises DataplaneError, which never quotes what is in the file."""
        try:
            key = b64decode(self.path.read_text(encoding="ascii").strip(), validate=True)
        except OSError as error:
            reason = (error.strerror or "error").lower()
            raise DataplaneError(f"{self.path}: cannot be read ({reason}); run deploy.yml for this host") from None
        except (UnicodeDecodeError, binascii.Error):
            key = b""
        if len(key) != 32:
            raise DataplaneError(f"{self.path}: is no WireGuard key; remove it and run deploy.yml for this host")
        return key

    @staticmethod
    def public(secret: bytes) -> str:
        """Return the public key of a private one."""
        return b64encode(X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()).decode()


def fresh(peer: Peer, now: float) -> bool:
    """Return whether a peer has a session; ``now`` is on the clock of its handshake."""
    return peer.handshake != 0 and now - peer.handshake < FRESH_S


def heard_last(peers: Mapping[str, Peer]) -> str | None:
    """Return the peer with the newest handshake, None before the first."""
    heard = {key: peer.handshake for key, peer in peers.items() if peer.handshake}
    return max(heard, key=lambda key: heard[key]) if heard else None


def carrier(peers: Mapping[str, Peer]) -> str | None:
    """Return the peer that has the traffic, None when no one has all of it."""
    return next((key for key, peer in peers.items() if peer.allowed.issuperset(EVERYTHING)), None)
