"""A site that was cut off comes back: what waited goes on at once, whoever sent it, and whatever it waited for."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import pytest

from .kit import PATIENCE, WORKLOADS, Line, Machine, Site, until

GOAL_S = 1.0
EACH = 3
KINDS = ("ask", "sees-errors", "stream", "late-client", "late-server")
WEB = {"service": "web", "host": "127.0.0.1", "port": 9090}
SERVED = [
    {"service": "four", "host": "127.0.0.1", "port": 9292},
    {"service": "six", "host": "::1", "port": 9292},
]
LISTENERS = [
    {"service": "web", "port": 8080},
    {"service": "four", "port": 8082},
    {"service": "six", "port": 8083},
]


@dataclass
class Held:
    """A client process with its connections, and where it is."""

    where: str
    process: subprocess.Popen[str]

    def result(self) -> Any:
        out, _ = self.process.communicate(timeout=60)
        return json.loads(out)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def hold(place: Site | Machine, where: str, host: str, port: int, kinds: Iterable[str], late: Path) -> Held:
    """Start a client in the place, in its cgroup where it is a site."""
    enter = f"echo $$ > {place.cgroup}/cgroup.procs && " if isinstance(place, Site) else ""
    command = ["nsenter", f"--net=/run/netns/{place.netns}", "/usr/bin/python3", str(WORKLOADS / "pulse.py"), "hold"]
    made = subprocess.Popen(
        ["sh", "-c", f'{enter}exec "$@"', "sh", *command, host, str(port), str(EACH), str(late), *kinds],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert made.stdout is not None
    assert made.stdout.readline() == "ready\n", where
    return Held(where, made)


def reached(line: Line, here: str, far: str) -> bool:
    return next(row.path_cost for row in line.sites[here].rows("sites") if row.name == far) is not None


def routed(line: Line, here: str, far: str) -> bool:
    """Whether a site's kernel has a way to another site."""
    address = next(row.overlay4 for row in line.sites[here].rows("sites") if row.name == far)
    return line.sites[here].inside("ip", "route", "get", address, check=False).returncode == 0


def resumed(log: str) -> Counter[str]:
    """How many connections a daemon says that it told, and how."""
    words = (word.split("=") for line in log.splitlines() if "op=resume told" in line for word in line.split()[3:])
    total: Counter[str] = Counter()
    for how, number in words:
        total[how] += int(number)
    return total


def prepare(line: Line, stack: ExitStack, late: Path) -> list[Held]:
    """Services at B, one at a machine of B's LAN; clients at A and at a machine of its LAN."""
    a, b = line.sites["a"], line.sites["b"]
    box, server = Machine(a, "box", "10.94.1"), Machine(b, "srv", "10.94.2")
    for machine in (box, server):
        stack.callback(machine.close)
    for address in ("127.0.0.1", "::1"):
        process = b.spawn("/usr/bin/python3", WORKLOADS / "pulse.py", "serve", address, 9292, late)
        stack.callback(process.wait)
        stack.callback(process.kill)
    server.spawn("/usr/bin/python3", WORKLOADS / "pulse.py", "serve", server.address, 9293, late)
    lan = {"service": "lan", "host": server.address, "port": 9293}
    b.write(connectors=[WEB, *SERVED, lan])
    a.write(listeners=[*LISTENERS, {"service": "lan", "port": 8084}])

    def put_back() -> None:
        for site in (a, b):
            site.write()
            site.reload()
        line.settle()

    stack.callback(put_back)
    for site in (a, b):
        site.reload()
    for service in ("four", "six", "lan"):
        until(lambda service=service: usable(a, service), 10, f"{service} at A")
    until(a.at_rest, 5, "A at rest")
    # a machine's own program that asks for errors of the network sees ours, as any router's
    return [
        hold(a, "socket over IPv4", "127.0.0.1", 8082, KINDS, late),
        hold(a, "socket over IPv6", "::1", 8083, KINDS, late),
        hold(a, "socket that is bound", f"{box.gateway}%{box.gateway}", 8082, KINDS, late),
        hold(a, "to a machine of B's LAN", "127.0.0.1", 8084, KINDS, late),
        hold(box, "from a machine of A's LAN", box.gateway, 8082, (one for one in KINDS if one != "sees-errors"), late),
    ]


def usable(site: Site, service: str) -> bool:
    answer = site.ask("explain", name=service).explain
    return answer is not None and [row.reason for row in answer.candidates] == ["none"]


def outage(line: Line, stack: ExitStack, late: Path, seconds: float) -> None:
    """Cut A off, and mend it so long after the routes were gone; all that was held goes on once the path is back."""
    a, b = line.sites["a"], line.sites["b"]
    held = prepare(line, stack, late)
    time.sleep(0.5)
    for far in "bc":
        line.cut("a", far)
        stack.callback(line.mend, "a", far)
    until(lambda: not reached(line, "a", "b") and not reached(line, "b", "a"), 3, "A is cut off")
    until(lambda: a.at_rest() and b.at_rest(), 3, "the routes are gone")
    late.touch()
    before = {site.name: site.log_size() for site in (a, b)}
    cut = time.monotonic()
    time.sleep(seconds)
    for far in "bc":
        line.mend("a", far)
    until(lambda: reached(line, "a", "b") and reached(line, "b", "a"), 5, "the path")
    until(lambda: routed(line, "a", "b") and routed(line, "b", "a"), 5, "the routes")
    back = time.monotonic()
    print(f"\nthe path is back {back - cut - seconds:.2f} s after the cables")
    time.sleep(PATIENCE * GOAL_S)
    stalls: dict[str, list[float]] = {}
    for one in held:
        result = one.result()
        assert result["lost"] == [], one.where
        for connection in result["connections"]:
            if connection["kind"] == "sees-errors":
                assert connection["errors"] == 0, one.where
            else:
                first = next((when for when in connection["times"] if when > cut), inf)
                stalls.setdefault(f"{one.where}, {connection['kind']}", []).append(first - back)
    for what, found in stalls.items():
        print(f"{what:45} {max(found):6.2f} s")
    assert {what: found for what, found in stalls.items() if max(found) == inf} == {}
    # which end is told of what was on its way at the cut is by who comes first: the answer of one moves the other
    for site in (a, b):
        until(lambda site=site: said_all(resumed(site.log_since(before[site.name]))), 5, f"what {site.name} says of it")
        print(site.name, dict(resumed(site.log_since(before[site.name]))))


def said_all(found: Counter[str]) -> bool:
    return found["told"] + found["pushed"] >= 2 * EACH and found["lan"] >= EACH


def test_all_goes_on_after_seconds(line: Line, stack: ExitStack, tmp_path: Path) -> None:
    outage(line, stack, tmp_path / "late", 5.0)


@pytest.mark.long
@pytest.mark.parametrize("seconds", [30.0, 120.0])
def test_all_goes_on_after_minutes(line: Line, stack: ExitStack, tmp_path: Path, seconds: float) -> None:
    outage(line, stack, tmp_path / "late", seconds)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_all_goes_on_after_ten_minutes(line: Line, stack: ExitStack, tmp_path: Path) -> None:
    outage(line, stack, tmp_path / "late", 600.0)
