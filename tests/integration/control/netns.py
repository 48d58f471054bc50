"""Two network namespaces with one link between them, and asyncio loops that live in them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_number = itertools.count()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Place:
    """One namespace and an event loop in a thread inside it."""

    def __init__(self, name: str, device: str, link_local: str, overlay: str) -> None:
        self.name, self.device, self.link_local, self.overlay = name, device, link_local, overlay
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._ready = threading.Event()
        self._failure: OSError | None = None

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)
        if self._failure:
            raise self._failure

    def stop(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(10)
        self.loop.close()

    def _live(self) -> None:
        descriptor = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        if _libc.setns(descriptor, CLONE_NEWNET):
            self._failure = OSError(ctypes.get_errno(), f"setns {self.name}")
        os.close(descriptor)
        self._ready.set()
        if not self._failure:
            asyncio.set_event_loop(self.loop)
            self.loop.run_forever()

    def do(self, work: Coroutine[Any, Any, T], within: float = 30.0) -> T:
        """Run a coroutine in the namespace."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(within)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in the namespace's loop."""

        async def work() -> T:
            return function(*args)

        return self.do(work())

    def nft(self, *rules: str) -> None:
        script = "\n".join(["table inet trial", "delete table inet trial", *rules])
        subprocess.run(
            ["ip", "netns", "exec", self.name, "nft", "-f", "-"],
            input=script,
            check=True,
            capture_output=True,
            text=True,
        )

    def drop(self, share: float) -> None:
        """Drop that share of what arrives (1: everything, silently)."""
        if not share:
            return self.nft()
        condition = "drop" if share >= 1 else f"numgen random mod 10000 < {round(share * 10000)} drop"
        return self.nft(
            "table inet trial {",
            f" chain arrive {{ type filter hook prerouting priority -300; {condition}; }}",
            "}",
        )


def netem(namespace: str, device: str, *words: str) -> None:
    """Delay and lose what leaves by a device, as tc-netem(8) says; no words take it back."""
    tc = ["tc", "-n", namespace, "qdisc"]
    subprocess.run([*tc, "del", "dev", device, "root"], capture_output=True, check=False)
    if words:
        subprocess.run([*tc, "add", "dev", device, "root", "netem", *words], capture_output=True, check=True)


def has_netem() -> bool:
    """Tell whether this kernel can do that; its module is loaded on the way where there is one."""
    name = f"skn{os.getpid() % 100000}"
    try:
        ip("netns", "add", name)
        netem(name, "lo", "delay", "1ms")
    except subprocess.CalledProcessError:
        return False
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    return True


class Ping:
    """ping(8) in a namespace: what a probe's round trip is compared with, on a machine that may be busy."""

    def __init__(self, namespace: str, address: str, seconds: float) -> None:
        words = ["ip", "netns", "exec", namespace, "ping", "-n", "-i", "0.2", "-w", str(round(seconds)), address]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    def mean_ms(self) -> float:
        """Wait until its time is over; return the mean round trip."""
        said, _ = self._process.communicate(timeout=300)
        times = [float(word) for word in re.findall(r"time=([\d.]+) ms", said)]
        assert len(times) > 10, said
        return sum(times) / len(times)

    def close(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.wait(10)


class Pair:
    """Sites edge-a and edge-b, joined by a veth pair with link-local addresses and overlay addresses on lo."""

    def __init__(self) -> None:
        tag = f"skc{os.getpid() % 100000}n{next(_number)}"
        self.a = Place(f"{tag}a", "sk-edge-b-0001", "fe80::a", "100.64.77.1")
        self.b = Place(f"{tag}b", "sk-edge-a-0001", "fe80::b", "100.64.77.2")

    def build(self) -> None:
        for place in (self.a, self.b):
            ip("netns", "add", place.name)
        self.connect()
        for place, other in ((self.a, self.b), (self.b, self.a)):
            ip("-n", place.name, "link", "set", "lo", "up")
            ip("-n", place.name, "addr", "add", f"{place.overlay}/32", "dev", "lo")
            self._route(place, other)
            place.start()

    def connect(self) -> None:
        """Make the veth pair (again)."""
        ip(
            "-n", self.a.name, "link", "add", self.a.device, "type", "veth",
            "peer", "name", self.b.device, "netns", self.b.name,
        )  # fmt: skip
        for place in (self.a, self.b):
            ip("-n", place.name, "addr", "add", f"{place.link_local}/64", "dev", place.device, "nodad")
            ip("-n", place.name, "link", "set", place.device, "up")

    def disconnect(self) -> None:
        ip("-n", self.a.name, "link", "del", self.a.device)

    def _route(self, place: Place, other: Place) -> None:
        ip(
            "-n", place.name, "route", "add", f"{other.overlay}/32", "via", "inet6", other.link_local,
            "dev", place.device, "src", place.overlay,
        )  # fmt: skip

    def cut(self) -> None:
        """Cut the link silently: nothing that is sent arrives, the carrier stays."""
        self.a.drop(1)
        self.b.drop(1)

    def mend(self) -> None:
        self.a.drop(0)
        self.b.drop(0)

    def destroy(self) -> None:
        for place in (self.a, self.b):
            place.stop()
            subprocess.run(["ip", "netns", "del", place.name], check=False, capture_output=True)


@contextlib.contextmanager
def pair() -> Iterator[Pair]:
    it = Pair()
    try:
        it.build()
        yield it
    finally:
        it.destroy()


def wait(condition: Callable[[], bool], within: float, what: str) -> float:
    """Wait for a condition; return the seconds it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < within, f"{what}: not within {within} s"
        time.sleep(0.002)
    return time.monotonic() - start
