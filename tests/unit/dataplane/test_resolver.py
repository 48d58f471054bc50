"""Host names are looked up beside the caller, and what resolved once stays known."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from skedge.dataplane.host import resolver
from skedge.dataplane.host.resolver import PeerResolver

FOUND = [(socket.AF_INET6, 2, 17, "", ("fe80::1%eth0", 0, 0, 2))]
FOUND += [(socket.AF_INET6, 2, 17, "", ("fd00::2", 0, 0, 0)), (socket.AF_INET, 2, 17, "", ("10.0.0.2", 0))] * 2


def eventually(addresses: tuple[str, ...], made: PeerResolver, host: str) -> None:
    deadline = time.monotonic() + 5
    while made.addresses(host) != addresses:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_address_is_itself_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver.socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked"))
    assert PeerResolver().addresses("FD00:0::2") == ("fd00::2",)
    assert PeerResolver().addresses("10.0.0.2") == ("10.0.0.2",)


def test_a_name_is_known_at_once_and_link_local_addresses_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver.socket, "getaddrinfo", lambda *_, **__: FOUND)
    assert PeerResolver().addresses("b.example.com") == ("fd00::2", "10.0.0.2")


def test_a_slow_server_holds_nobody_up_and_its_answer_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def slow(*_: object, **__: object) -> list[object]:
        answer.wait(10)
        return FOUND

    monkeypatch.setattr(resolver.socket, "getaddrinfo", slow)
    monkeypatch.setattr(resolver, "WAIT_S", 0.05)
    made = PeerResolver()
    started = time.monotonic()
    assert made.addresses("b.example.com") == ()
    assert time.monotonic() - started < 2
    answer.set()
    eventually(("fd00::2", "10.0.0.2"), made, "b.example.com")


def test_what_resolved_once_stays_known_while_the_dns_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "VALID_S", 0.0)
    monkeypatch.setattr(resolver.socket, "getaddrinfo", lambda *_, **__: FOUND)
    made, asked = PeerResolver(), threading.Event()
    assert made.addresses("b.example.com") == ("fd00::2", "10.0.0.2")

    def down(*_: object, **__: object) -> list[object]:
        asked.set()
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(resolver.socket, "getaddrinfo", down)
    deadline = time.monotonic() + 5
    while not asked.is_set():
        assert made.addresses("b.example.com") == ("fd00::2", "10.0.0.2")
        assert time.monotonic() < deadline
    assert made.addresses("b.example.com") == ("fd00::2", "10.0.0.2")
    assert made.addresses("c.example.com") == ()
