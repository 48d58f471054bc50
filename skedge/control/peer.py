"""Who is at the other end of a Unix socket, as the kernel says it, and whether they may command."""

from __future__ import annotations

import grp
import pwd
import socket
import struct
from dataclasses import dataclass
from typing import Protocol

from skedge.core.errors import ApiError

ADMIN_GROUP = "skedge-admin"
_CREDENTIALS = struct.Struct("=iII")
_SO_PEERGROUPS = 59
_GROUP = struct.Struct("=I")
_GROUPS_BYTES = 1024  # the most that getsockopt takes here: 256 groups


class Socket(Protocol):
    """What tells its peer."""

    def getsockopt(self, level: int, option: int, length: int, /) -> bytes:
        """Return an option."""
        ...


@dataclass(frozen=True, slots=True)
class Peer:
    """A process as it was when it connected; ``groups`` are all of its groups. The default is nobody."""

    uid: int = 65534
    groups: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        """Return the user's name, or its number where it has none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid {self.uid}"


NOBODY = Peer()


def peer_of(connection: Socket) -> Peer:
    """Return who is at the other end. Raises OSError."""
    _, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:  # more groups than are asked for: then only the first one counts
        raw = b""
    return Peer(uid, frozenset({gid, *(number for (number,) in _GROUP.iter_unpack(raw))}))


def refuse_unless_admin(peer: Peer) -> None:
    """Let root and members of the group in. Raises ApiError for everyone else."""
    if peer.uid == 0:
        return
    try:
        admin = grp.getgrnam(ADMIN_GROUP).gr_gid
    except KeyError:
        admin = None
    if admin not in peer.groups:
        raise ApiError(f"{peer.name} may only look: commands are for root and members of the group {ADMIN_GROUP}")
