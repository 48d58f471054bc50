"""The kernel's WireGuard, over generic netlink."""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any

from pyroute2 import WireGuard
from pyroute2.netlink.exceptions import NetlinkError

from skedge.core.errors import DataplaneError
from skedge.dataplane.host.netlink import kernel_errors
from skedge.dataplane.links.wireguard_backend import EVERYTHING, NOTHING, Own, Peer, PeerChange, Tunnel


class KernelWireGuard:
    """`wireguard.Backend` of the kernel; one socket a thread, in the network namespace of its first use."""

    def __init__(self) -> None:
        self._thread = threading.local()

    @property
    def _socket(self) -> Any:
        if not hasattr(self._thread, "socket"):
            with kernel_errors("open a WireGuard socket"):
                self._thread.socket = WireGuard()
        return self._thread.socket

    def close(self) -> None:
        """Close the calling thread's socket."""
        if hasattr(self._thread, "socket"):
            self._thread.socket.close()
            del self._thread.socket

    def get(self, device: str) -> Tunnel:
        """Return what a device is set to."""
        with kernel_errors(f"read WireGuard device {device}"):
            answers = list(self._socket.info(device))
        if not answers:
            raise DataplaneError(f"read WireGuard device {device}: it went away")
        key = answers[0].get_attr("WGDEVICE_A_PUBLIC_KEY")
        peers = {
            _text(peer.get_attr("WGPEER_A_PUBLIC_KEY")): _peer(peer)
            for answer in answers
            for peer in answer.get_attr("WGDEVICE_A_PEERS") or []
        }
        port, mark = (int(answers[0].get_attr(f"WGDEVICE_A_{what}") or 0) for what in ("LISTEN_PORT", "FWMARK"))
        return Tunnel(_text(key) if key else "", port, peers, mark)

    def set(self, device: str, *, peers: Sequence[PeerChange], secret: bytes | None = None, own: Own = NOTHING) -> None:
        """Change a device, one peer a message."""
        first: dict[str, object] = {}
        if secret is not None:
            first["private_key"] = b64encode(secret).decode()
        if own.port is not None:
            first["listen_port"] = own.port
        if own.mark is not None:
            first["fwmark"] = own.mark
        changes: list[dict[str, object]] = [{"peer": _change(peer)} for peer in peers]
        for change in ([first] if first else []) + changes:
            try:
                self._socket.set(device, **change)
            except NetlinkError as error:
                raise OSError(error.code, f"set WireGuard device {device}") from None


def _text(value: Any) -> str:
    """Return a key as text; pyroute2 answers with the attribute's fields or its value."""
    raw = value["value"] if isinstance(value, dict) else value
    return raw.decode() if isinstance(raw, bytes) else str(raw)


def _peer(peer: Any) -> Peer:
    endpoint = peer.get_attr("WGPEER_A_ENDPOINT")
    handshake = peer.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME") or {"tv_sec": 0, "tv_nsec": 0}
    return Peer(
        (str(endpoint["addr"]), int(endpoint["port"])) if endpoint else None,
        int(peer.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0),
        handshake["tv_sec"] + handshake["tv_nsec"] / 1e9,
        frozenset(_allowed(peer.get_attr("WGPEER_A_ALLOWEDIPS") or [])),
    )


def _allowed(items: Iterable[Any]) -> Iterable[str]:
    for item in items:
        if "addr" in item:
            yield str(item["addr"])


def _change(peer: PeerChange) -> dict[str, object]:
    change: dict[str, object] = {"public_key": peer.key}
    if peer.remove:
        return {**change, "remove": True}
    if peer.endpoint is not None:
        change |= {"endpoint_addr": peer.endpoint[0], "endpoint_port": peer.endpoint[1]}
    if peer.keepalive_s is not None:
        change["persistent_keepalive"] = peer.keepalive_s
    if peer.all_traffic:
        change |= {"replace_allowed_ips": True, "allowed_ips": list(EVERYTHING)}
    return change
