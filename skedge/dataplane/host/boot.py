"""What changes when this host loses all of its connections: with its boot, and with its network namespace."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = "/proc/thread-self/ns/net"
_SO_NETNS_COOKIE = 71
_LENGTH = 32


def namespace_cookie() -> int:
    """Return the kernel's name of this process' network namespace, which it never gives twice in a boot.

    Raises OSError.
    """
    with socket.socket() as sock:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)


def identity() -> str:
    """Return what names this life of the host's connections; a digest, as other sites are told it.

    Sockets and flows live in a network namespace. The boot alone does not tell that a container was started anew; its
    first process would, but is another one as well where only a container with its host's network was. So: the
    namespace. (Its inode, which is used again, only where the kernel has no cookie, before Linux 5.14.)
    """
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
        try:
            namespace = f"{namespace_cookie()}"
        except OSError:
            namespace = f"inode {os.stat(_NAMESPACE).st_ino}"
    except OSError:
        return ""
    return digest(boot, namespace)


def digest(boot: str, namespace: str) -> str:
    """Return the name of a life. A version that made another one of the same would look like a loss of power."""
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:_LENGTH]
