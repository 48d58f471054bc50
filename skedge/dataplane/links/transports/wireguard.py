"""What is WireGuard's own of a link device: key, port, the far end as its peer, and where that is.

The far end is one peer with all traffic; what may come in is the packet check's business. While the far end changes
its key it is two peers, of which the one heard last has the traffic. Where the far end is, WireGuard finds out by
itself once it was heard (roaming), so an endpoint is only set when the configuration changed or nothing is heard.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from skedge.core.errors import DataplaneError, Waiting
from skedge.core.model import LinkId
from skedge.core.objects import LinkDevice
from skedge.core.observed import TunnelFacts
from skedge.dataplane.host.resolver import PeerResolver
from skedge.dataplane.links.device import Alias, kind, parse_alias
from skedge.dataplane.links.handshakes import Handshakes
from skedge.dataplane.links.transports.strategy import Strategy, used
from skedge.dataplane.links.wireguard_backend import (
    Backend,
    Endpoint,
    Own,
    OwnKey,
    Peer,
    PeerChange,
    Tunnel,
    carrier,
    fresh,
    heard_last,
)

TUN = Path("/dev/net/tun")
TURN_S = 6  # WireGuard tries a handshake every 5 s: then it is the other key's turn
ADDRESS_S = 15  # how long each address of a host name is tried
LOOK_S, LOOK_SOON_S = 2.0, 0.1  # how often devices are looked at; soon while a far end has two keys


@dataclass(frozen=True, slots=True)
class _Known:
    """A device of ours, as its alias says."""

    link: LinkId
    remote: str
    remote_port: int
    go: bool


class WireGuardLinks(Strategy):
    """Sets and reads the WireGuard part of link devices, of the kernel or of wireguard-go (kind tun)."""

    def __init__(self, key: OwnKey, kernel: Backend, go: Backend, resolver: PeerResolver | None = None) -> None:
        self._key = key
        self._backends = {False: kernel, True: go}
        self._resolver = resolver or PeerResolver()
        self._known: dict[str, _Known] = {}
        self._handshakes = Handshakes()

    def forget(self, name: str) -> None:
        """Forget a device that goes."""
        self._known.pop(name, None)
        self._handshakes.forget(name)

    # ---- creating -----------------------------------------------------------------------------------------------

    def shape(self, data: Any) -> Mapping[str, object]:  # noqa: ARG002 (key, port and peers may change)
        """Return no underlay, whatever the device says of one."""
        return {"underlay": ""}

    def refuse(self, want: LinkDevice) -> None:
        """Raise Waiting when the far end's key is not known here."""
        if not want.keys:
            far = f"{want.link.a} or {want.link.b}"
            raise Waiting(
                f"link {want.link}: the WireGuard key of its far end is not known at this site yet; "
                f"run deploy.yml for {far}, whichever is new, and then for both"
            )

    def lacking(self, name: str, kind: str) -> str:  # noqa: ARG002 (wireguard-go does as well)
        """Return what a kernel without WireGuard lacks for wireguard-go."""
        if not TUN.exists():
            return (
                f"this kernel has no WireGuard, and wireguard-go needs {TUN}, which is not there; "
                "load or install the module tun, or give the link transport: vxlan"
            )
        unit = f"skedge-wireguard@{name}.service"
        return (
            f"this kernel has no WireGuard, and wireguard-go does not run for the link (systemctl status {unit}); "
            "run deploy.yml for this host, or give the link transport: vxlan"
        )

    # ---- reading ------------------------------------------------------------------------------------------------

    def read(self, name: str, link: Any, device: LinkDevice) -> tuple[LinkDevice, bool]:
        """Return the device with what is WireGuard's, and whether key, peers and endpoint are right."""
        alias = _alias(link)
        device = replace(device, remote=alias.remote, remote_port=alias.remote_port)
        known = _Known(alias.link, alias.remote, alias.remote_port, kind(link) == "tun")
        self._known[name] = known
        try:
            tunnel = self._tunnel(name, known)
        except DataplaneError:
            return device, False
        keepalive = max((peer.keepalive_s for peer in tunnel.peers.values()), default=0)
        keys = tuple(sorted(tunnel.peers))
        device = replace(device, port=tunnel.port, keys=keys, keepalive_s=keepalive, mark=tunnel.mark)
        return device, self._right(known, tunnel)

    def _tunnel(self, name: str, known: _Known) -> Tunnel:
        """Return what a device is set to, its handshakes on the monotonic clock. Raises DataplaneError."""
        tunnel = self._backends[known.go].get(name)
        peers = self._handshakes.monotonic(name, tunnel.peers, time.monotonic(), time.time())
        return replace(tunnel, peers=peers)

    def _right(self, known: _Known, tunnel: Tunnel) -> bool:
        return (
            tunnel.public_key == self._key.public(self._key.read())
            and carrier(tunnel.peers) is not None
            and self._endpoints_right(known, tunnel)
        )

    def _endpoints_right(self, known: _Known, tunnel: Tunnel) -> bool:
        now = time.monotonic()
        if not known.remote or any(fresh(peer, now) for peer in tunnel.peers.values()):
            return True
        wanted = {(address, known.remote_port) for address in self._resolver.addresses(known.remote)}
        return all(peer.endpoint in wanted for peer in tunnel.peers.values())

    def underlay(self, name: str, device: LinkDevice) -> str:
        """Return the address that the device's packets go to, as far as it is known."""
        known = self._known.get(name)
        try:
            tunnel = self._backends[known.go].get(name) if known else None
        except DataplaneError:
            tunnel = None
        peers = tunnel.peers if tunnel else {}
        peer = peers.get(carrier(peers) or "")
        if peer is not None and peer.endpoint is not None:
            return peer.endpoint[0]
        return next(iter(self._resolver.addresses(device.remote)), "") if device.remote else ""

    def far_ends(self, name: str, device: LinkDevice) -> frozenset[str]:
        """Return where the far end may be: the addresses of its remote, and those that its keys were heard from."""
        known = self._known.get(name)
        try:
            tunnel = self._backends[known.go].get(name) if known else None
        except DataplaneError:
            tunnel = None
        heard = {peer.endpoint[0] for peer in tunnel.peers.values() if peer.endpoint} if tunnel else set()
        return frozenset({*heard, *(self._resolver.addresses(device.remote) if device.remote else ())})

    # ---- writing ------------------------------------------------------------------------------------------------

    def put(self, name: str, link: Any, want: LinkDevice) -> None:
        """Set key, port and peers of a device, before it is up."""
        before = _alias(link)
        moved = (before.remote, before.remote_port) != (want.remote, want.remote_port)
        known = _Known(want.link, want.remote, want.remote_port, kind(link) == "tun")
        backend = self._backends[known.go]
        tunnel, secret = self._tunnel(name, known), self._key.read()
        own = None if tunnel.public_key == self._key.public(secret) else secret
        port = None if tunnel.port == want.port else want.port
        if port is not None and known.go:
            _refuse_used(port, want)  # wireguard-go would only write it to its log
        changes = [PeerChange(key, remove=True) for key in tunnel.peers if key not in want.keys]
        left = {key: peer for key, peer in tunnel.peers.items() if key in want.keys}
        endpoint = self._endpoint(known, left, moved=moved)
        carries = carrier(left) or heard_last(left) or want.keys[0]
        for key in want.keys:
            change = _change(key, left.get(key), want.keepalive_s, endpoint, all_traffic=key == carries)
            changes += [change] if change is not None else []
        try:
            backend.set(name, secret=own, own=Own(port, None if tunnel.mark == want.mark else want.mark), peers=changes)
        except OSError as error:
            raise used(want) if error.errno == errno.EADDRINUSE else error from None
        self._known[name] = known

    def _endpoint(self, known: _Known, peers: Mapping[str, Peer], *, moved: bool) -> Endpoint | None:
        """Return the endpoint to set, None to leave what is there."""
        if not known.remote or (not moved and any(fresh(peer, time.monotonic()) for peer in peers.values())):
            return None
        addresses = self._resolver.addresses(known.remote)
        return (addresses[0], known.remote_port) if addresses else None

    def refuse_unresolved(self, want: LinkDevice) -> None:
        """Raise DataplaneError when the far end's name has no address; it may still call us meanwhile."""
        if want.remote and not self._resolver.addresses(want.remote):
            raise DataplaneError(
                f"link {want.link}: its remote {want.remote} does not resolve; correct the name, or this host's DNS"
            )

    # ---- following ----------------------------------------------------------------------------------------------

    def tend(self) -> tuple[Mapping[LinkId, TunnelFacts], float]:
        """Follow far ends that change key or address; return what the links do, and when to look again."""
        facts: dict[LinkId, TunnelFacts] = {}
        soon = False
        for name, known in list(self._known.items()):
            try:
                tunnel = self._tunnel(name, known)
                self._follow(name, known, tunnel)
            except (DataplaneError, OSError):
                continue  # the next comparison with the kernel says what is wrong
            soon |= len(tunnel.peers) > 1
            facts[known.link] = _facts(tunnel.peers)
        return facts, LOOK_SOON_S if soon else LOOK_S

    def _follow(self, name: str, known: _Known, tunnel: Tunnel) -> None:
        now, peers = time.monotonic(), tunnel.peers
        heard = any(fresh(peer, now) for peer in peers.values())
        carries = heard_last(peers) if heard else None
        if not heard and len(peers) > 1:
            carries = sorted(peers)[int(now // TURN_S) % len(peers)]
        endpoint = None if heard or not known.remote else self._turn(known, now)
        changes = [
            _change(key, peer, peer.keepalive_s, endpoint, all_traffic=key == carries) for key, peer in peers.items()
        ]
        wanted = [change for change in changes if change is not None]
        if known.go and tunnel.mark and not wanted:
            # It stays on the device that it heard the far end on, whatever the routes say; given an endpoint, it looks.
            wanted = [PeerChange(key, endpoint=peer.endpoint) for key, peer in peers.items() if peer.endpoint]
        if wanted:
            self._backends[known.go].set(name, peers=wanted)

    def _turn(self, known: _Known, now: float) -> Endpoint | None:
        addresses = self._resolver.addresses(known.remote)
        return (addresses[int(now // ADDRESS_S) % len(addresses)], known.remote_port) if addresses else None


def _alias(link: Any) -> Alias:
    return parse_alias(str(link.get_attr("IFLA_IFALIAS") or ""))


def _change(
    key: str, peer: Peer | None, keepalive_s: int, endpoint: Endpoint | None, *, all_traffic: bool
) -> PeerChange | None:
    """Return what to change of a peer, None when nothing is."""
    if peer is None:
        return PeerChange(key, endpoint=endpoint, keepalive_s=keepalive_s, all_traffic=all_traffic)
    change = PeerChange(
        key,
        endpoint=None if endpoint == peer.endpoint else endpoint,
        keepalive_s=None if keepalive_s == peer.keepalive_s else keepalive_s,
        all_traffic=all_traffic and carrier({key: peer}) is None,
    )
    return None if change == PeerChange(key) else change


def _facts(peers: Mapping[str, Peer]) -> TunnelFacts:
    one = peers.get(heard_last(peers) or next(iter(peers), ""), Peer())
    age = max(0.0, time.monotonic() - one.handshake) if one.handshake else None
    return TunnelFacts(age, _shown(one.endpoint), tuple(sorted(peers)))


def _shown(endpoint: Endpoint | None) -> str:
    if endpoint is None:
        return ""
    host, port = endpoint
    return f"[{host}]:{port}" if ip_address(host).version == 6 else f"{host}:{port}"


def _refuse_used(port: int, want: LinkDevice) -> None:
    families: Sequence[tuple[int, str]] = ((socket.AF_INET, ""), (socket.AF_INET6, "::"))
    for family, address in families:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise used(want) from None
