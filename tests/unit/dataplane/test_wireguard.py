"""What a WireGuard link sets and reads, on a device in memory; and wireguard-go's configuration socket."""

from __future__ import annotations

import socket
import threading
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from skedge.core.errors import DataplaneError
from skedge.core.model import LinkId
from skedge.core.objects import LinkDevice
from skedge.core.transports import Transport
from skedge.dataplane.host.resolver import PeerResolver
from skedge.dataplane.links.device import alias_of, parse_alias
from skedge.dataplane.links.transports import wireguard
from skedge.dataplane.links.transports.wireguard import WireGuardLinks
from skedge.dataplane.links.wireguard_backend import (
    EVERYTHING,
    FRESH_S,
    NOTHING,
    Own,
    OwnKey,
    Peer,
    PeerChange,
    Tunnel,
    carrier,
    heard_last,
)
from skedge.dataplane.links.wireguard_go import WireGuardGo

LINK = LinkId("a", "b", "main")
OLD, NEW = "old" + "A" * 40 + "=", "new" + "A" * 40 + "="
WANT = LinkDevice(
    LINK, Transport.WIREGUARD, "fe80::a", "fe80::b", remote="10.0.0.2", port=5001, remote_port=5002, keys=(OLD,)
)
NOW = 1_000_000.0


class Device:
    """A WireGuard device in memory, with the netlink message of the interface that it is."""

    def __init__(self) -> None:
        self.tunnel = Tunnel("", 0)
        self.alias = ""
        self.changes: list[PeerChange] = []

    def __getitem__(self, key: str) -> int:
        return 7

    def get_attr(self, name: str) -> Any:
        return {"IFLA_IFALIAS": self.alias, "IFLA_LINKINFO": self, "IFLA_INFO_KIND": "wireguard"}[name]

    def get(self, device: str) -> Tunnel:
        return self.tunnel

    def set(self, device: str, *, peers: Sequence[PeerChange], secret: bytes | None = None, own: Own = NOTHING) -> None:
        self.changes = list(peers)
        now = dict(self.tunnel.peers)
        for change in peers:
            if change.remove:
                del now[change.key]
                continue
            peer = now.get(change.key, Peer())
            if change.all_traffic:
                now = {key: replace(other, allowed=frozenset()) for key, other in now.items()}
                peer = replace(peer, allowed=frozenset(EVERYTHING))
            endpoint = peer.endpoint if change.endpoint is None else change.endpoint
            keepalive = peer.keepalive_s if change.keepalive_s is None else change.keepalive_s
            now[change.key] = replace(peer, endpoint=endpoint, keepalive_s=keepalive)
        key = self.tunnel.public_key if secret is None else OwnKey.public(secret)
        port, mark = (
            self.tunnel.port if own.port is None else own.port,
            self.tunnel.mark if own.mark is None else own.mark,
        )
        self.tunnel = Tunnel(key, port, now, mark)

    def hear(self, key: str, at: float, endpoint: tuple[str, int] | None = None) -> None:
        """Let the far end make a handshake."""
        peer = self.tunnel.peers[key]
        peers = {**self.tunnel.peers, key: replace(peer, handshake=at, endpoint=endpoint or peer.endpoint)}
        self.tunnel = replace(self.tunnel, peers=peers)


class Names(PeerResolver):
    """A resolver that knows what it is told."""

    def __init__(self) -> None:
        self.known = {"b.example.com": ("10.0.0.9",), "10.0.0.2": ("10.0.0.2",), "10.0.0.3": ("10.0.0.3",)}

    def addresses(self, host: str) -> tuple[str, ...]:
        return self.known.get(host, ())


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "wireguard.key"
    path.write_text(b64encode(X25519PrivateKey.generate().private_bytes_raw()).decode() + "\n")
    return path


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def links(device: Device, key: Path, monkeypatch: pytest.MonkeyPatch) -> WireGuardLinks:
    monkeypatch.setattr(wireguard.time, "time", lambda: NOW)
    return WireGuardLinks(OwnKey(key), device, device, Names())


def put(links: WireGuardLinks, device: Device, want: LinkDevice) -> None:
    links.put("sk-b", device, want)
    device.alias = alias_of(want)  # as the driver does next


def read(links: WireGuardLinks, device: Device) -> tuple[LinkDevice, bool]:
    bare = LinkDevice(LINK, Transport.WIREGUARD, "fe80::a", "fe80::b")
    return links.read("sk-b", device, bare)


def test_what_is_put_is_read(links: WireGuardLinks, device: Device) -> None:
    for want in (WANT, replace(WANT, keepalive_s=25), replace(WANT, remote="", remote_port=0), replace(WANT, port=9)):
        put(links, device, want)
        assert read(links, device) == (want, True)
        put(links, device, want)
        assert device.changes == []
    assert device.tunnel.peers[OLD].allowed == frozenset(EVERYTHING)


