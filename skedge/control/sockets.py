"""Options that every socket of the controller gets."""

from __future__ import annotations

import logging
import socket

from skedge.core.names import SOCKET_MARK

log = logging.getLogger(__name__)

TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; not in Python's socket module
SO_BINDTODEVICE = socket.SO_BINDTODEVICE
_said: set[str] = set()


def exempt(sock: socket.socket) -> bool:
    """Mark the socket as the controller's own, so that its connections are never balanced; tell whether it worked.

    Needs CAP_NET_ADMIN (the unit has it). Without, the controller works, but its probes may meet its own listeners.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, SOCKET_MARK)
    except OSError as error:
        _once("SO_MARK", f"cannot mark own sockets ({error.strerror}); give the unit CAP_NET_ADMIN")
        return False
    return True


def bind_to_device(sock: socket.socket, device: str) -> None:
    """Tie the socket to a device beyond its scope id, where the kernel permits it.

    A link-local address with its scope id already ties it; this also holds for replies of other addresses.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, device.encode() + b"\0")
    except PermissionError:
        _once("SO_BINDTODEVICE", "cannot tie own sockets to devices; the scope id of their addresses must do")


def scoped(address: str, port: int, device: str) -> tuple[str, int, int, int]:
    """Return the socket address of a link-local address on a device. Raises OSError when the device is missing."""
    return (address, port, 0, socket.if_nametoindex(device))


def _once(topic: str, text: str) -> None:
    if topic not in _said:
        _said.add(topic)
        log.warning("%s", text)
