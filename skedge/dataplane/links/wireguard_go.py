"""wireguard-go over its configuration socket: lines of key=value, one request a connection."""

from __future__ import annotations

import os
import socket
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.dataplane.links.wireguard_backend import EVERYTHING, NOTHING, Own, OwnKey, Peer, PeerChange, Tunnel

SOCKETS = Path("/run/skedge-wireguard")
TIMEOUT_S = 3.0


class WireGuardGo:
    """`wireguard.Backend` of wireguard-go, one process a device (`skedge-wireguard@.service`)."""

    def __init__(self, sockets: Path = SOCKETS) -> None:
        self._sockets = sockets

    def get(self, device: str) -> Tunnel:
        """Return what a device is set to."""
        return _tunnel(self._ask(device, "get=1\n"))

    def set(self, device: str, *, peers: Sequence[PeerChange], secret: bytes | None = None, own: Own = NOTHING) -> None:
        """Change a device."""
        lines = ["set=1"]
        if secret is not None:
            lines.append(f"private_key={secret.hex()}")
        if own.port is not None:
            lines.append(f"listen_port={own.port}")
        if own.mark is not None:
            lines.append(f"fwmark={own.mark}")
        for peer in peers:
            lines.extend(_change(peer))
        self._ask(device, "\n".join(lines) + "\n")

    def _ask(self, device: str, request: str) -> list[tuple[str, str]]:
        """Return the answer's lines. Errors never quote the request, which may hold a key."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(TIMEOUT_S)
                connection.connect(str(self._sockets / f"{device}.sock"))
                connection.sendall(request.encode() + b"\n")
                answer = _read(connection)
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            unit = f"skedge-wireguard@{device}.service"
            raise DataplaneError(
                f"device {device}: wireguard-go does not answer ({reason}); see systemctl status {unit}"
            ) from None
        code = next((value for key, value in answer if key == "errno"), "0")
        if code != "0":
            number = abs(int(code))
            raise OSError(number, os.strerror(number))
        return answer


def _read(connection: socket.socket) -> list[tuple[str, str]]:
    data = b""
    while not data.endswith(b"\n\n") and (more := connection.recv(65536)):
        data += more
    return [(key, value) for key, _, value in (line.partition("=") for line in data.decode().splitlines() if line)]


def _tunnel(answer: Sequence[tuple[str, str]]) -> Tunnel:
    own, key = dict[str, str](), ""
    peers: dict[str, list[tuple[str, str]]] = {}
    for name, value in answer:
        if name == "public_key":
            key = b64encode(bytes.fromhex(value)).decode()
            peers[key] = []
        elif key:
            peers[key].append((name, value))
        else:
            own[name] = value
    secret = bytes.fromhex(own.get("private_key", ""))
    public = OwnKey.public(secret) if any(secret) else ""
    found = {key: _peer(lines) for key, lines in peers.items()}
    return Tunnel(public, int(own.get("listen_port", 0)), found, int(own.get("fwmark", 0)))


def _peer(lines: Sequence[tuple[str, str]]) -> Peer:
    one = dict(lines)
    seconds, nanoseconds = one.get("last_handshake_time_sec", "0"), one.get("last_handshake_time_nsec", "0")
    endpoint = None
    if "endpoint" in one:
        host, _, port = one["endpoint"].rpartition(":")
        endpoint = (host.strip("[]"), int(port))
    return Peer(
        endpoint,
        int(one.get("persistent_keepalive_interval", 0)),
        int(seconds) + int(nanoseconds) / 1e9,
        frozenset(value for name, value in lines if name == "allowed_ip"),
    )


def _change(peer: PeerChange) -> Iterator[str]:
    yield f"public_key={b64decode(peer.key).hex()}"
    if peer.remove:
        yield "remove=true"
        return
    if peer.endpoint is not None:
        host, port = peer.endpoint
        yield f"endpoint=[{host}]:{port}" if ":" in host else f"endpoint={host}:{port}"
    if peer.keepalive_s is not None:
        yield f"persistent_keepalive_interval={peer.keepalive_s}"
    if peer.all_traffic:
        yield "replace_allowed_ips=true"
        yield from (f"allowed_ip={network}" for network in EVERYTHING)