def test_the_mark_of_a_link_that_is_bound_is_set_and_taken_back(links: WireGuardLinks, device: Device) -> None:
    for want in (replace(WANT, mark=0x70001389), WANT):
        put(links, device, want)
        assert device.tunnel.mark == want.mark
        assert read(links, device) == (want, True)


def test_another_key_of_the_host_is_a_difference(links: WireGuardLinks, device: Device, key: Path) -> None:
    put(links, device, WANT)
    key.write_text(b64encode(bytes(range(32))).decode())
    assert read(links, device) == (WANT, False)
    put(links, device, WANT)
    assert read(links, device) == (WANT, True)


def test_a_far_end_that_moved_is_no_difference_while_it_is_heard(
    links: WireGuardLinks, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(links, device, WANT)
    device.hear(OLD, NOW - 100, ("192.0.2.7", 999))
    assert read(links, device) == (WANT, True)
    put(links, device, WANT)
    assert device.tunnel.peers[OLD].endpoint == ("192.0.2.7", 999)
    later = wireguard.time.monotonic() + 100
    monkeypatch.setattr(wireguard.time, "monotonic", lambda: later)
    assert read(links, device) == (WANT, False)
    links.tend()
    assert device.tunnel.peers[OLD].endpoint == ("10.0.0.2", 5002)
    device.hear(OLD, NOW - 1, ("192.0.2.7", 999))
    put(links, device, replace(WANT, remote="10.0.0.3"))  # the operator said another
    assert device.tunnel.peers[OLD].endpoint == ("10.0.0.3", 5002)


def test_of_two_keys_the_one_heard_last_has_the_traffic(links: WireGuardLinks, device: Device) -> None:
    put(links, device, WANT)
    device.hear(OLD, NOW - 50)
    both = replace(WANT, keys=tuple(sorted((OLD, NEW))))
    put(links, device, both)
    assert carrier(device.tunnel.peers) == OLD
    assert read(links, device) == (both, True)
    assert links.tend()[1] == wireguard.LOOK_SOON_S
    assert carrier(device.tunnel.peers) == OLD
    device.hear(NEW, NOW - 1)
    facts, _ = links.tend()
    assert carrier(device.tunnel.peers) == NEW
    assert (facts[LINK].handshake_s, facts[LINK].keys) == (pytest.approx(1.0, abs=0.5), both.keys)
    put(links, device, replace(WANT, keys=(NEW,)))
    assert set(device.tunnel.peers) == {NEW}
    assert links.tend()[1] == wireguard.LOOK_S


@pytest.mark.parametrize("jump", [86400.0, -86400.0])
def test_a_wall_clock_that_is_set_changes_nothing(
    links: WireGuardLinks, device: Device, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """The far end is where it was heard from last, not where the configuration has it, and silence is noticed."""
    put(links, device, WANT)
    device.hear(OLD, NOW - 5, ("10.9.9.9", 7))
    start = wireguard.time.monotonic()
    monkeypatch.setattr(wireguard.time, "monotonic", lambda: start)
    assert read(links, device)[1]
    monkeypatch.setattr(wireguard.time, "time", lambda: NOW + jump)
    facts, _ = links.tend()
    assert read(links, device)[1]
    assert device.tunnel.peers[OLD].endpoint == ("10.9.9.9", 7)
    assert facts[LINK].handshake_s == pytest.approx(5.0)
    device.hear(OLD, NOW + jump + 1, ("10.9.9.9", 7))
    monkeypatch.setattr(wireguard.time, "time", lambda: NOW + jump + 2)
    monkeypatch.setattr(wireguard.time, "monotonic", lambda: start + 2)
    assert links.tend()[0][LINK].handshake_s == pytest.approx(1.0)
    monkeypatch.setattr(wireguard.time, "monotonic", lambda: start + 2 + FRESH_S)
    links.tend()
    assert device.tunnel.peers[OLD].endpoint != ("10.9.9.9", 7), "where it was configured to be is tried again"


def test_two_keys_that_are_not_heard_take_turns(
    links: WireGuardLinks, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(links, device, replace(WANT, keys=tuple(sorted((OLD, NEW)))))
    carriers = set()
    for step in range(2):
        monkeypatch.setattr(wireguard.time, "monotonic", lambda step=step: 1000.0 + step * wireguard.TURN_S)
        links.tend()
        carriers.add(carrier(device.tunnel.peers))
    assert carriers == {OLD, NEW}


def test_the_key_of_a_removed_peer_takes_its_traffic_along(links: WireGuardLinks, device: Device) -> None:
    put(links, device, WANT)
    put(links, device, replace(WANT, keys=(NEW,)))
    assert carrier(device.tunnel.peers) == NEW
    assert heard_last(device.tunnel.peers) is None


def test_a_name_that_does_not_resolve_is_said_and_the_rest_is_set(links: WireGuardLinks, device: Device) -> None:
    unknown = replace(WANT, remote="nobody.example.com")
    put(links, device, unknown)
    assert device.tunnel.port == 5001
    assert read(links, device) == (unknown, False)
    with pytest.raises(DataplaneError, match=r"its remote nobody\.example\.com does not resolve; correct the name"):
        links.refuse_unresolved(unknown)
    links.refuse_unresolved(replace(WANT, remote="b.example.com"))
    put(links, device, replace(WANT, remote="b.example.com"))
    assert device.tunnel.peers[OLD].endpoint == ("10.0.0.9", 5002)


@pytest.mark.parametrize("mtu", [0, 1400])
@pytest.mark.parametrize("remote", ["", "10.0.0.2", "fd00::2", "b.example.com"])
def test_the_alias_says_what_was_configured(mtu: int, remote: str) -> None:
    alias = parse_alias(alias_of(replace(WANT, mtu=mtu, remote=remote, remote_port=5002 if remote else 0)))
    assert (alias.link, alias.auto_mtu, alias.remote) == (LINK, not mtu, remote)
    assert alias.remote_port == (5002 if remote else 0)


def test_the_longest_names_fit_into_an_alias() -> None:
    name = "n" * 63
    longest = replace(WANT, link=LinkId(name, name, "m" * 40), remote="r" * (220 - 166), remote_port=65535)
    assert len(alias_of(longest)) <= 255


# ---- wireguard-go ----------------------------------------------------------------------------------------------


class Go(threading.Thread):
    """wireguard-go's side of the socket: one answer, and what it was asked."""

    def __init__(self, path: Path, answer: str) -> None:
        super().__init__(daemon=True)
        self.asked, self._answer = "", answer
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(1)
        self.start()

    def run(self) -> None:
        with self._server, self._server.accept()[0] as client:
            while not self.asked.endswith("\n\n"):
                self.asked += client.recv(4096).decode()
            client.sendall(self._answer.encode())


@pytest.fixture
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return tmp_path_factory.mktemp("s")


def test_wireguard_go_is_read(sockets: Path) -> None:
    secret = bytes(range(1, 33))
    Go(
        sockets / "sk-b.sock",
        f"private_key={secret.hex()}\nlisten_port=5001\nfwmark=7\npublic_key={'ab' * 32}\nendpoint=[fd00::2]:5002\n"
        "last_handshake_time_sec=100\nlast_handshake_time_nsec=500000000\npersistent_keepalive_interval=25\n"
        f"allowed_ip=0.0.0.0/0\nallowed_ip=::/0\npublic_key={'cd' * 32}\nerrno=0\n\n",
    )
    one, other = (b64encode(bytes.fromhex(pair * 32)).decode() for pair in ("ab", "cd"))
    tunnel = WireGuardGo(sockets).get("sk-b")
    assert (tunnel.public_key, tunnel.port, tunnel.mark) == (OwnKey.public(secret), 5001, 7)
    assert tunnel.peers[one] == Peer(("fd00::2", 5002), 25, 100.5, frozenset(EVERYTHING))
    assert tunnel.peers[other] == Peer()


def test_wireguard_go_is_set(sockets: Path) -> None:
    go = Go(sockets / "sk-b.sock", "errno=0\n\n")
    one, other = (b64encode(bytes.fromhex(pair * 32)).decode() for pair in ("ab", "cd"))
    changes = [PeerChange(one, remove=True), PeerChange(other, False, ("fd00::2", 9), 25, all_traffic=True)]
    WireGuardGo(sockets).set("sk-b", secret=bytes(32), own=Own(5001, 0x70001389), peers=changes)
    assert go.asked.splitlines() == [
        "set=1", f"private_key={'00' * 32}", "listen_port=5001", "fwmark=1879053193",
        f"public_key={'ab' * 32}", "remove=true",
        f"public_key={'cd' * 32}", "endpoint=[fd00::2]:9", "persistent_keepalive_interval=25",
        "replace_allowed_ips=true", "allowed_ip=0.0.0.0/0", "allowed_ip=::/0", "",
    ]  # fmt: skip


def test_errors_of_wireguard_go_never_quote_the_key(sockets: Path) -> None:
    secret = bytes(range(1, 33))
    with pytest.raises(DataplaneError, match=r"wireguard-go does not answer .* skedge-wireguard@sk-b\.service") as no:
        WireGuardGo(sockets).set("sk-b", secret=secret, own=Own(1), peers=[])
    Go(sockets / "sk-b.sock", "errno=-98\n\n")
    with pytest.raises(OSError, match="in use") as used:
        WireGuardGo(sockets).set("sk-b", secret=secret, own=Own(1), peers=[])
    assert secret.hex() not in f"{no.value!r} {used.value!r}"


def test_a_file_that_is_no_key_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "wireguard.key"
    for text in ("hunter2", "", "é", b64encode(b"short").decode()):
        path.write_text(text)
        with pytest.raises(DataplaneError, match=r"wireguard\.key: is no WireGuard key; remove it") as refused:
            OwnKey(path).read()
        assert not text or text not in str(refused.value)
