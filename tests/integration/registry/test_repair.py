"""How soon the controller's own loop repairs what somebody else changed, and what leaves the host meanwhile."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
import time
from contextlib import closing, suppress

import pytest

from skedge.core.desired.kinds import TRAFFIC_S
from skedge.daemon.kernel.worker import Worker
from skedge.dataplane.host.watch import HostWatch

from .faults import FAULTS, HERE, SITE, B, Fault
from .kit import Host
from .world import full

PATIENCE = 4  # for a machine that others load too
TIMED = (
    "rule inet deleted",
    "route deleted",
    "clsact deleted",
    "nft flush ruleset",
    "listener deleted",
    "lo forwarding",
    "link rp_filter",
    "link program detached",
    "slot's cost",
    "overlay address deleted",
)


class Loop:
    """The worker and the watch in a loop of their own, in the host's namespace, joined as the daemon joins them."""

    def __init__(self, host: Host) -> None:
        self._host, self._ready = host, threading.Event()
        self.drifts: list[tuple[float, str]] = []
        self.runs: list[tuple[float, tuple[str, ...], dict[str, str]]] = []  # when, what was changed, what failed
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    async def _run(self) -> None:
        loop, world = asyncio.get_running_loop(), full()
        self._stop = asyncio.Event()
        self._loop = loop
        await loop.run_in_executor(None, lambda: None)
        watch = self._host.ns(HostWatch)
        worker = Worker(self._host.kernel, self._applied)
        worker._thread = self._host.ns._pool  # the kernel's thread must live in the namespace

        def changed() -> None:
            changes = watch.read()
            if changes.nftables or changes.lost:
                self._host.kernel.host.forget()
            if changes.compare:
                worker.again()

        loop.add_reader(watch.fileno(), changed)
        task = asyncio.ensure_future(worker.run())
        worker.want(*await loop.run_in_executor(None, self._host.wish, world), allow_delete=True)
        await self._stop.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        loop.remove_reader(watch.fileno())
        watch.close()

    def _applied(self, applied, _took_s: float) -> None:
        self.runs.append((time.monotonic(), applied.changed, dict(applied.failed)))
        self.drifts += [(time.monotonic(), one.kind) for one in applied.drift]
        self._ready.set()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)


@pytest.fixture(scope="module")
def settled(host: Host) -> Host:
    world = full()
    host.build(world)
    for _ in range(2):
        assert host.apply(host.wish(world)).failed == {}
    return host


def repaired(loop: Loop, host: Host, fault: Fault) -> float:
    """Strike; return after how many seconds the object was right again."""
    known = len(loop.drifts)
    fault.strike(host)
    struck = time.monotonic()
    while not [kind for _, kind in loop.drifts[known:] if kind == fault.kind]:
        assert time.monotonic() - struck < PATIENCE * TRAFFIC_S, f"{fault.name}: not repaired; {loop.runs[-5:]}"
        time.sleep(0.01)
    return time.monotonic() - struck


def test_what_carries_traffic_is_back_in_time(settled: Host) -> None:
    """Struck again and again, also while the loop looks whether its own last repair holds."""
    faults = {one.name: one for one in FAULTS}
    with closing(Loop(settled)) as loop:
        for name in TIMED:
            times = []
            for wait_s in (0.3, 1.1):
                time.sleep(wait_s)
                times.append(repaired(loop, settled, faults[name]))
                if faults[name].after:
                    settled.ns.sh(faults[name].after)
            print(f"repaired: {name}: {' '.join(f'{one:.2f}' for one in times)} s")


# ---- while rules are gone ---------------------------------------------------------------------------------------


def sent(host: Host, address: str) -> list[str]:
    """Send a datagram and open a connection to an overlay address; return what became of each, and what left."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def act() -> list[str]:
        outcome = []
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as tap:
            tap.bind(("eth0", 0))
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                with socket.socket(family, kind) as client:
                    client.settimeout(0.3)
                    try:
                        client.connect((address, 9))
                        client.send(b"x" * 99)
                        outcome.append("sent")
                    except OSError as error:
                        outcome.append(errno.errorcode.get(error.errno or 0, str(error)))
            packed = socket.inet_pton(family, address)
            tap.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    frame = tap.recv(2048)
                    if packed in frame[14:54]:
                        outcome.append("in the clear")
        return outcome

    return host.ns(act)


@pytest.mark.parametrize("address", [B.overlay4, B.overlay6])
@pytest.mark.parametrize("gone", ["rules", "rules and routes"])
def test_nothing_leaves_in_the_clear_while_our_rules_are_gone(settled: Host, address: str, gone: str) -> None:
    assert HERE.overlay4 in settled.ns.sh(f"ip route get {B.overlay4}"), "by our table"
    family = 6 if ":" in address else 4
    flush = f"ip -{family} route flush table 7400;" if gone != "rules" else ""
    settled.ns.sh(f"{flush} for pref in 7400 7401 7402 7403 7404; do"
                  f" while ip -{family} rule del pref $pref 2>/dev/null; do :; done; done")  # fmt: skip
    refused = settled.ns.sh(f"ip route get {address} 2>&1; true")
    assert "unreachable" in refused or "No route to host" in refused, refused
    assert {"EHOSTUNREACH", "ENETUNREACH"} >= set(sent(settled, address)), "refused at once, and nothing left"
    net = SITE["b4" if family == 4 else "net6"]
    settled.ns.sh(f"ip -{family} route del unreachable {net} table main metric 65535")
    assert "in the clear" in sent(settled, address), "the test itself: without the last route it would have left"
    assert settled.apply(settled.wish(full())).failed == {}
    assert "in the clear" not in sent(settled, address)
