"""What the kernel does with sockets that stand still: which are found, what moves them, and who sees anything of it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from skedge.core.stalls import StallKind, messages, towards
from skedge.dataplane.ebpf.layout_placement import unpack_address
from skedge.dataplane.ebpf.stalled import StalledConnections

from .kit import HOST4, OVERLAY4, OVERLAY6, Site, eventually, run

PEER4, PEER6, UNROUTED4, UNROUTED6 = "100.64.0.9", "fd77::9", "100.64.0.10", "fd77::10"
PORT = 9999
CUT_S = 3.3  # sockets send again after 0.2, 0.6, 1.4, 3.0 and 6.2 s
QUICK_S = 1.5
IP_RECVERR, IPV6_RECVERR = 11, 25
ECHO = f"""
import os, socket, threading
def echo(one):
    while data := one.recv(64):
        one.sendall(data)
def serve(family, address):
    with socket.create_server((address, {PORT}), family=family) as server:
        os.write(1, b"ready\\n")
        while True:
            threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()
threading.Thread(target=serve, args=(socket.AF_INET6, "::"), daemon=True).start()
serve(socket.AF_INET, "0.0.0.0")
"""


@pytest.fixture
def peer(site: Site) -> Iterator[str]:
    """Another host behind a cable, that echoes; its namespace's name."""
    name = f"skc-peer-{os.getpid()}"
    with contextlib.ExitStack() as undo:
        run("ip", "netns", "add", name)
        undo.callback(run, "ip", "netns", "del", name)
        run("ip", "link", "add", "stalled0", "type", "veth", "peer", "name", "p0", "netns", name)
        undo.callback(run, "ip", "link", "del", "stalled0")
        run("ip", "link", "set", "stalled0", "up")
        run("ip", "-n", name, "link", "set", "p0", "up")
        run("ip", "addr", "add", "fe80::1/64", "dev", "stalled0", "nodad")
        run("ip", "-n", name, "addr", "add", "fe80::2/64", "dev", "p0", "nodad")
        for address in (PEER4, UNROUTED4):
            run("ip", "-n", name, "addr", "add", f"{address}/32", "dev", "p0")
            run("ip", "route", "add", address, "dev", "stalled0")
        for address in (PEER6, UNROUTED6):
            run("ip", "-n", name, "addr", "add", f"{address}/128", "dev", "p0", "nodad")
            run("ip", "route", "add", address, "via", "fe80::2", "dev", "stalled0")
        for own in (OVERLAY4, HOST4):
            run("ip", "-n", name, "route", "add", own, "dev", "p0")
        run("ip", "-n", name, "route", "add", OVERLAY6, "via", "fe80::1", "dev", "p0")
        server = subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True
        )
        undo.callback(server.wait)
        undo.callback(server.kill)
        assert server.stdout is not None
        assert [server.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        yield name


@dataclass
class Held:
    """One connection, and as what it is to be found."""

    made: socket.socket
    kind: StallKind | None
    no_delay: int

    def heard(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            return self.made.recv(64) == b"!"
        return False

    def error(self) -> int:
        """What the program that has it can see of errors, beside the queue of them."""
        with contextlib.suppress(BlockingIOError):
            return len(self.made.recvmsg(1, 1024, socket.MSG_ERRQUEUE)[1])
        return self.made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def hold(
    address: str, source: str, kind: StallKind | None, option: tuple[int, int] | None = None, no_delay: int = 0
) -> Held:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.bind((source, 0))
    made.connect((address, PORT))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, no_delay)
    if option is not None:
        made.setsockopt(*option, 1)
    made.sendall(b"?")
    assert made.recv(1) == b"?"
    made.setblocking(False)
    return Held(made, kind, no_delay)


@contextlib.contextmanager
def cut(peer: str) -> Iterator[None]:
    """Nothing arrives at the peer, and to two of its addresses there is no route."""
    rules = "table netdev cut { chain in { type filter hook ingress device p0 priority 0; policy drop; }; }"
    run("ip", "netns", "exec", peer, "nft", rules)
    for address in (UNROUTED4, UNROUTED6):
        run("ip", "route", "del", address)
        run("ip", "route", "add", "unreachable", address)
    try:
        yield
    finally:
        for address in (UNROUTED4, UNROUTED6):
            run("ip", "route", "del", "unreachable", address)
        run("ip", "route", "add", UNROUTED4, "dev", "stalled0")
        run("ip", "route", "add", UNROUTED6, "via", "fe80::2", "dev", "stalled0")
        run("ip", "netns", "exec", peer, "nft", "delete table netdev cut")


def test_what_is_told_goes_on_at_once(site: Site, peer: str) -> None:
    mapped, mapped_own = f"::ffff:{PEER4}", f"::ffff:{OVERLAY4}"
    four, six = (socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)
    held = [
        hold(PEER4, OVERLAY4, StallKind.SENT),
        hold(PEER6, OVERLAY6, StallKind.SENT, no_delay=1),
        hold(mapped, mapped_own, StallKind.SENT),
        hold(PEER4, OVERLAY4, StallKind.SEES_ERRORS, four),
        hold(PEER6, OVERLAY6, StallKind.SEES_ERRORS, six),
        hold(mapped, mapped_own, StallKind.SEES_ERRORS, four),
        hold(mapped, mapped_own, StallKind.SENT, six),  # its packets are IPv4: no error of them is of IPv6
        hold(UNROUTED4, OVERLAY4, StallKind.PUSHED),
        hold(UNROUTED4, OVERLAY4, StallKind.PUSHED, four, no_delay=1),
        hold(UNROUTED6, OVERLAY6, StallKind.PUSHED),
        hold(PEER4, HOST4, None),  # not over the overlay: somebody else's business
    ]
    stalls = StalledConnections(str(site.host.pins))
    assert stalls.sockets() == []
    with cut(peer):
        for one in held:
            one.made.send(b"!")
        time.sleep(CUT_S)
    found = stalls.sockets()
    kinds = {one.local_port: one.kind for one in found}
    assert [kinds.pop(one.made.getsockname()[1], None) for one in held] == [one.kind for one in held]
    assert kinds == {}
    assert {unpack_address(one.far) for one in found} == {PEER4, PEER6, UNROUTED4, UNROUTED6}
    assert towards([f"{PEER4}/32"], found) == [one for one in found if unpack_address(one.far) == PEER4]
    stalls.tell((one, messages(one, 16)) for one in found if one.kind is StallKind.SENT)
    told = time.monotonic()
    moved = [one for one in held if one.kind in (StallKind.SENT, StallKind.PUSHED)]
    waiting = [one for one in held if one not in moved]
    for one in moved:
        eventually(one.heard, f"{one.made}", QUICK_S)
    print(f"\n{len(moved)} moved within {time.monotonic() - told:.3f} s")
    assert not any(one.heard() for one in waiting)
    assert {one.error() for one in held} == {0}
    for one in held:
        assert one.made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == one.no_delay
    assert {one.kind for one in stalls.sockets()} == {StallKind.SEES_ERRORS}
    for one in held:
        one.made.close()
