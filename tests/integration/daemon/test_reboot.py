"""The host of a site that serves and is transit goes down in order and comes back, while clients come elsewhere."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from .kit import WORKLOADS, Clients, Line, Site, until

RATE = 100
OFF_S = 3.5  # longer than a link may be silent without being taken for a host that booted


class Load:
    """Clients that come at a steady rate."""

    def __init__(self, site: Site) -> None:
        self._stop, self._out = site.directory / "rate.stop", site.directory / f"rate{time.monotonic_ns()}.json"
        self._stop.unlink(missing_ok=True)
        rate = ("/usr/bin/python3", WORKLOADS / "rate.py", "127.0.0.1", 8080, RATE, self._stop)
        self._process = site.spawn(*rate, log=self._out)

    def end(self) -> dict[str, Any]:
        Path(self._stop).touch()
        self._process.wait(60)
        return json.loads(self._out.read_text())


def power_off(line: Line, site: Site) -> None:
    """Stop the site's daemon and take from its kernel what a boot takes: devices, addresses, routes, rules, pins."""
    assert site.daemon is not None
    if site.daemon.poll() is None:
        site.daemon.terminate()
        site.daemon.wait(20)
    for a, b in (("a", "b"), ("b", "c")):
        line.cut(a, b)
    devices = site.inside("sh", "-c", "ls /sys/class/net | grep ^sk- || true").stdout.split()
    listed = json.loads(site.inside("ip", "-j", "link").stdout)
    for device in devices or [one["ifname"] for one in listed if one["ifname"].startswith("sk-")]:
        site.inside("ip", "link", "del", device, check=False)
    for family in ("-4", "-6"):
        for table in (7400, 7401, 7402):
            site.inside("ip", family, "route", "flush", "table", table, check=False)
            site.inside("ip", family, "rule", "del", "pref", table, check=False)
    site.inside("ip", "addr", "flush", "dev", "lo", "scope", "global", check=False)
    site.inside("nft", "delete", "table", "inet", "skedge", check=False)
    for pin in sorted(site.pin_dir.rglob("*"), reverse=True):
        pin.rmdir() if pin.is_dir() else pin.unlink()
    site.unserve()


def power_on(line: Line, site: Site) -> None:
    for a, b in (("a", "b"), ("b", "c")):
        line.mend(a, b)
    site.load()
    site.start()
    site.serve()


def back(line: Line, site: Site, load: Load) -> None:
    """Switch the site on while clients come, and wait until all use it again; none of them may notice."""
    a = line.sites["a"]
    again = retried(a)
    power_on(line, site)
    until(lambda: a.reasons()["b"] == "none" and a.candidates()["c"].path == ("a", "b", "c"), 20, "B is back")
    until(a.at_rest, 10, "and in A's kernel")
    time.sleep(0.5)
    told = load.end()
    assert told["failures"] == [], told["failures"][:10]
    assert told["answers"].get("b", 0) > 0
    assert retried(a) - again <= 5, "nor did connects wait for an answer"


def retried(site: Site) -> int:
    """Return how many SYNs the site's host sent once more, as the first one was not answered within a second."""
    return int(site.inside("nstat", "-asz", "TcpExtTCPSynRetrans").stdout.split()[-2])


LONG = pytest.param(10, marks=[pytest.mark.long, pytest.mark.timeout(900)])


@pytest.mark.parametrize("times", [1, LONG])
def test_reboots_of_a_site_that_serves_and_is_transit_are_not_seen_by_clients(
    line: Line, clients: Clients, times: int
) -> None:
    a, b = line.sites["a"], line.sites["b"]
    clients.open(60)
    for _ in range(times):
        load = Load(a)
        time.sleep(0.3)
        b.skedge("leave")
        clients.do("close", "b")
        assert a.reasons()["b"] == "drained"
        assert a.candidates()["c"].path == ("a", "c")
        power_off(line, b)
        until(lambda: a.reasons()["b"] == "unreachable", 5, "A knows that B is off")
        time.sleep(OFF_S)
        back(line, b, load)
        assert clients.do("check")["dead"] == 0
    assert "op=arrived" in b.log_since(0)


@pytest.mark.parametrize("times", [1, LONG])
def test_a_site_that_lost_its_power_is_used_again_when_it_can_be(line: Line, clients: Clients, times: int) -> None:
    a, b = line.sites["a"], line.sites["b"]
    clients.open(60)
    for _ in range(times):
        clients.do("close", "b")  # what it has is lost with its power; now new ones go to it first
        b.kill()
        power_off(line, b)
        until(lambda: a.reasons()["b"] == "unreachable", 5, "A knows that B is off")
        time.sleep(OFF_S)
        back(line, b, Load(a))
        assert clients.do("check")["dead"] == 0
